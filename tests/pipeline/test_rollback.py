"""Rollback and release: nothing lost silently, nothing paid again, wherever it is interrupted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from flowbed import telemetry
from flowbed.errors import NotFound
from flowbed.wiring import process as clocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.projects import Project

    from flowbed.bed import Flowbed


async def texts(bed: Flowbed, **how: Any) -> set[str]:
    """Search for everything, and return the last word of each text found."""
    found = await bed.search(QUERY, collection="notes", limit=100, **how)
    return {hit.document.rpartition(" ")[2] for hit in found}


async def statuses(bed: Flowbed) -> dict[str, int]:
    """Count the chunks by status."""
    return dict((await bed.status()).chunks)


async def changed(project: Project, bed: Flowbed) -> int:
    """Change a note, add one and drop one in one run; return the version before."""
    before = (await bed.versions("notes"))[0].version
    project.write("notes/one.txt", f"{project.folder} note edited")
    project.write("notes/five.txt", f"{project.folder} note five")
    (project.folder / "notes/two.txt").unlink()
    await bed.run()
    project.sent()
    return before


QUERY = "note"
MONTH = 31 * 86_400_000_000  # µs
BEFORE, AFTER = {"one", "two", "three", "four"}, {"edited", "three", "four", "five"}


async def test_rollback_restores_the_old_rows_for_free(notes: Project) -> None:
    """After a rollback a search finds the old rows; running again changes and sends nothing."""
    async with await notes.open() as bed:
        before = await changed(notes, bed)
        assert await texts(bed) == AFTER
        done = await bed.rollback("notes", before)
        assert (done.target, done.runs, done.chunks) == (before, 1, 3)
        assert await texts(bed) == BEFORE
        assert await statuses(bed) == {"SUCCESS": 2, "REVERTED": 3}
        report = await bed.run()
        assert (report.embedded, report.chunks, report.deleted, report.failed) == (0, 0, 0, 0)
        assert await texts(bed) == BEFORE
        (why,) = await bed.why("notes#five.txt#00000")
        assert "rollback" in why.verdict
    assert set(notes.sent()) <= {QUERY}


async def test_release_commits_reverted_runs(notes: Project) -> None:
    """A release commits reverted runs from their deltas in the store."""
    async with await notes.open() as bed:
        before = await changed(notes, bed)
        await bed.rollback("notes", before)
        released = await bed.release("notes")
        assert released.runs == 1
        assert await texts(bed) == AFTER
        assert await statuses(bed) == {"SUCCESS": 4}
        assert (await bed.release("notes")).runs == 0
    assert set(notes.sent()) <= {QUERY}


async def test_release_lost_delta_becomes_a_dead_letter(notes: Project) -> None:
    """A reverted run whose delta is gone is not marked committed, and becomes a dead letter."""
    async with await notes.open() as bed:
        before = await changed(notes, bed)
        await bed.rollback("notes", before)
        (run,) = await bed._ledger.runs.reverted("notes")
        (notes.folder / ".flowbed/store/notes/delta" / run / "delta.arrow").unlink()
        released = await bed.release("notes")
        assert (released.runs, released.version, released.again) == (0, None, 0)
        assert "is missing" in released.refused[0].reason
        assert [letter.subject for letter in await bed.dead_letters()] == [run]


async def test_run_edit_after_a_rollback_is_committed(notes: Project) -> None:
    """A document edited after the rollback is embedded and found; a release then leaves its newer text."""
    async with await notes.open() as bed:
        before = await changed(notes, bed)
        await bed.rollback("notes", before)
        notes.write("notes/one.txt", "note later")
        report = await bed.run()
        assert report.embedded == 1
        assert await texts(bed) == (BEFORE - {"one"}) | {"later"}
        await bed.release("notes")
        assert await texts(bed) == (AFTER - {"edited"}) | {"later"}


PARAGRAPH = "word " * 230  # nearly a chunk of tokens, so that the next paragraph starts another chunk


def edition(*words: str) -> str:
    """Write a document of one chunk a word."""
    return "\n\n".join(f"{PARAGRAPH}{word}" for word in words)


@pytest.mark.parametrize(
    ("before", "undone", "after"),
    [
        (["a0", "b0"], ["a1"], ["a2"]),
        (["a0", "b0"], ["a1"], ["a2", "b0"]),
        (["a0", "b0"], ["a0", "x1", "b0"], ["a2", "x1", "b0"]),
        (["a0", "b0"], ["a1", "b1"], ["a0", "b1"]),
        (["a0", "b0"], ["a1"], None),
        (["a0"], None, ["a2"]),
        (["a0", "b0"], None, ["a2"]),
    ],
)
@pytest.mark.parametrize("planned", [False, True])
async def test_run_document_edited_after_a_rollback_is_indexed_whole(
    notes: Project, before: list[str], undone: list[str] | None, after: list[str] | None, *, planned: bool
) -> None:
    """Chunks that a rollback reverted or restored follow the document's next edit; a release does not change them."""
    note = notes.folder / "notes" / "long.txt"

    async def edit(bed: Flowbed, words: list[str] | None) -> None:
        if words is None:
            note.unlink()
        else:
            note.write_text(edition(*words), "utf-8")
        plan = (await bed.plan()).plan_id if planned else None
        report = await bed.run(plan=plan)
        assert report.failed == 0

    async with await notes.open() as bed:
        await edit(bed, before)
        target = (await bed.versions("notes"))[0].version
        await edit(bed, undone)
        await bed.rollback("notes", target)
        assert await texts(bed) == BEFORE | {*before}
        await edit(bed, after)
        assert await texts(bed) == BEFORE | {*(after or ())}
        assert (await bed.verify())["notes"].faults == ()
        await bed.release("notes")
        assert await texts(bed) == BEFORE | {*(after or ())}
        assert (await bed.run()).chunks == 0


async def test_release_delta_deleted_by_gc_is_embedded_again(
    notes: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose delta was too old to be kept is embedded again once released, and is no fault before."""
    async with await notes.open() as bed:
        before = await changed(notes, bed)
        real = clocks.now
        monkeypatch.setattr(clocks, "now", lambda: real() + MONTH)
        assert (await bed.gc()).objects["delta"] == 2
        await bed.rollback("notes", before)
        assert (await bed.verify())["notes"].faults == ()
        released = await bed.release("notes")
        assert (released.runs, released.again, released.refused) == (0, 1, ())
        assert await bed.dead_letters() == []
        assert await texts(bed) == BEFORE
        report = await bed.run()
        assert (report.failed, report.chunks, report.deleted) == (0, 2, 1)
        assert await texts(bed) == AFTER
        assert await statuses(bed) == {"SUCCESS": 4}
    assert set(notes.sent()) <= {QUERY}  # the vectors are in the cache


@pytest.mark.parametrize("planned", [False, True])
async def test_rollback_edit_waiting_meanwhile_is_indexed_whole(notes: Project, *, planned: bool) -> None:
    """An edit fetched or planned before a rollback and merged after it includes the rest of its document."""
    async with await notes.open() as bed:
        for words in (["a0", "b0"], ["a0", "x1", "b0"]):
            notes.write("notes/long.txt", edition(*words))
            await bed.run()
        target = (await bed.versions("notes"))[1].version
        notes.write("notes/long.txt", edition("a2", "x1", "b0"))
        plan = None
        if planned:
            plan = (await bed.plan()).plan_id
        else:
            await bed.run(limit=0)
        await bed.rollback("notes", target)
        assert await texts(bed) == BEFORE | {"a0", "b0"}
        report = await bed.run(plan=plan)
        assert len(report.drift) == planned
        await bed.run()
        assert await texts(bed) == BEFORE | {"a2", "x1", "b0"}


async def test_rollback_unedited_document_stays_rolled_back(notes: Project) -> None:
    """A document without waiting chunks stays rolled back while others are fetched."""
    async with await notes.open() as bed:
        before = await changed(notes, bed)
        notes.write("notes/three.txt", "note waits")
        await bed.run(limit=0)
        await bed.rollback("notes", before)
        report = await bed.run()
        assert (report.fetched, report.embedded) == (0, 1)
        assert await texts(bed) == BEFORE - {"three"} | {"waits"}


async def test_rollback_twice_makes_one_version(notes: Project) -> None:
    """Repeating a rollback makes no further version and returns the same result."""
    async with await notes.open() as bed:
        before = await changed(notes, bed)
        first = await bed.rollback("notes", before)
        assert await bed.rollback("notes", before) == first
        again = await bed.rollback("notes", first.version)
        assert (again.runs, again.version) == (0, first.version)


async def test_rollback_forward_commits_the_runs_again(notes: Project) -> None:
    """A rollback to a version that an earlier rollback undid commits its runs again, and another reverts them."""
    async with await notes.open() as bed:
        before = await changed(notes, bed)
        after = (await bed.versions("notes"))[0].version
        await bed.rollback("notes", before)
        await bed.rollback("notes", after)
        assert await texts(bed) == AFTER
        assert await statuses(bed) == {"SUCCESS": 4}
        await bed.rollback("notes", before)
        assert await texts(bed) == BEFORE
        assert await statuses(bed) == {"SUCCESS": 2, "REVERTED": 3}


async def test_rollback_after_compaction_restores_the_rows(notes: Project) -> None:
    """Compacting before and after keeps a version that can be rolled back to, and its rows."""
    async with await notes.open() as bed:
        before = await changed(notes, bed)
        await bed.compact("notes")
        await bed.rollback("notes", before)
        await bed.compact("notes")
        assert await texts(bed) == BEFORE


@pytest.mark.parametrize("version", [0, 99, -1])
async def test_rollback_unknown_version_names_the_kept_ones(notes: Project, version: int) -> None:
    """Rolling back to an unknown version says which versions are kept, and changes nothing."""
    async with await notes.open() as bed:
        await changed(notes, bed)
        with pytest.raises(NotFound, match=f"no version {version}; it keeps 1-"):
            await bed.rollback("notes", version)
        with pytest.raises(NotFound, match=f"no version {version}; it keeps 1-"):
            await texts(bed, at=version)
        assert await texts(bed) == AFTER


class Killed(BaseException):
    """Raised by a test in place of a signal."""


@pytest.mark.parametrize("point", telemetry.ROLLBACK_FAILPOINTS)
async def test_rollback_interrupted_is_completed_by_the_next_run(notes: Project, point: str) -> None:
    """After an interruption at any point the next run makes rows and ledger agree, and the rollback can be repeated."""
    async with await notes.open() as bed:
        before = await changed(notes, bed)
        with pytest.raises(Killed):
            await at(point, lambda: bed.rollback("notes", before))
    async with await notes.open() as bed:
        report = await bed.run()
        assert report.embedded == 0
        undone = point != telemetry.ROLLBACK_TAGGED
        assert await texts(bed) == (BEFORE if undone else AFTER)
        assert (await statuses(bed)).get("REVERTED", 0) == (3 if undone else 0)
        await bed.rollback("notes", before)
        assert await texts(bed) == BEFORE
        assert await statuses(bed) == {"SUCCESS": 2, "REVERTED": 3}
        assert not any(each.tags for each in await bed.versions("notes"))
        await bed.release("notes")
        assert await texts(bed) == AFTER
    assert set(notes.sent()) <= {QUERY}


async def test_rollback_unmarked_commit_is_reverted_too(notes: Project) -> None:
    """Rows merged by a process that died before marking their run are reverted as well."""
    async with await notes.open() as bed:
        before = (await bed.versions("notes"))[0].version
        notes.write("notes/five.txt", "note five")
        with pytest.raises(Killed):
            await at(telemetry.INDEX_MERGED, bed.run)
        assert await texts(bed) == BEFORE | {"five"}
        done = await bed.rollback("notes", before)
        assert (done.runs, done.chunks) == (1, 1)
        await bed.run()
        assert await texts(bed) == BEFORE


async def test_rollback_beside_runs_keeps_index_and_ledger_consistent(notes: Project) -> None:
    """However runs and rollbacks interleave, exactly the chunks that the ledger calls committed are found."""
    async with await notes.open() as bed, await notes.open() as other:
        target = (await bed.versions("notes"))[0].version

        async def run_often() -> None:
            for number in range(6):
                notes.write(f"notes/more{number}.txt", f"note more{number}")
                await other.run()

        async def roll_back_often() -> None:
            for _ in range(4):
                await asyncio.sleep(0.1)
                await bed.rollback("notes", target)

        await asyncio.gather(run_often(), roll_back_often())
        await bed.run()
        expected = set(BEFORE)
        for number in range(6):
            (why,) = await bed.why(f"notes#more{number}.txt#00000")
            assert why.chunk.status in {"SUCCESS", "REVERTED"}
            if why.chunk.status == "SUCCESS":
                expected.add(f"more{number}")
        assert await texts(bed) == expected
        await bed.release("notes")
        assert await texts(bed) == BEFORE | {f"more{number}" for number in range(6)}


async def at(point: str, work: Callable[[], Any]) -> Any:
    """Carry out `work`, killed at the named failpoint."""

    def end(reached: str, _: dict[str, Any]) -> None:
        if reached == point:
            raise Killed

    stop = telemetry.listen(end)
    try:
        return await work()
    finally:
        stop()
