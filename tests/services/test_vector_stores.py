"""Vector stores below HTTP, worked on step by step."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import stamina
from tests.server.conftest import write_project

from flowbed.bed import aopen
from flowbed.errors import NotFound, Rejected, Transient
from flowbed.ledger import KeyRow
from flowbed.ledger.vector_stores import DAY, VectorStoreRow, Window
from flowbed.records.serving import Caller
from flowbed.records.written import documents_source
from flowbed.services.files import FileDescription
from flowbed.services.service import open_service
from flowbed.services.vector_stores import processing
from flowbed.services.vector_stores.attached import Attachment
from flowbed.services.vector_stores.deaths import DEATHS_MOST, note_death
from flowbed.services.vector_stores.processing import StoreProcessing, Worked
from flowbed.services.vector_stores.searching import StoreQuery
from flowbed.services.vector_stores.stage import VectorStoreWork
from flowbed.services.vector_stores.stores import StoreChange, StoreDescription
from flowbed.services.vector_stores.turns import StoreTurns
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from flowbed.ledger.vector_stores import VectorStoreFileRow
    from flowbed.services.service import Service

ANYONE = Caller(name="anyone", admin=True)
DOWN = Fault(kind="error", status=503)
EVERY = Window(limit=100, descending=False)


class Stores:
    """One store of a project, and short ways to use it."""

    def __init__(self, service: Service, owner: str, store: VectorStoreRow) -> None:
        self.service, self.owner, self.store = service, owner, store
        self.all = service.vector_stores

    async def upload(self, text: str, name: str = "a.txt") -> str:
        async def pieces() -> AsyncIterator[bytes]:
            yield text.encode()

        row = await self.service.files.create(
            self.owner, pieces(), described=lambda: FileDescription(purpose="assistants", filename=name)
        )
        return row.id

    async def attach(
        self, *texts: str, chunking: Mapping[str, Any] | None = None, **attributes: Any
    ) -> list[str]:
        files = [await self.upload(text) for text in texts]
        attachments = [
            Attachment(file=each, attributes=attributes, chunking=chunking or {}) for each in files
        ]
        await self.all.files.attach_batch(self.store, attachments)
        return files

    async def work(self) -> bool:
        return await self.all.processing.process(self.store.id) is Worked.DONE

    async def rows(self) -> list[VectorStoreFileRow]:
        return list((await self.all.files.list(self.store, EVERY))[0])

    async def statuses(self) -> list[str]:
        return [row.status for row in await self.rows()]

    async def find(self, text: str, caller: Caller = ANYONE, **how: Any) -> list[str]:
        found = await self.all.search.find(caller, self.store, StoreQuery(texts=[text], **how))
        return [hit.text for hit in found]

    async def indexed(self) -> int:
        live = await self.service.bed.reader().live(self.store.id)
        return 0 if live is None else await self.service.bed.reader().rows.count(live)


@asynccontextmanager
async def opened(
    folder: Path, settings: str = "", *, model: str = "seeded:64", tier: str = ""
) -> AsyncIterator[Stores]:
    """Open a project with a store; with a tier, the store belongs to a key of it."""
    write_project(folder / "project", settings, model=model)
    async with await aopen(folder / "project") as bed, open_service(bed) as service:
        owner = ""
        if tier:
            key, _ = await bed.keys().create("mine", secret=bed.secret, tier=tier)
            owner = key.id
        yield Stores(service, owner, await service.vector_stores.stores.create(owner, StoreDescription()))


async def test_attributes_changed_are_filtered_by_without_a_call_of_the_provider(tmp_path: Path) -> None:
    """New attributes are written to the same chunks, whose vectors are there already."""
    simulator = Simulator(OpenAI())
    async with running(simulator) as url:
        settings = f'vector_cache_mb = 0\n[providers.openai]\napi_key = "sk-test"\nbase_url = "{url}/v1"\n'
        async with opened(tmp_path, settings, model="openai:text-embedding-3-small") as stores:
            (file,) = await stores.attach("one text", state="old")
            assert await stores.work()
            (vector,) = [row.usage for row in await stores.rows()]
            before = simulator.account.totals()
            changed = await stores.all.files.describe(stores.store, file, {"state": "new", "n": 1})
            assert (changed.status, changed.attributes) == ("completed", '{"state":"new","n":1}')
            assert await stores.work()
            assert simulator.account.totals() == before
            (row,) = await stores.rows()
            assert (row.work, row.usage) == ("", vector)
            for value, found in (("old", []), ("new", ["one text"])):
                filters = {"type": "eq", "key": "state", "value": value}
                assert await stores.find("one text", filters=filters) == found


async def test_store_worked_on_is_still_held_after_a_renewal_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another process would take it over while this one goes on."""
    again, times = asyncio.Event(), itertools.count(1)
    async with opened(tmp_path) as stores:
        rows = type(stores.service.bed.ledger.vector_stores)
        hold, work = rows.hold, StoreProcessing._work

        async def failing_once(*given: Any, **how: Any) -> VectorStoreRow | None:
            time = next(times)
            if time == 2:
                raise Transient("the ledger cannot be reached")
            if time == 3:
                again.set()
            return await hold(*given, **how)

        async def slow(*given: Any) -> bool:
            await asyncio.wait_for(again.wait(), 60)
            return await work(*given)

        monkeypatch.setattr(rows, "hold", failing_once)
        monkeypatch.setattr(StoreProcessing, "_work", slow)
        monkeypatch.setattr(processing, "LEASE_SECONDS", 0.03)
        await stores.attach("one text")
        assert await stores.work()
        assert await stores.statuses() == ["completed"]


@pytest.fixture
def impatient() -> Iterator[None]:
    """Try each request once."""
    stamina.set_testing(True)
    yield
    stamina.set_testing(False)


@pytest.mark.usefixtures("impatient")
async def test_provider_down_files_wait_and_are_completed_once_it_answers(tmp_path: Path) -> None:
    """A file stays in progress while no provider answers; after a day its owner is told that it failed."""
    simulator = Simulator(OpenAI(), faults=[DOWN])
    async with running(simulator) as url:
        settings = f'[providers.openai]\napi_key = "sk-test"\nbase_url = "{url}/v1"\n'
        async with opened(tmp_path, settings, model="openai:text-embedding-3-small") as stores:
            await stores.attach("one text")
            assert not await stores.work()
            assert await stores.statuses() == ["in_progress"]
            simulator.order()
            assert await stores.work()
            assert await stores.statuses() == ["completed"]
            simulator.order(DOWN)
            await stores.attach("another text")
            (row,) = [row for row in await stores.rows() if row.status == "in_progress"]
            early = replace(row, created=row.created - DAY)
            await stores.service.bed.ledger.vector_store_files.cancel(stores.store.id)
            await stores.service.bed.ledger.vector_store_files.attach([early])
            assert await stores.work()
            (failed,) = [row for row in await stores.rows() if row.status == "failed"]
            assert (failed.code, failed.error) == (
                "server_error",
                "The provider did not answer for a day: attach the file again.",
            )


async def test_file_removed_is_found_by_no_search_before_and_after_its_rows_are_gone(tmp_path: Path) -> None:
    """A removed file is hidden at once; its row goes only after its chunks, and it can be attached again."""
    async with opened(tmp_path) as stores:
        first, second = await stores.attach("one text", "another text")
        await stores.work()
        await stores.all.files.remove(stores.store, first)
        with pytest.raises(NotFound):
            await stores.all.files.get(stores.store, first)
        assert await stores.find("one text") == ["another text"]
        assert await stores.indexed() == 2
        kept = await stores.service.bed.ledger.vector_store_files.get(stores.store.id, [first])
        assert kept[first].work == "remove"
        assert await stores.work()
        assert await stores.indexed() == 1
        assert not await stores.service.bed.ledger.vector_store_files.get(stores.store.id, [first])
        attachment = Attachment(file=first, attributes={}, chunking={})
        await stores.all.files.attach(stores.store, attachment)
        await stores.all.files.remove(stores.store, first)
        await stores.all.files.attach(stores.store, attachment)
        assert await stores.work()
        assert sorted(await stores.find("text")) == ["another text", "one text"]
        await stores.service.files.delete("", second)
        assert await stores.find("another text") == ["one text"]
        assert await stores.work()
        assert [row.file for row in await stores.rows()] == [first]


async def test_batch_cancelled_leaves_nothing_in_progress_and_nothing_indexed(tmp_path: Path) -> None:
    """Cancelling ends the files that are not indexed yet; each can be attached again."""
    async with opened(tmp_path) as stores:
        (done,) = await stores.attach("one text")
        await stores.work()
        files = [done, *[await stores.upload(f"text {n}") for n in range(3)]]
        attachments = [Attachment(file=each, attributes={}, chunking={}) for each in files]
        batch = await stores.all.files.attach_batch(stores.store, attachments)
        assert (batch.status, batch.counts.in_progress, batch.counts.total) == ("in_progress", 3, 4)
        cancelled = await stores.all.files.cancel_batch(stores.store, batch.row.id)
        counts = cancelled.counts
        assert (cancelled.status, counts.completed, counts.cancelled) == ("cancelled", 1, 3)
        assert counts.in_progress == 0
        again = await stores.all.files.cancel_batch(stores.store, batch.row.id)
        assert again == cancelled
        assert await stores.work()
        assert await stores.find("text") == ["one text"]
        await stores.all.files.attach(stores.store, attachments[1])
        assert await stores.work()
        assert await stores.statuses() == ["completed", "cancelled", "cancelled", "completed"]


async def test_batch_cancelled_while_its_files_are_embedded_removes_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed although it was cancelled meanwhile is deleted, and never found."""
    async with opened(tmp_path) as stores:
        await stores.attach("one text")
        steps = stores.service.bed.document_steps()
        embed = type(steps).embed

        async def embed_late(self: Any, sources: Any) -> Any:
            await stores.service.bed.ledger.vector_store_files.cancel(stores.store.id)
            done = await embed(self, sources)
            assert await stores.find("one text") == []
            return done

        with monkeypatch.context() as patched:
            patched.setattr(type(steps), "embed", embed_late)
            await stores.all.processing.process(stores.store.id)
        assert await stores.work()
        assert await stores.statuses() == ["cancelled"]
        assert await stores.indexed() == 0


async def test_store_expired_refuses_searches_and_files_and_is_swept(tmp_path: Path) -> None:
    """An expired store loses its files; an update revives it, empty."""
    async with opened(tmp_path) as stores:
        (file,) = await stores.attach("one text")
        await stores.work()
        rows = stores.service.bed.ledger.vector_stores
        old = replace(stores.store, days=7, active=stores.store.active - 8 * DAY)
        await rows.describe(old)
        stores.store = old
        assert stores.all.stores.is_expired(old)
        with pytest.raises(Rejected, match="has expired"):
            await stores.find("one text")
        attachment = Attachment(file=file, attributes={}, chunking={})
        with pytest.raises(Rejected, match="has expired"):
            await stores.all.files.attach(old, attachment)
        assert [row.id for row in await stores.all.processing.due()] == [old.id]
        assert await stores.work()
        assert await stores.rows() == []
        assert await stores.indexed() == 0
        assert [row.id for row in await stores.all.processing.due()] == []
        stores.store = await stores.all.stores.update("", old.id, StoreChange(days=0))
        await stores.all.files.attach(stores.store, attachment)
        assert await stores.work()
        assert await stores.find("one text") == ["one text"]


async def test_store_deleted_leaves_nothing_and_the_project_is_sound(tmp_path: Path) -> None:
    """Of a deleted store nothing is left in the object store or the ledger, and the doctor finds nothing wrong."""
    async with opened(tmp_path) as stores:
        await stores.attach("one text", "another text")
        await stores.work()
        await stores.attach("a third text")
        bed: Any = stores.service.bed
        await stores.all.stores.delete("", stores.store.id)
        with pytest.raises(NotFound):
            await stores.all.stores.get("", stores.store.id)
        assert await stores.work()
        folders = [name for name in await bed.store.folders("") if name.startswith("vs_")]
        assert folders == []
        assert not [page async for page in bed.ledger.chunks.marks(stores.store.id) if page]
        assert not [
            page async for page in bed.ledger.documents.pages(documents_source(stores.store.id)) if page
        ]
        assert [row.id for row in await stores.all.processing.due()] == []
        assert (await bed.doctor()).findings == ()
        assert (await bed.gc()).objects == {}


async def test_key_revoked_ends_its_files_and_quota_used_up_fails_the_rest(tmp_path: Path) -> None:
    """Files beyond the day's tokens fail with the reason; with the key revoked, none stays in progress."""
    settings = "[serve.tiers.small]\ntokens_per_day = 12\n"
    async with opened(tmp_path, settings, tier="small") as stores:
        caller = Caller(key=stores.owner, name="mine", tier="small")
        await stores.service.quotas.admit(caller)
        await stores.attach("one two three", "four five six " * 5, "seven eight")
        assert await stores.work()
        assert await stores.statuses() == ["completed", "failed", "completed"]
        (failed,) = [row for row in await stores.rows() if row.status == "failed"]
        assert failed.code == "server_error"
        assert await stores.indexed() == 2
        assert "tokens" in failed.error
        await stores.attach("nine")
        await stores.service.bed.ledger.keys.revoke(stores.owner, at=1)
        assert await stores.work()
        assert await stores.statuses() == ["completed", "failed", "completed", "failed"]
        assert (await stores.rows())[-1].error == "The API key of the vector store was revoked."


async def test_embeddings_of_a_day_used_up_fails_the_rest(tmp_path: Path) -> None:
    """Each new chunk is one of the embeddings of the owner's day; one attached again is none."""
    settings = "[serve.tiers.small]\nembeddings_per_day = 1\n"
    async with opened(tmp_path, settings, tier="small") as stores:
        await stores.attach("one text", "another text")
        assert await stores.work()
        assert await stores.statuses() == ["completed", "failed"]
        assert "embeddings a day" in (await stores.rows())[1].error


async def test_stores_of_one_owner_do_not_keep_another_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner with two large stores and one with a small one take turns, and the stores of an owner do too."""
    monkeypatch.setattr("flowbed.services.vector_stores.processing.FILES_TOGETHER", 1)
    async with opened(tmp_path) as stores:
        all_, small = stores.all.stores, Stores(stores.service, "small", stores.store)
        await stores.attach("large 1", "large 2", "large 3")
        stores.store = await all_.create("", StoreDescription())
        await stores.attach("also large 1", "also large 2")
        small.store = await all_.create("small", StoreDescription())
        await stores.service.bed.ledger.keys.create(
            KeyRow(id="small", name="small", prefix="p", hash="h", created=1, tier="default")
        )
        await small.attach("small")
        work = VectorStoreWork(stores.all.processing)
        tasks, turns = deque(await work.waiting()), list[str]()
        while tasks:
            tasks.extend(await work.run(tasks.popleft().key))
            turns.append("small" if await small.statuses() == ["completed"] else "large")
        assert turns.index("small") == 1
        assert await work.waiting() == []
        assert await stores.statuses() == ["completed"] * 2


def test_turns_go_to_the_owner_with_fewest_stores_worked_on() -> None:
    """What other processes hold counts, a store is never given to two tasks, and a dead worker's is free."""

    def row(id_: str, owner: str, worker: str = "") -> VectorStoreRow:
        return VectorStoreRow(id=id_, owner=owner, name="", created=0, active=0, worker=worker)

    due = [row("a", "x"), row("b", "x", "elsewhere"), row("c", "y"), row("d", "y", "dead")]
    turns = StoreTurns()
    with ExitStack() as stack:
        taken = []
        while (found := turns.next(due, lambda row: row.worker != "elsewhere")) is not None:
            stack.enter_context(turns.taken(found))
            taken.append(found.id)
    assert taken == ["c", "a", "d"]
    assert turns.next(due[:1], lambda _: True) == due[0]


async def test_chunking_static_gives_chunks_of_that_size_with_their_overlap(tmp_path: Path) -> None:
    """Chunks have at most the tokens asked for, and begin with the end of the one before; `auto` is the project's."""
    text = "\n\n".join(f"Paragraph {n} has a few words of its own." for n in range(60))
    sizes = {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20}
    async with opened(tmp_path) as stores:
        (file,) = await stores.attach(text, chunking={"type": "static", "static": sizes})
        (whole,) = await stores.attach(text)
        await stores.work()
        chunks = await stores.all.files.content(stores.store, file)
        assert len(chunks) > len(await stores.all.files.content(stores.store, whole)) > 1
        for before, after in pairwise(chunks):
            assert before.endswith(after.partition("\n")[0])


async def test_files_of_every_kind_are_read_or_say_why_not(tmp_path: Path) -> None:
    """Markdown, code and HTML are read by their structure; what is no text or misnamed fails with OpenAI's code."""
    async with opened(tmp_path) as stores:
        given = {
            "a.md": "# Keys\n\nRotate them.",
            "b.py": "def rotate() -> None:\n    ...\n",
            "c.html": "<html><body><h1>Tea</h1><p>At four.</p></body></html>",
            "d.txt": "  \n ",
            "e.bin": "\0\1",
            "f.docx": "not a Word file",
            "g.txt": "%PDF-1.7",
            "h.doc": "\0old",
        }
        files = [await stores.upload(text, name) for name, text in given.items()]
        attachments = [Attachment(file=each, attributes={}, chunking={}) for each in files]
        await stores.all.files.attach_batch(stores.store, attachments)
        assert await stores.work()
        rows = {row.filename: row for row in await stores.rows()}
        assert {name: (row.status, row.code) for name, row in rows.items()} == {
            "a.md": ("completed", ""),
            "b.py": ("completed", ""),
            "c.html": ("completed", ""),
            "d.txt": ("failed", "invalid_file"),
            "e.bin": ("failed", "unsupported_file"),
            "f.docx": ("failed", "invalid_file"),
            "g.txt": ("failed", "unsupported_file"),
            "h.doc": ("failed", "unsupported_file"),
        }
        assert "save it as .docx" in rows["h.doc"].error
        assert "call it .pdf" in rows["g.txt"].error
        letters = [letter async for page in stores.service.bed.ledger.dead_letters.pages() for letter in page]
        assert letters == []


async def test_files_that_keep_killing_workers_fail_and_the_store_goes_on(
    tmp_path: Path,
) -> None:
    """Their owner is told, instead of waiting for ever; deaths between which the store got on do not count."""
    async with opened(tmp_path) as stores:
        ledger = stores.service.bed.ledger
        await stores.attach("one", "two")
        for _ in range(DEATHS_MOST - 1):
            await note_death(ledger, stores.store.id)
        assert await stores.work()
        assert await stores.statuses() == ["completed"] * 2
        await stores.attach("three")
        for _ in range(DEATHS_MOST):
            assert await stores.statuses() == ["completed", "completed", "in_progress"]
            await note_death(ledger, stores.store.id)
        failed = (await stores.rows())[2]
        assert (failed.status, failed.code) == ("failed", "server_error")
        assert failed.error == (
            f"{DEATHS_MOST} workers of the server died while they indexed this file and others: attach it again."
        )
        await stores.attach("four")
        assert await stores.work()
        assert await stores.statuses() == ["completed", "completed", "failed", "completed"]
