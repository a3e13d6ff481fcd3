"""Collections on a real Chroma server keep the contract of publications."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flowbed import telemetry
from flowbed.bed import look_through
from flowbed.errors import Conflict, Misconfigured, Transient
from flowbed.index.compaction import compact
from flowbed.index.versions.retention import NOTHING
from flowbed.publish import open_publication
from flowbed.publish.chroma_server.client import ChromaDatabase
from flowbed.publish.chroma_server.fence import Fence
from flowbed.testing.publication import PublicationContract, PublishedRow, numbered, texts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.projects import Project

    from flowbed.publish import Publication
    from flowbed.testing.publication import PublishBench


@pytest.fixture
async def server(chroma_url: str) -> AsyncIterator[ChromaDatabase]:
    database = ChromaDatabase(chroma_url, token="", tenant="default_tenant", database="default_database")
    yield database
    await database.aclose()


class TestChromaServer(PublicationContract):
    """A collection of its own for each test."""

    @pytest.fixture(autouse=True)
    def _name(self, server: ChromaDatabase) -> None:
        self.server, self.name = server, f"docs-{secrets.token_hex(6)}"

    def open(self, bench: PublishBench, **options: str) -> Publication:
        known = {"url": self.server.url, "name": self.name, "batch": "16"}
        context = bench.context(worker=secrets.token_hex(4))
        bench.opened.append(open_publication("chroma-server", context, {**known, **options}))
        return bench.opened[-1]

    async def target(self) -> dict[str, Any]:
        found = await self.server.collection(self.name)
        assert found is not None
        return found

    async def read(self, bench: PublishBench) -> dict[str, PublishedRow]:
        include = ["documents", "metadatas", "embeddings"]
        held = await self.server.get((await self.target())["id"], include=include, limit=5_000)
        columns = (held[name] or [] for name in include)
        return {
            name: PublishedRow(
                document=document, metadata=metadata or {}, vector=np.asarray(vector, np.float32)
            )
            for name, document, metadata, vector in zip(held["ids"], *columns, strict=True)
        }

    async def spoil(self, bench: PublishBench) -> None:
        """Delete a row, change one, and add one that the index does not have."""
        collection = (await self.target())["id"]
        await self.server.delete(collection, ["row-00001"])
        vectors = np.ones((2, 16), np.float32)
        await self.server.upsert(
            collection,
            ["row-00002", "extra"],
            vectors,
            ["changed", "extra"],
            [{"color": "blue", "odd": 1}, None],
        )

    async def interrupted(self, bench: PublishBench, at: int) -> None:
        """Publish, and stop after so many batches."""
        written = 0

        def stop(point: str, facts: dict[str, Any]) -> None:
            nonlocal written
            written += point == telemetry.SERVER_BATCH_WRITTEN
            if written == at and point == telemetry.SERVER_BATCH_WRITTEN:
                raise Transient("interrupted")

        disarm = telemetry.listen(stop)
        try:
            with pytest.raises(Transient, match="interrupted"):
                await bench.publish(self.open(bench))
        finally:
            disarm()

    async def test_publication_that_was_interrupted_is_continued(self, publish_bench: PublishBench) -> None:
        """Also when the index was rolled on meanwhile: rows may be as in either version."""
        await publish_bench.commit(numbered(100, color="red"))
        await publish_bench.publish(self.open(publish_bench))
        await publish_bench.commit(numbered(60, color="blue"), "row-00099")
        await self.interrupted(publish_bench, at=2)
        await publish_bench.commit({**numbered(10, color="green"), "row-00099": ("back", {})}, "row-00050")
        done = await publish_bench.publish(self.open(publish_bench))
        assert (done.rows, done.fixed) == (99, 0)
        await self.assert_in_step(publish_bench)

    async def test_publication_whose_first_fill_was_interrupted_is_continued(
        self, publish_bench: PublishBench
    ) -> None:
        await publish_bench.commit(numbered(50))
        await self.interrupted(publish_bench, at=2)
        await publish_bench.commit({}, "row-00001")
        await publish_bench.publish(self.open(publish_bench))
        await self.assert_in_step(publish_bench)

    async def test_publication_that_drifted_in_number_is_fixed_at_once(
        self, publish_bench: PublishBench
    ) -> None:
        await publish_bench.commit(numbered(40, color="red"))
        await publish_bench.publish(self.open(publish_bench))
        await self.server.delete((await self.target())["id"], ["row-00005", "row-00006"])
        await publish_bench.commit(texts("new"))
        done = await publish_bench.publish(self.open(publish_bench))
        assert done.fixed == 2
        await self.assert_in_step(publish_bench)

    async def test_publication_reconciled_says_how_many_rows_drifted(
        self, publish_bench: PublishBench
    ) -> None:
        await publish_bench.commit(numbered(40, color="red"))
        await publish_bench.publish(self.open(publish_bench))
        await self.spoil(publish_bench)
        done = await self.open(publish_bench).reconcile(
            await publish_bench.live(), await publish_bench.version()
        )
        assert (done.fixed, done.upserts, done.deletes) == (3, 2, 1)

    async def test_publication_from_a_version_that_is_gone_compares_all_rows(
        self, publish_bench: PublishBench
    ) -> None:
        await publish_bench.commit(numbered(40, color="red"))
        await publish_bench.publish(self.open(publish_bench))
        await publish_bench.commit({"row-00001": ("edited", {})}, "row-00002")
        await compact(
            await publish_bench.live(),
            datasets=publish_bench.datasets,
            vector_index="never",
            oldest_pending=None,
            now=publish_bench.clock(),
            retention=NOTHING,
            only_if_due=False,
        )
        done = await publish_bench.publish(self.open(publish_bench))
        assert (done.upserts, done.deletes) == (1, 1)
        await self.assert_in_step(publish_bench)

    async def test_publication_fenced_off_by_another_stops(self, publish_bench: PublishBench) -> None:
        """The one that began last goes on."""
        await publish_bench.commit(numbered(40))

        def overtaken(point: str, facts: dict[str, Any]) -> None:
            if point == telemetry.SERVER_BATCH_WRITTEN:
                (
                    publish_bench.scratch.parent / "store" / "docs" / "publication" / "copy.writer.json"
                ).unlink()

        disarm = telemetry.listen(overtaken)
        try:
            with pytest.raises(Conflict, match="another process publishes docs"):
                await publish_bench.publish(self.open(publish_bench))
        finally:
            disarm()
        fence = Fence(publish_bench.context(), "docs")
        await fence.take()
        await fence.check()
        await publish_bench.publish(self.open(publish_bench))
        await self.assert_in_step(publish_bench)

    async def test_publication_to_a_collection_of_someone_else_is_refused(
        self, publish_bench: PublishBench
    ) -> None:
        await self.server.create(self.name, graph={}, metadata={"owner": "someone"})
        await publish_bench.commit(numbered(1))
        with pytest.raises(Misconfigured, match="was not made by Flowbed"):
            await publish_bench.publish(self.open(publish_bench))

    async def test_publication_to_a_server_that_is_down_is_transient(
        self, publish_bench: PublishBench
    ) -> None:
        await publish_bench.commit(numbered(1))
        publication = self.open(publish_bench, url="http://127.0.0.1:9")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flowbed.publish.chroma_server.client.ATTEMPTS", 1)
            with pytest.raises(Transient, match=r"127\.0\.0\.1:9"):
                await publish_bench.publish(publication)


def test_options_of_a_publication_to_a_server_are_checked(publish_bench: PublishBench) -> None:
    for options, fault in (
        ({}, r"options\.url"),
        ({"url": "http://127.0.0.1", "batch": "0"}, "batch is '0'"),
        ({"url": "nonsense"}, r"publish\.\w+: options\.url has to be as https://host:8000"),
        ({"url": "http://a:b@host"}, r"publish\.\w+: options\.url .* without a password"),
        ({"url": "http://127.0.0.1", "token": "a\n"}, r"publish\.\w+: options\.token"),
    ):
        with pytest.raises(Misconfigured, match=fault):
            open_publication("chroma-server", publish_bench.context(), options)


async def texts_on(server: ChromaDatabase, name: str) -> dict[str, str]:
    found = await server.collection(name)
    assert found is not None
    held = await server.get(found["id"], include=["documents"], limit=100)
    return dict(zip(held["ids"], held["documents"], strict=True))


async def test_forget_and_checklist_reach_the_chroma_server(
    notes: Project, server: ChromaDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"notes-{secrets.token_hex(6)}"
    file = notes.folder / "flowbed.toml"
    options = f'kind = "chroma-server"\noptions = {{ url = "{server.url}", name = "{name}" }}\n'
    file.write_text(f"{file.read_text('utf-8')}\n[publish.notes]\n{options}", "utf-8")

    async def published() -> tuple[str, str]:
        (item,) = [each for each in (await look_through(notes.folder)).items if each.stage == "published"]
        return item.state, item.found

    async with await notes.open() as bed:
        assert list((await bed.run()).published) == ["notes notes"]
        before = await texts_on(server, name)
        receipt = await bed.forget(documents=["one.txt"])
        assert receipt.complete
        assert "publication notes of notes" in {each.place for each in receipt.erased}
        left = await texts_on(server, name)
        assert [before[each] for each in before if each not in left] == ["note one"]
        assert (await published())[0] == "ok"
        collection = await server.collection(name)
        assert collection is not None
        await server.delete(collection["id"], [min(left)])
        assert await published() == ("failed", f"{name} on {server.url} has 2 of 3 rows")
        assert (await bed.publish("notes", reconcile=True)).published[0].fixed == 1
        assert await texts_on(server, name) == left
    file.write_text(file.read_text("utf-8").replace(name, f"{name}-2"), "utf-8")
    assert await published() == ("failed", f"there is no collection {name}-2 on {server.url}")
    file.write_text(file.read_text("utf-8").replace(server.url, "http://127.0.0.1:9"), "utf-8")
    monkeypatch.setattr("flowbed.publish.chroma_server.client.ATTEMPTS", 1)
    state, found = await published()
    assert (state, "127.0.0.1:9" in found) == ("failed", True)
