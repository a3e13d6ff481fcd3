"""Batch files of other programs, and what waits: taken in by events and listings, embedded without a fetch."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from flowbed.errors import Rejected
from flowbed.events.intake import look_for_batches
from flowbed.wiring.events import intake_context

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.projects import Project

    from flowbed.bed import Flowbed

KEY = "partner/chunked/year=2026/month=01/day=06/batch_one.json"
ID = "partner#year=2026/month=01/day=06/batch_one"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr("flowbed.events.intake.RETRIES", (0.0, 0.0))


def store(project: Project, key: str = KEY) -> Path:
    path = project.folder / ".flowbed" / "store" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def put(project: Project, *texts: str, key: str = KEY, **more: Any) -> bytes:
    """Write a batch file as another program does, and return the event that tells of it."""
    body = json.dumps({"chunks": [{"text": text, "metadata": {"lang": "en"}} for text in texts], **more})
    store(project, key).write_text(body)
    return event(key)


def event(*keys: str) -> bytes:
    records = [
        {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": key}}}
        for key in keys
    ]
    return json.dumps({"Records": records}).encode()


async def found(bed: Flowbed, text: str, collection: str = "partner") -> tuple[str, dict[str, Any]]:
    (hit,) = await bed.search(text, collection=collection, limit=1)
    assert hit.document == text
    return hit.id, dict(hit.metadata)


async def test_embed_file_of_another_program_is_indexed_once(project: Project) -> None:
    """A file with only texts and metadata is embedded; the event again, or a listing, changes nothing."""
    told = put(project, "first text", "second text")
    async with await project.open() as bed:
        done = await bed.embed(told)
        assert (done.batches, done.read, done.failures) == (1, 1, ())
        assert done.report is not None
        assert (done.report.chunks, done.report.embedded) == (2, 2)
        assert await found(bed, "second text") == (
            f"{ID}#00001",
            {"lang": "en", "source": "partner", "document": ID.partition("#")[2]},
        )
        again = await bed.embed(told)
        assert (again.batches, again.already, again.report) == (0, 1, None)
        listed = await bed.embed()
        assert (listed.batches, listed.read) == (0, 0)
        project.sent()
        assert (await bed.embed()).read == 0  # of which only the listing was read
        assert not project.sent()


async def test_embed_listing_finds_what_no_event_told(project: Project) -> None:
    put(project, "never told")
    async with await project.open() as bed:
        done = await bed.embed()
        assert (done.read, done.batches) == (1, 1)
        assert (await found(bed, "never told"))[0] == f"{ID}#00000"


async def test_embed_rewritten_file_replaces_its_chunks(project: Project) -> None:
    """Another content under the same key replaces, adds and deletes chunks; what is equal is not sent again."""
    told = put(project, "same", "old", "gone")
    async with await project.open() as bed:
        await bed.embed(told)
        project.sent()
        done = await bed.embed(put(project, "same", "new"))
        assert done.report is not None
        assert (done.report.chunks, done.report.deleted) == (1, 1)
        assert list(project.sent()) == ["new"]
    assert set(project.documents("partner").values()) == {"same", "new"}


async def test_embed_bad_chunks_and_files_stop_no_others(project: Project) -> None:
    """A bad chunk and a bad file are dead letters with their key and reason; all others are embedded."""
    bad = "partner/chunked/batch_bad.json"
    put(project, key=KEY)
    store(project).write_text(
        json.dumps(
            [
                {"text": "good"},
                {"text": " "},
                {"text": "deep", "metadata": {"a": {"b": 1}}},
                "no object",
                {"text": "nothing", "metadata": {"a": None}},
            ]
        )
    )
    store(project, bad).write_text('{"chunks": [')
    async with await project.open() as bed:
        done = await bed.embed(event(bad, KEY))
        assert [problem.subject for problem in done.failures] == [
            *(f"{KEY}, chunk {number}" for number in (1, 2, 3)),
            bad,
        ]
        letters = {letter.subject: letter for letter in await bed.dead_letters()}
        assert {key: (each.kind, each.owner, each.attempts) for key, each in letters.items()} == {
            bad: ("batch", "partner", 3),
            KEY: ("batch", "partner", 1),
        }
        assert "it is not JSON" in letters[bad].reason
        assert (await bed.embed()).failures == ()  # a listing does not read them again
        put(project, "mended", key=bad)
        await bed.embed(event(bad))
        assert [letter.subject for letter in await bed.dead_letters()] == [KEY]
    assert set(project.documents("partner").values()) == {"good", "nothing", "mended"}


async def test_embed_file_below_a_configured_source_survives_its_fetches(project: Project) -> None:
    """What others write below a source goes into its collection, and a complete fetch does not delete it."""
    project.write("docs/a.txt", "own text")
    told = put(project, "their text", key="docs/chunked/batch_x.json")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs", collection="texts")
        await bed.run()
        await bed.embed(told)
        await bed.run(allow_deletes=True)
        assert (await found(bed, "their text", "texts"))[0] == "docs#batch_x#00000"
        assert {each.check for each in (await bed.doctor()).findings} <= {"permissions"}


@pytest.mark.parametrize("compressed", [True, False])
async def test_embed_compressed_files_of_others_are_read(project: Project, compressed: bool) -> None:
    """Both forms are read, whatever the file's name says."""
    body = json.dumps({"chunks": [{"text": "tight"}]}).encode()
    key = KEY + ".zst" if compressed else KEY
    store(project, key).write_bytes(zstandard.compress(body))
    async with await project.open() as bed:
        assert (await bed.embed(event(key))).read == 1
    assert list(project.documents("partner").values()) == ["tight"]


async def test_embed_damaged_or_growing_compression_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut file and one that grows beyond all measure are refused with the reason."""
    monkeypatch.setattr("flowbed.storage.compression.MOST_BYTES", 1_000)
    store(project, KEY + ".zst").write_bytes(zstandard.compress(b"x" * 500)[:-4])
    store(project, "partner/chunked/bomb.json.zst").write_bytes(zstandard.compress(b" " * 5_000_000))
    async with await project.open() as bed:
        done = await bed.embed()
    said = sorted(problem.reason for problem in done.failures)
    assert said[0].startswith("it has more than 1,000 bytes once decompressed")
    assert said[1].startswith("its compressed data")


async def test_run_with_compression_writes_and_reads_compressed_batch_files(project: Project) -> None:
    """A project whose batch files are compressed indexes, plans and forgets as any other."""
    text = "a long and boring sentence " * 200
    project.write("docs/a.txt", text)
    project.write("docs/b.txt", "to be forgotten")
    file = project.folder / "flowbed.toml"
    file.write_text(f'batch_compression = "zstd"\n{file.read_text()}')
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        plan = await bed.plan()
        report = await bed.run(plan=plan.plan_id)
        assert report.failed == 0
        (batch,) = (project.folder / ".flowbed/store/docs/chunked").rglob("batch_*")
        assert batch.name.endswith(".json.zst")
        assert batch.stat().st_size < len(text) / 2
        await bed.forget(documents=["docs#b.txt"])
        assert b"to be forgotten" not in zstandard.decompress(batch.read_bytes())
        project.write("docs/a.txt", f"{text} changed")
        assert (await bed.run()).failed == 0
        assert (await bed.doctor()).findings == ()


async def test_embed_own_batch_waits_until_its_fetch_has_recorded_it(project: Project) -> None:
    """An event may come before the ledger knows the chunks: it is to be sent again. A foreign place is ignored."""
    project.write("docs/a.txt", "text")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        await bed.run()
        (row,) = await bed.why("docs#a.txt#00000")
        assert row.batch is not None
        assert (await bed.embed(event(row.batch.key))).batches == 1  # done already: nothing is embedded
        early = row.batch.__class__(
            id="e" * 64,
            source="docs",
            key=f"docs/chunked/batch_{'e' * 64}.json",
            timestamp=bed.clock(),
            chunks=1,
        )
        await bed.ledger.batches.register(early)
        store(project, early.key).write_text("{}")
        sqs = {"Records": [{"messageId": "m1", "body": event(early.key).decode()}]}
        done = await bed.embed(json.dumps(sqs))
        assert (done.later, done.messages, done.failures) == ((early.key,), ("m1",), ())
        ignored = await bed.embed(
            event("docs/notes.txt", "docs/chunked/.tmp.json", "docs/chunked/a.json.zst.tmp")
        )
        assert ignored.ignored == {"not a batch file": 3}
        odd = await bed.embed(event("../../etc/chunked/a.json", "Big Name/chunked/a.json"))
        assert len(odd.failures) == 2
        with pytest.raises(Rejected, match="its shape is unknown"):
            await bed.embed('{"hello": 1}')


async def test_embed_pauses_once_for_all_files_that_cannot_be_read(project: Project) -> None:
    """Many broken files do not delay the others: each pause is for all of them, and comes after the others are read."""
    paused: list[tuple[float, bool]] = []
    broken = [f"partner/chunked/batch_{number}.json" for number in range(5)]
    for key in broken:
        store(project, key).write_text("{")
    put(project, "whole", key="partner/chunked/batch_last.json")
    async with await project.open() as bed:

        async def pause(seconds: float) -> None:
            paused.append((seconds, bool(await bed._ledger.documents.count("partner.external"))))
            if len(paused) == 1:
                put(project, "written meanwhile", key=broken[0])

        on = replace(intake_context(bed.settings, bed._context()), pause=pause)
        done = await look_for_batches(on)
        assert paused == [(0.0, True)] * 2
        assert sorted(problem.subject for problem in done.failures) == broken[1:]
        assert (done.read, done.unread) == (2, [])
        letters = [letter async for page in bed._ledger.dead_letters.pages() for letter in page]
        assert {(letter.subject, letter.attempts) for letter in letters} == {(key, 3) for key in broken[1:]}
