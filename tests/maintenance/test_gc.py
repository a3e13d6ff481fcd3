"""What gc deletes, and what it never deletes, whenever it runs."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from flowbed import telemetry
from flowbed.errors import NotFound
from flowbed.maintenance import gc
from flowbed.testing.index import assert_same
from flowbed.wiring import process as clocks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.projects import Project

DAY = 86_400.0


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> Aged:
    """Return a clock that can be advanced."""
    return Aged(monkeypatch)


class Aged:
    """A clock that can be advanced; everything written before ages with it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        """Start at the present time."""
        self._patch, self._real = patch, clocks.now

    def by(self, days: float) -> None:
        """Advance by `days`."""
        self._patch.setattr(clocks, "now", lambda: self._real() + int(days * DAY * 1e6))


def stored(project: Project, pattern: str) -> set[Path]:
    """Return the objects of the store that match."""
    return set((project.folder / ".flowbed" / "store").glob(pattern))


async def test_gc_keeps_what_is_needed(notes: Project, aged: Aged) -> None:
    """Right after a run and a day later, everything that a search, a rollback or a repair needs is kept."""
    before = stored(notes, "notes/**/*")
    async with await notes.open() as bed:
        assert (await bed.gc()).objects == {}
        aged.by(0.9)
        assert (await bed.gc()).objects == {}
    assert stored(notes, "notes/**/*") == before


async def test_gc_replaced_texts_are_deleted_with_their_batch(notes: Project, aged: Aged) -> None:
    """A batch file is deleted once every chunk in it has a later text, a day after it was written."""
    (first,) = stored(notes, "notes/chunked/**/*.json")
    async with await notes.open() as bed:
        for name in ("one", "two", "three"):
            notes.write(f"notes/{name}.txt", f"another {name}")
        await bed.run()
        aged.by(2)
        assert "batch file" not in (await bed.gc()).objects  # note four still has its text there
        notes.write("notes/four.txt", "another four")
        await bed.run()
        planned = await bed.gc(dry_run=True)
        assert (planned.objects["batch file"], first.exists()) == (1, True)
        done = await bed.gc()
        assert (done.objects, done.bytes) == (planned.objects, planned.bytes)
        assert not first.exists()
        assert (await bed.verify())["notes"].faults == ()
        assert len(stored(notes, "notes/chunked/**/*.json")) == 2


async def test_gc_deltas_beyond_any_rollback_are_deleted(notes: Project, aged: Aged) -> None:
    """A delta is kept while a version before its commit is, at most for a month."""
    async with await notes.open() as bed:
        notes.write("notes/one.txt", "another one")
        await bed.run()
        assert len(stored(notes, "notes/delta/*/delta.arrow")) == 2
        aged.by(2)
        assert "delta" not in (await bed.gc()).objects
        aged.by(31)
        assert (await bed.gc()).objects["delta"] == 2
        assert (await bed.verify())["notes"].faults == ()


async def test_gc_deltas_of_a_rollback_are_kept_for_its_release(notes: Project, aged: Aged) -> None:
    """Reverted runs can be released weeks later, though gc ran meanwhile."""
    async with await notes.open() as bed:
        before = (await bed.versions("notes"))[0].version
        notes.write("notes/one.txt", "another one")
        await bed.run()
        edited = notes.contents()
        await bed.rollback("notes", before)
        aged.by(20)
        await bed.gc()
        notes.sent()
        await bed.release("notes")
        assert not notes.sent()
    assert_same(notes.contents(), edited)


async def test_gc_named_collection_cleans_only_that(notes: Project, aged: Aged) -> None:
    """With a collection named, only its deltas and indexes are looked at; one that is not there is an error."""
    async with await notes.open() as bed:
        notes.write("notes/one.txt", "another one")
        await bed.run()
        for name in ("two", "three", "four"):
            notes.write(f"notes/{name}.txt", f"another {name}")
        await bed.run()
        aged.by(40)
        assert set((await bed.gc("notes", dry_run=True)).objects) == {"delta"}
        assert set((await bed.gc(dry_run=True)).objects) == {"delta", "batch file"}
        with pytest.raises(NotFound, match="there are: notes"):
            await bed.gc("nothing")


async def test_gc_batch_files_of_other_programs_are_kept(notes: Project, aged: Aged) -> None:
    """A batch file that this ledger does not know, and that is not named by its content, is kept."""
    (own,) = stored(notes, "notes/chunked/**/*.json")
    other = own.with_name(f"batch_{'0' * 64}.json")
    other.write_text('{"chunks": [{"text": "a text", "metadata": {}}]}')
    aged.by(100)
    async with await notes.open() as bed:
        await bed.gc()
    assert other.exists()


async def test_gc_plans_too_old_are_deleted(notes: Project, aged: Aged) -> None:
    """A staged plan goes when it can no longer be run."""
    notes.write("notes/one.txt", "another one")
    async with await notes.open() as bed:
        await bed.plan()
        assert stored(notes, "plans/*/plan.json")
        aged.by(6)
        assert "plan" not in (await bed.gc()).objects
        aged.by(8)
        assert (await bed.gc()).objects["plan"] > 0
    assert not stored(notes, "plans/**/*.json")


async def test_gc_object_needed_again_meanwhile_is_kept(
    notes: Project, aged: Aged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marked objects are checked once more before they are deleted."""
    (first,) = stored(notes, "notes/chunked/**/*.json")
    async with await notes.open() as bed:
        for name in ("one", "two", "three", "four"):
            notes.write(f"notes/{name}.txt", f"another {name}")
        await bed.run()
        aged.by(2)
        used = bed._ledger.chunks.used
        looks = iter(("marked", "needed again"))

        async def asked(batches: set[str]) -> set[str]:
            return set(batches) if next(looks) == "needed again" else await used(batches)

        monkeypatch.setattr(bed._ledger.chunks, "used", asked)
        assert "batch file" not in (await bed.gc()).objects
    assert first.exists()


MOMENTS = [point for point in telemetry.FAILPOINTS if point != telemetry.INDEX_CREATED]


@pytest.mark.parametrize("point", MOMENTS)
async def test_gc_in_the_middle_of_a_run_loses_nothing(
    point: str, notes: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every point of a run, gc without any waiting period deletes nothing that this or the next run needs."""
    for name in ("one", "two"):
        notes.write(f"notes/{name}.txt", f"another {name}")
    (notes.folder / "notes" / "three.txt").unlink()
    notes.write("notes/five.txt", "a fifth")
    ran: list[str] = []

    def collect(reached: str, facts: object) -> None:
        if reached == point and not ran:
            ran.append(point)
            stop()
            asyncio.run_coroutine_threadsafe(other(), loop).result(30)

    async def other() -> None:
        # The view of another process, for which all files look a day old.
        async with await notes.open() as bed:
            await gc.collect(bed._context(), grace=timedelta(seconds=-60))

    loop = asyncio.new_event_loop()
    with Running(loop):
        stop = telemetry.listen(collect)
        async with await notes.open() as bed:
            await bed.run()
            assert ran == [point]
            # What was deleted before the ledger knew of it is read again from its source.
            report = await bed.run()
            assert report.failed == 0
            assert (await bed.verify())["notes"].faults == ()
    assert notes.documents("notes") == {
        f"notes#{name}.txt#00000": text
        for name, text in {
            "one": "another one",
            "two": "another two",
            "four": "note four",
            "five": "a fifth",
        }.items()
    }


class Running:
    """An event loop in a separate thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep a loop that is not running yet."""
        self._loop = loop
        self._thread = threading.Thread(target=loop.run_forever, daemon=True)

    def __enter__(self) -> None:
        """Start it."""
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
