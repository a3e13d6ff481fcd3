"""Chunks that others change while they are claimed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.errors import Conflict, Transient
from flowbed.index import compaction
from flowbed.index.commit import commit
from flowbed.lanes import claims, write_deltas
from flowbed.lanes import embed as embed_module
from flowbed.lanes.claims import BatchQueue, Claims
from flowbed.lanes.embed import embed
from flowbed.pipeline import run
from flowbed.pipeline import sync as sync_module
from flowbed.pipeline.sync import sync
from flowbed.records import Status
from flowbed.testing.clock import FixedClock
from flowbed.testing.ledger import submission
from flowbed.wiring import models, process

if TYPE_CHECKING:
    from tests.support.projects import Project


async def test_claims_chunk_changes_while_claimed_embeds_its_newest_text(project: Project) -> None:
    """A worker that claims a chunk again, after a fetch has changed it, writes only the newer one."""
    project.write_lines("notes.jsonl", [{"id": "a", "text": "one"}, {"id": "b", "text": "another"}])
    async with await project.open() as bed:
        await bed.add("notes", kind="jsonl", location="notes.jsonl")
        context, feed, fresh = bed._context(), (await bed._feeds([]))["notes"], BatchQueue()
        embedding = asyncio.create_task(embed(context, sources=("notes",), fresh=fresh))
        await sync(feed, context, allow_deletes=False, wrote=fresh.add)
        while not await context.ledger.chunks.workers():  # noqa: ASYNC110 - the ledger tells nobody
            await asyncio.sleep(0.01)
        project.write_lines("notes.jsonl", [{"id": "a", "text": "two"}, {"id": "b", "text": "another"}])
        await sync(feed, context, allow_deletes=False, wrote=fresh.add)
        fresh.end()
        assert (await embedding).failures == []
        assert set((await bed.status()).chunks) == {"SUCCESS"}
    assert project.documents("notes") == {"notes#a#00000": "two", "notes#b#00000": "another"}


async def test_run_fetch_fails_unexpectedly_raises(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception of a source is raised by the run, which stops waiting for batches."""
    project.write_lines("notes.jsonl", [{"id": "a", "text": "one"}])

    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    async with await project.open() as bed:
        await bed.add("notes", kind="jsonl", location="notes.jsonl")
        with monkeypatch.context() as patch:
            patch.setattr(run, "sync", broken)
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(bed.run(), 60)
        assert (await bed.run()).chunks == 1


async def test_run_chunk_keeps_failing_tries_it_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a batch of many groups each refused text is sent once, also where its status is selected."""
    monkeypatch.setattr(claims, "RUN_CHUNKS", 10)
    project.set_model("seeded:32", names_inputs="true")
    project.write_lines("notes.jsonl", [{"id": n, "text": f"POISON {project.folder} {n}"} for n in range(60)])
    async with await project.open() as bed:
        await bed.add("notes", kind="jsonl", location="notes.jsonl")
        assert (await bed.run()).failed == 60
        project.sent()
        report = await asyncio.wait_for(bed.run(status=Status.FAILED), 60)
        assert report.failed == len({each.subject for each in report.failures}) == 60
        assert set(project.sent().values()) == {1}


async def test_run_text_sent_in_vain_is_not_subtracted_from_reused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors whose delta could not be written count as sent, not as reused; the next run reuses them."""
    project.write_lines("notes.jsonl", [{"id": "a", "text": f"{project.folder} one"}])

    async def taken(*_: Any, **__: Any) -> None:
        raise Conflict("other bytes lie there")

    async with await project.open() as bed:
        await bed.add("notes", kind="jsonl", location="notes.jsonl")
        with monkeypatch.context() as patch:
            patch.setattr(write_deltas, "write_delta", taken)
            report = await bed.run()
        assert (report.chunks, report.embedded, report.reused) == (0, 1, 0)
        report = await bed.run()
        assert (report.chunks, report.embedded, report.reused) == (1, 0, 1)


async def test_embed_text_repeated_in_a_later_group_is_sent_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cache the vector comes from the group that is being written, or from the index."""
    monkeypatch.setattr(claims, "RUN_CHUNKS", 50)
    monkeypatch.setattr(models, "MEMORY_BYTES", 1)
    settings = project.folder / "flowbed.toml"
    settings.write_text(f"vector_cache_mb = 0\n{settings.read_text()}")
    project.write_lines("notes.jsonl", [{"id": f"d{n}", "text": f"text {n % 60}"} for n in range(300)])
    async with await project.open() as bed:
        await bed.add("notes", kind="jsonl", location="notes.jsonl")
        report = await bed.run()
    assert (report.chunks, report.embedded) == (300, 60)


async def test_sync_batch_file_of_a_failed_fetch_is_not_reused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of equal text and version but other metadata go into a separate batch file."""
    clock = FixedClock()
    monkeypatch.setattr(process, "now", clock)

    async def overtaken(*_: Any, **__: Any) -> None:
        raise Conflict("another run has moved the cursor")

    async with await project.open() as bed:
        project.write_lines("notes.jsonl", [{"id": "a", "text": "one", "colour": "red"}])
        await bed.add("notes", kind="jsonl", location="notes.jsonl", options={"metadata": ["colour"]})
        with monkeypatch.context() as patch:
            patch.setattr(sync_module, "apply", overtaken)
            patch.setattr(sync_module, "TRIES", 1)
            await bed.run()
        project.write_lines("notes.jsonl", [{"id": "a", "text": "one", "colour": "blue"}])
        report = await bed.run()
        hit = (await bed.search("one"))[0]
    assert (report.failures, hit.metadata["colour"]) == ((), "blue")


async def test_sync_batch_registered_on_an_earlier_day_is_read_where_it_was_written(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch repeated with the clock set back finds the batch file of the first one under its day."""
    clock = FixedClock()
    monkeypatch.setattr(process, "now", clock)
    day = 86_400

    async def overtaken(*_: Any, **__: Any) -> None:
        raise Conflict("another run has moved the cursor")

    async with await project.open() as bed:
        project.write_lines("notes.jsonl", [{"id": "a", "text": "one"}])
        await bed.add("notes", kind="jsonl", location="notes.jsonl")
        await bed.run()
        project.write_lines("notes.jsonl", [{"id": "a", "text": "two"}])
        clock.advance(seconds=-2 * day)
        with monkeypatch.context() as patch:
            patch.setattr(sync_module, "apply", overtaken)
            patch.setattr(sync_module, "TRIES", 1)
            await bed.run()
        clock.advance(seconds=day)
        report = await bed.run()
        assert (report.failures, report.chunks) == ((), 1)


async def test_run_finished_chunks_selected_embeds_them_again(project: Project) -> None:
    project.write_lines("notes.jsonl", [{"id": "a", "text": "one"}])
    async with await project.open() as bed:
        await bed.add("notes", kind="jsonl", location="notes.jsonl")
        assert (await bed.run()).chunks == 1
        assert (await bed.run()).chunks == 0
        assert (await bed.run(status=Status.SUCCESS)).chunks == 1


async def test_run_chunk_of_ended_submission_is_claimed_after_new_chunks(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that the run itself has finished do not hide one that no worker holds."""
    monkeypatch.setattr(claims, "RUN_CHUNKS", 2)
    monkeypatch.setattr(embed_module, "Claims", partial(Claims, enough=2))
    project.write_lines("notes.jsonl", [{"id": "a", "text": "one"}])
    async with await project.open() as bed:
        await bed.add("notes", kind="jsonl", location="notes.jsonl")
        await bed.run()
        ledger = bed.ledger
        now = bed.clock()
        assert await ledger.chunks.requeue("notes", ["notes#a#00000"], now=now)
        async for batches in ledger.chunks.batches({Status.NONE}, now=now, sources=()):
            await ledger.chunks.claim(
                batches,
                {Status.NONE},
                worker="w",
                now=now,
                until=now + 1,
                sources=(),
                limit=9,
                submission="x",
            )
        await ledger.submissions.create(submission())
        await ledger.chunks.hand_over("x", worker="w")
        row = await ledger.submissions.hold("x", worker="w", now=now, until=now + 1)
        assert row is not None
        await ledger.submissions.save(replace(row, ended=now), worker="w")
        lines = [{"id": f"b{n}", "text": f"text {n}"} for n in range(20)]
        project.write_lines("notes.jsonl", [{"id": "a", "text": "one"}, *lines])
        await bed.run()
        assert set((await bed.status()).chunks) == {"SUCCESS"}


async def test_run_compaction_cannot_be_examined_ends_well(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a compaction is due is left to the next run, where the index cannot be read for a moment."""

    async def down(*_: Any, **__: Any) -> bool:
        raise Transient("the store does not answer")

    monkeypatch.setattr(compaction, "is_due", down)
    project.write_lines("notes.jsonl", [{"id": "a", "text": "one"}])
    async with await project.open() as bed:
        await bed.add("notes", kind="jsonl", location="notes.jsonl")
        assert (await bed.run()).chunks == 1


async def test_run_another_process_commits_its_delta_reports_that_version(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def second(*given: Any, **named: Any) -> Any:
        await commit(*given, **named)  # as the other process does
        return await commit(*given, **named)

    monkeypatch.setattr(write_deltas, "commit", second)
    async with await project.open() as bed:
        for text in ("one", "two"):
            project.write_lines("notes.jsonl", [{"id": "a", "text": text}])
            await bed.add("notes", kind="jsonl", location="notes.jsonl")
            report = await bed.run()
            assert report.versions == {"notes": (await bed.versions("notes"))[0].version}
