"""How much waits in each queue, and for how long: read from the ledger, which knows it without any engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.lanes.claims import WAITING
from flowbed.ledger.index_jobs import STAGES, HoldsIndexJobs
from flowbed.services.batches.jobs import QUEUE as JOBS
from flowbed.services.jobs.tasks import queue_of
from flowbed.workers.pipeline import BATCH, COMMIT, EMBED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.ledger import Ledger


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
    return {
        EMBED: await _embed(ledger, now),
        COMMIT: await _commit(ledger, now),
        BATCH: await _batch(ledger, now),
        JOBS: await _jobs(ledger, now),
        **await _index_jobs(ledger, now),
    }


def _depth(times: list[int], now: int) -> Depth:
    """Return the depth of things that have waited since some times (µs)."""
    return Depth(waiting=len(times), oldest_seconds=max(0.0, (now - min(times)) / 1e6) if times else 0.0)


async def _embed(ledger: Ledger, now: int) -> Depth:
    names: list[str] = []
    async for page in ledger.chunks.batches(WAITING, now=now, sources=()):
        names += page
    rows = await ledger.batches.get(names[:1])  # the oldest
    oldest = [row.timestamp for row in rows.values()]
    return Depth(waiting=len(names), oldest_seconds=_depth(oldest, now).oldest_seconds)


async def _commit(ledger: Ledger, now: int) -> Depth:
    times = []
    for name in await ledger.runs.collections():
        times += [row.created for row in await ledger.runs.pending(name, limit=1)]
    return _depth(times, now)


async def _batch(ledger: Ledger, now: int) -> Depth:
    return _depth([row.created async for page in ledger.submissions.pages(live=True) for row in page], now)


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
