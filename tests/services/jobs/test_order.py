"""Many jobs of several priorities and owners: each is executed once, in order, and none waits for ever."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flowbed.ledger import open_ledger
from flowbed.ledger.index_jobs import STAGES, IndexJobRow, JobNote
from flowbed.testing.ledger.index_jobs import index_job, jobs_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from flowbed.ledger.index_jobs import IndexJobs

SECOND = 1_000_000  # µs
A = 20  # s that a point of priority is worth
PRIORITIES = (90, 50, 10)
OVERLOAD = 1.3  # jobs that come while one is executed
CANCELLED = 0.05  # of the jobs


@dataclass
class Queue:
    """A queue of jobs, and a worker that takes a second for each; jobs come faster than that."""

    jobs: IndexJobs
    now: int = SECOND
    made: dict[str, IndexJobRow] = field(default_factory=dict)
    claimed: list[tuple[str, int]] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)

    async def create(self, id_: str, priority: int, owner: str = "o") -> None:
        key = self.now + (100 - priority) * A * SECOND
        row = index_job(id_, owner=owner, created=self.now, key=key, priority=priority)
        self.made[id_] = await self.jobs.create(row, JobNote("job.created", "{}", self.now), since=0)

    async def cancel(self, id_: str) -> None:
        row = await self.jobs.cancel(id_, "keep", JobNote("job.cancelling", "{}", self.now))
        if row is not None and not row.ended:
            self.cancelled.add(id_)

    async def work(self) -> bool:
        row = await self.jobs.claim(STAGES, worker="w", now=self.now, until=self.now + SECOND)
        if row is None:
            return False
        self.claimed.append((row.id, self.now))
        state = "cancelled" if row.cancel else "completed"
        ended = replace(row, state=state, ended=self.now + 1, worker="", until=0)
        assert await self.jobs.save(ended, worker="w") is not None
        return True


@pytest.fixture
async def queue() -> AsyncIterator[Queue]:
    ledger = await open_ledger(":memory:", folder=Path(), new_id="of this test")
    yield Queue(jobs_of(ledger))
    await ledger.close()


@pytest.mark.parametrize("number", [200, pytest.param(10_000, marks=pytest.mark.long)], ids=["short", "long"])
async def test_jobs_of_three_priorities_are_each_executed_once_in_order(
    number: int, queue: Queue, record_property: Callable[[str, object], None]
) -> None:
    """A job is overtaken only by those created less than the difference of priorities times A after it."""
    chance = random.Random(7)
    for n in range(number):
        await queue.create(f"j{n:05d}", chance.choice(PRIORITIES))
        if chance.random() < CANCELLED:
            await queue.cancel(chance.choice(list(queue.made)))
        queue.now += round(SECOND / OVERLOAD)
        if n % 13 < 10:  # the worker keeps up with 10 of 13
            await queue.work()
    while await queue.work():
        queue.now += SECOND
    rows = await queue.jobs.list(None, limit=number + 1)
    assert sorted(id_ for id_, _ in queue.claimed) == sorted(queue.made)
    assert {row.id for row in rows if row.state == "cancelled"} == queue.cancelled
    assert all(row.ended for row in rows)
    require_order(queue)
    waits = {
        priority: max(
            at - queue.made[id_].created for id_, at in queue.claimed if queue.made[id_].priority == priority
        )
        for priority in PRIORITIES
    }
    # A job waits for those that were there, at most 3 of 13, and for those of a higher priority that came in 80 x A.
    assert waits[90] <= waits[50] <= waits[10] <= (80 * A * OVERLOAD + number * 3 / 13) * SECOND
    for priority, wait in waits.items():
        record_property(f"longest_wait_s_{priority}", wait // SECOND)


def require_order(queue: Queue) -> None:
    """Check that each job had the smallest key of those that were there when it was claimed."""
    for place, (id_, at) in enumerate(queue.claimed):
        job = queue.made[id_]
        for later, _ in queue.claimed[place + 1 : place + 100]:
            other = queue.made[later]
            assert (job.key, id_) < (other.key, later) or other.created >= at


async def test_small_owner_does_not_wait_for_a_greedy_one(queue: Queue) -> None:
    for n in range(60):
        await queue.create(f"greedy{n:02d}", 100, "greedy")
    for n in range(3):
        await queue.create(f"small{n}", 0, "small")
    while await queue.work():
        queue.now += SECOND
    places = [place for place, (id_, _) in enumerate(queue.claimed) if id_.startswith("small")]
    assert places == [1, 3, 5]
