"""Takes from a worker that has died what it holds in the ledger, so that others need not wait until that expires."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.ledger.index_jobs import HoldsIndexJobs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.ledger import Ledger


async def relieve(ledger: Ledger, worker: str) -> None:
    """Release all claims, holds and leases of the process of a worker.

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
            if row.worker.startswith(process):
                await ledger.jobs.save(replace(row, worker="", until=0), worker=row.worker)


async def _release(process: str, names: set[str], release: Callable[[str], Awaitable[int]]) -> None:
    for name in sorted(names):
        if name.startswith(process):
            await release(name)
