"""Takes from a worker that has died what it holds in the ledger, so that others need not wait until that expires."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbed.ledger import Ledger


async def relieve(ledger: Ledger, worker: str) -> None:
    """Release all claims, holds and leases of the process of a worker.

    Each piece of work of a process has a name of its own, which begins as the worker's does.

    Raises:
        Transient: the ledger cannot be reached.
    """
    process = worker.rpartition("/")[0] + "/"
    for name in sorted(await ledger.chunks.workers()):
        if name.startswith(process):
            await ledger.chunks.release(name)
    for name in sorted(await ledger.submissions.workers()):
        if name.startswith(process):
            await ledger.submissions.release(name)
    async for page in ledger.jobs.pages():
        for row in page:
            if row.worker.startswith(process):
                await ledger.jobs.save(replace(row, worker="", until=0), worker=row.worker)
