"""Workers that died at a store: where it does not get on in between, its files may be what kills them.

They are counted by the store that a worker held, since a task does not say which one it works on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.ledger.vector_stores import FAILED
from flowbed.ledger.workers import STORE_DEATHS, HoldsWorkers
from flowbed.services.vector_stores.attached import FAULT, FILES_TOGETHER
from flowbed.telemetry import log

if TYPE_CHECKING:
    from flowbed.ledger import Ledger

# Workers that may die at the same files of a store before these have failed: as many as at a task.
DEATHS_MOST = 5


async def note_death(ledger: Ledger, store: str) -> None:
    """Count a worker that died while it held a store; after several, the files that it worked on have failed.

    Nobody knows which of them killed it, and who attached them would wait for ever.
    """
    if not isinstance(ledger, HoldsWorkers):
        return
    deaths = (await ledger.workers.add(STORE_DEATHS, [store]))[store]
    if deaths < DEATHS_MOST:
        return
    error = f"{deaths} workers of the server died while they indexed this file and others: attach it again."
    for row in await ledger.vector_store_files.working(store, limit=FILES_TOGETHER):
        if row.work == "attach":
            failed = replace(row, status=FAILED, work="clean", usage=0, code=FAULT, error=error)
            await ledger.vector_store_files.settle(failed)
    await forget_deaths(ledger, store)
    log.error("%d workers died at vector store %s: the files that they worked on have failed", deaths, store)


async def forget_deaths(ledger: Ledger, store: str) -> None:
    """Forget who died at a store, since it has got on."""
    if isinstance(ledger, HoldsWorkers):
        await ledger.workers.unmark(STORE_DEATHS, [store])
