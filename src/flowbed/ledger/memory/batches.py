"""Batch files: one item each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.ledger import BatchRow
from flowbed.ledger.memory.rows import item_of, row_of
from flowbed.ledger.memory.table import ABSENT, ConditionFailed, Put, Unanswered, read_all

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flowbed.ledger.memory.table import Table


class MemoryBatches:
    """`Batches` in a table."""

    def __init__(self, table: Table) -> None:
        """Take the table."""
        self._table = table

    async def register(self, batch: BatchRow) -> BatchRow:
        """Record a batch file before it is written."""
        place = (f"batch#{batch.id}", "-")
        while (existing := await self._table.get(place)) is None:
            try:
                await self._table.write(Put(place, item_of(batch), expected=ABSENT))
            except (ConditionFailed, Unanswered):
                continue
        return row_of(BatchRow, existing)

    async def get(self, batches: Collection[str]) -> Mapping[str, BatchRow]:
        """Return rows by batch id."""
        items = await read_all(self._table, [(f"batch#{batch}", "-") for batch in sorted(set(batches))])
        return {item["id"]: row_of(BatchRow, item) for item in items}
