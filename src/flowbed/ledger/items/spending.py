"""What was paid for: one item per run and document, and one per run, to find them by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from flowbed.ledger import SpendRow, Spent
from flowbed.ledger.items.rows import item_of, member_key, row_of
from flowbed.ledger.items.table import Put, all_of, create, until_answered
from flowbed.ledger.rows import day_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.ledger.items.table import Table

RUNS = "spending"


class ItemSpending:
    """`Spending` in a table."""

    def __init__(self, table: Table) -> None:
        """Take the table."""
        self._table = table

    async def record(self, rows: Sequence[SpendRow]) -> None:
        """Record spending."""
        for run in dict.fromkeys(row.run for row in rows):
            # Written before the spending itself, so that `totals` finds every run.
            await until_answered(
                self._table, Put((RUNS, run), {"record": "Spending", "run": run}, expected=None)
            )
        for row in rows:
            place = member_key(f"spending#{row.run}", "-", row.source, row.document)
            await create(self._table, place, item_of(row))

    async def totals(
        self, by: Literal["lane", "source", "document", "run", "day"], *, limit: int, since: int = 0
    ) -> list[Spent]:
        """Sum the spending since a time (µs) by lane, source, document, run or day."""
        found: dict[tuple[str, str], list[SpendRow]] = {}
        for run in await all_of(self._table.query, RUNS):
            for item in await all_of(self._table.query, f"spending#{run['run']}"):
                row = row_of(SpendRow, item)
                if row.at >= since and row.texts:
                    source = row.source if by == "document" else ""
                    name = day_of(row.at) if by == "day" else getattr(row, by)
                    found.setdefault((source, name), []).append(row)
        totals = [
            Spent(
                source=source,
                name=name,
                texts=sum(row.texts for row in rows),
                planned=sum(row.planned for row in rows),
                billed=sum(row.billed for row in rows),
                cost_usd=sum(row.cost_usd for row in rows),
            )
            for (source, name), rows in found.items()
        ]
        return sorted(totals, key=lambda each: (-each.cost_usd, -each.billed, each.source, each.name))[:limit]
