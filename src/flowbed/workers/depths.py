"""How much waits in each queue, and for how long: read from the ledger, which knows it without any engine.

Tasks that were given up are not among it: no worker takes them, however many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.lanes.claims import WAITING
from flowbed.ledger.index_jobs import STAGES, HoldsIndexJobs
from flowbed.ledger.workers import DEATHS, HoldsWorkers
from flowbed.records.tasks import Task
from flowbed.services.batches.jobs import QUEUE as JOBS
from flowbed.services.jobs.tasks import queue_of
from flowbed.services.vector_stores.stage import QUEUE as STORES
from flowbed.workers.membership import DEATHS_MOST
from flowbed.workers.pipeline import BATCH, COMMIT, EMBED, Commit, Embed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flowbed.ledger import Ledger


# Vector stores that are searched for the file that has waited longest: the oldest ones.
LOOKED_AT = 64


@dataclass(frozen=True, kw_only=True)
class Depth:
    """The tasks of a queue that nobody holds, and for how long the oldest has waited (s)."""

    waiting: int = 0
    oldest_seconds: float = 0.0


async def depths(ledger: Ledger, *, now: int) -> Mapping[str, Depth]:
    """Return the depth of each queue that has one: `now` is µs since 1970.

    Raises:
        Transient: the ledger cannot be reached.
    """
    left = await given_up(ledger)
    return {
        EMBED: await _embed(ledger, now, left),
        COMMIT: await _commit(ledger, now, left),
        BATCH: await _batch(ledger, now),
        JOBS: await _jobs(ledger, now),
        STORES: await _stores(ledger, now),
        **await _index_jobs(ledger, now),
    }


async def given_up(ledger: Ledger) -> Mapping[str, int]:
    """Return the ids of tasks that are left alone until they are retried, with how many workers died at each."""
    if not isinstance(ledger, HoldsWorkers):
        return {}
    deaths = (await ledger.workers.marks(DEATHS))[0]
    return {task: number for task, number in sorted(deaths.items()) if number >= DEATHS_MOST}


def _depth(times: list[int], now: int) -> Depth:
    """Return the depth of things that have waited since some times (µs)."""
    return Depth(waiting=len(times), oldest_seconds=max(0.0, (now - min(times)) / 1e6) if times else 0.0)


async def _embed(ledger: Ledger, now: int, left: Collection[str]) -> Depth:
    names: list[str] = []
    async for page in ledger.chunks.batches(WAITING, now=now, sources=()):
        names += [
            name for name in page if Task(workflow=Embed.workflow, key=name, queue=EMBED).id not in left
        ]
    rows = await ledger.batches.get(names[:1])  # the oldest
    oldest = [row.timestamp for row in rows.values()]
    return Depth(waiting=len(names), oldest_seconds=_depth(oldest, now).oldest_seconds)


async def _commit(ledger: Ledger, now: int, left: Collection[str]) -> Depth:
    times = []
    for name in await ledger.runs.collections():
        if Task(workflow=Commit.workflow, key=name, queue=COMMIT).id in left:
            continue
        times += [row.created for row in await ledger.runs.pending(name, limit=1)]
    return _depth(times, now)


async def _batch(ledger: Ledger, now: int) -> Depth:
    return _depth(
        [
            row.created
            async for page in ledger.submissions.pages(live=True)
            for row in page
            # One that the provider works on, or that is tried again later, waits for no worker.
            if row.state != "submitted" and row.later <= now and row.until < now
        ],
        now,
    )


async def _stores(ledger: Ledger, now: int) -> Depth:
    free = [row.id for row in await ledger.vector_stores.due(now=now) if row.until < now]
    files = [await ledger.vector_store_files.working(store, limit=1) for store in free[:LOOKED_AT]]
    attached = [row.created for rows in files for row in rows if row.work == "attach"]
    return Depth(waiting=len(free), oldest_seconds=_depth(attached, now).oldest_seconds)


async def _index_jobs(ledger: Ledger, now: int) -> Mapping[str, Depth]:
    if not isinstance(ledger, HoldsIndexJobs):
        return {}
    found = await ledger.index_jobs.depths(now=now)
    return {
        queue_of(stage): Depth(
            waiting=found[stage].waiting, oldest_seconds=max(0.0, (now - found[stage].oldest) / 1e6)
        )
        if stage in found and found[stage].waiting
        else Depth()
        for stage in STAGES
    }


async def _jobs(ledger: Ledger, now: int) -> Depth:
    return _depth(
        [
            row.created
            async for page in ledger.jobs.pages()
            for row in page
            if not row.worker or row.until < now
        ],
        now,
    )
