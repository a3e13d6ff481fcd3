"""The first stage: do the store and the ledger answer, and do they belong together?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.maintenance.checklist.items import Item, stage
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.maintenance.checklist.items import ChecklistContext


@stage("store", how="its folders are listed", unused="")
async def _store(context: ChecklistContext) -> AsyncIterator[Item]:
    names = await context.store.folders("")
    yield Item(
        subject=context.store_path,
        state="ok",
        found=f"it answers, and has {count(len(names), 'folder')}",
        figures={"folders": len(names)},
    )


@stage("ledger", how="its id is compared with the one in the store's flowbed.json", unused="")
async def _ledger(context: ChecklistContext) -> AsyncIterator[Item]:
    overview = await context.ledger.overview()
    yield Item(
        subject=context.ledger.location,
        state="ok",
        found=f"it answers, and is the store's own; {count(len(overview.workers), 'worker')} at work",
        figures={"workers": len(overview.workers)},
    )
