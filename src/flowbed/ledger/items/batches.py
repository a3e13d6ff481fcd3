"""Batch files: one item each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.ledger import BatchEvent, BatchRow
from flowbed.ledger.items.rows import CURSORS, item_of, row_of
from flowbed.ledger.items.table import ABSENT, ConditionFailed, Put, Unanswered, all_of, pages, read_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from flowbed.ledger.items.table import Table


class ItemBatches:
    """`Batches` in a table."""

    def __init__(self, table: Table, apply: Callable[[], Awaitable[None]]) -> None:
        """Use a table; `apply` applies the swaps that count already, which record batch files."""
        self._table, self._apply = table, apply

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

    async def positions(self) -> Mapping[str, int]:
        """Return the position of each source's newest batch file."""
        await self._apply()
        found = {}
        for cursor in await all_of(self._table.query, CURSORS):
            events = await all_of(self._table.query, f"events#{cursor['source']}")
            if events:
                found[cursor["source"]] = events[-1]["position"]
        return found

    async def events(self, source: str, *, after: int, limit: int) -> list[BatchEvent]:
        """Return the first batch files of a source after a position."""
        await self._apply()
        found: list[BatchEvent] = []
        async for page in pages(self._table.query, f"events#{source}", after=f"{after:020}~"):
            found += [BatchEvent(item["source"], item["position"], item["batch"]) for item in page]
            if len(found) >= limit:
                break
        return found[:limit]
