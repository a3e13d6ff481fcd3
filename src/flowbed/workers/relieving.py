"""Takes from a worker that has died what it holds in the ledger, so that others need not wait until that expires."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.ledger.index_jobs import HoldsIndexJobs
from flowbed.services.batches import deaths as batches
from flowbed.services.vector_stores import deaths as vector_stores

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.ledger import Ledger


async def relieve(ledger: Ledger, worker: str, *, clock: Callable[[], int]) -> None:
    """Release all claims, holds and leases of the process of a worker; `clock` returns µs since 1970.

    Each piece of work of a process has a name of its own, which begins as the worker's does.

    Raises:
        Transient: the ledger cannot be reached.
    """
    process = worker.rpartition("/")[0] + "/"
    await _release(process, await ledger.chunks.workers(), ledger.chunks.release)
    await _release(process, await ledger.submissions.workers(), ledger.submissions.release)
    if isinstance(ledger, HoldsIndexJobs):
        await _release(process, await ledger.index_jobs.workers(), ledger.index_jobs.release)
    async for page in ledger.jobs.pages():
        for row in page:
            held = row.worker.startswith(process)
            if held and await ledger.jobs.save(replace(row, worker="", until=0), worker=row.worker):
                await batches.note_death(ledger, row.id)
    for store in await ledger.vector_stores.due(now=clock()):
        if store.worker.startswith(process):
            await vector_stores.note_death(ledger, store.id)
            await ledger.vector_stores.release(store.id, worker=store.worker)


async def _release(process: str, names: set[str], release: Callable[[str], Awaitable[int]]) -> None:
    for name in sorted(names):
        if name.startswith(process):
            await release(name)
