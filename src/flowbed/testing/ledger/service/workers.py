"""What the workers of every ledger that keeps them must do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.ledger.workers import DEATHS, PAUSED, HoldsWorkers, WorkerRow

if TYPE_CHECKING:
    from flowbed.ledger import Ledger
    from flowbed.ledger.workers import Workers

HOUR = 3_600_000_000  # µs


def worker(name: str = "w1", **changes: object) -> WorkerRow:
    """Make a worker."""
    return replace(WorkerRow(id=name, host="one", pid=7, version="v1"), **changes)  # type: ignore[arg-type]


def of(ledger: Ledger) -> Workers:
    """Return the workers of a ledger."""
    assert isinstance(ledger, HoldsWorkers)
    return ledger.workers


class WorkersContract:
    """Tests of `Workers`."""

    async def test_beat_is_by_the_clock_of_the_ledger(self, ledger: Ledger) -> None:
        """The first beat is the start, the last one the present state; times of the caller do not count."""
        rows = of(ledger)
        await rows.beat(worker(started=5, beat=5))
        (first,) = await rows.all()
        assert first.started == first.beat > 1_700_000_000_000_000
        assert 0 <= first.silent < HOUR
        await rows.beat(worker(running='["embed(b1)"]', queues='{"embed": 4}', state="draining"))
        (then,) = await rows.all()
        assert (then.started, then.running, then.queues, then.state) == (
            first.started,
            '["embed(b1)"]',
            '{"embed": 4}',
            "draining",
        )
        assert then.beat >= first.beat

    async def test_all_is_oldest_first_and_removed_is_gone(self, ledger: Ledger) -> None:
        """Removing one that is not there changes nothing."""
        rows = of(ledger)
        for name in ("b", "a"):
            await rows.beat(worker(name))
            await asyncio.sleep(0.002)
        assert [each.id for each in await rows.all()] == ["b", "a"]
        await rows.remove("b")
        await rows.remove("b")
        assert [each.id for each in await rows.all()] == ["a"]

    async def test_reap_is_by_one_and_only_of_the_silent(self, ledger: Ledger) -> None:
        """A reaper that is silent itself is replaced, and a worker that beats again has no reaper."""
        rows = of(ledger)
        for name in ("dead", "w1", "w2"):
            await rows.beat(worker(name))
        assert not await rows.reap("dead", by="w1", silent=HOUR, lost=HOUR)
        assert not await rows.reap("unknown", by="w1", silent=0, lost=0)
        await asyncio.sleep(0.3)
        for name in ("w1", "w2"):
            await rows.beat(worker(name))
        assert await rows.reap("dead", by="w1", silent=300_000, lost=HOUR)
        assert await rows.reap("dead", by="w1", silent=300_000, lost=HOUR)
        assert not await rows.reap("dead", by="w2", silent=300_000, lost=HOUR)
        assert await rows.reap("dead", by="w2", silent=300_000, lost=0)  # w1 counts as lost
        await rows.beat(worker("dead"))
        assert {each.reaper for each in await rows.all()} == {""}

    async def test_turn_is_taken_by_one(self, ledger: Ledger) -> None:
        """Again after its time, and of another name at once."""
        rows = of(ledger)
        taken = await asyncio.gather(*(rows.turn("sweep", every=HOUR) for _ in range(5)))
        assert sorted(taken) == [False] * 4 + [True]
        assert await rows.turn("another", every=HOUR)
        await asyncio.sleep(0.005)
        assert await rows.turn("sweep", every=1_000)
        assert not await rows.turn("sweep", every=HOUR)

    async def test_marks_are_kept_by_kind_and_name(self, ledger: Ledger) -> None:
        """They are set, counted and removed."""
        rows = of(ledger)
        assert await rows.marks(PAUSED, DEATHS) == [{}, {}]
        await rows.mark(PAUSED, "embed", 1)
        await rows.mark(PAUSED, "embed", 2)
        assert await rows.add(DEATHS, ["a", "b"]) == {"a": 1, "b": 1}
        assert await rows.add(DEATHS, ["a"]) == {"a": 2}
        assert await rows.add(DEATHS, []) == {}
        assert await rows.marks(PAUSED, DEATHS) == [{"embed": 2}, {"a": 2, "b": 1}]
        assert await rows.unmark(DEATHS, ["a", "c"]) == 1
        assert await rows.unmark(DEATHS, []) == 0
        assert await rows.marks(DEATHS) == [{"b": 1}]
