"""What the spending in every ledger must do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.ledger import Spent
from flowbed.testing.ledger.rows import spend

if TYPE_CHECKING:
    from flowbed.ledger import Ledger

ALL = 100


class SpendingContract:
    """Tests of `Spending`."""

    async def test_totals_are_empty_at_first(self, ledger: Ledger) -> None:
        """Without rows there is no total, and recording no rows changes nothing."""
        await ledger.spending.record([])
        assert await ledger.spending.totals("run", limit=ALL) == []

    async def test_record_again_changes_nothing(self, ledger: Ledger) -> None:
        """Recording a run, source and document again changes nothing; new rows beside them are added."""
        await ledger.spending.record([spend(), spend("e")])
        again = [spend(cost_usd=9.0, billed=99), spend("f"), spend("f", cost_usd=9.0), spend(source="t")]
        await asyncio.gather(*(ledger.spending.record(again) for _ in range(3)))
        assert await ledger.spending.totals("run", limit=ALL) == [Spent("", "r1", 8, 40, 48, 1.0)]
        assert {each[:2]: each.cost_usd for each in await ledger.spending.totals("document", limit=ALL)} == {
            ("s", "d"): 0.25,
            ("s", "e"): 0.25,
            ("s", "f"): 0.25,
            ("t", "d"): 0.25,
        }

    async def test_totals_by_each_name(self, ledger: Ledger) -> None:
        """Spending is summed by lane, source, document and run, the most expensive first."""
        await ledger.spending.record(
            [
                spend("d", cost_usd=0, billed=3_000_000_000),
                spend("e", cost_usd=4.0),
                spend("d", source="t", cost_usd=1.0, planned=3_000_000_000),
            ]
        )
        await ledger.spending.record([spend("d", run="r2", lane="realtime", cost_usd=0.5)])
        totals = ledger.spending.totals
        assert await totals("lane", limit=ALL) == [
            Spent("", "batch", 6, 3_000_000_020, 3_000_000_024, 5.0),
            Spent("", "realtime", 2, 10, 12, 0.5),
        ]
        assert await totals("source", limit=ALL) == [
            Spent("", "s", 6, 30, 3_000_000_024, 4.5),
            Spent("", "t", 2, 3_000_000_000, 12, 1.0),
        ]
        assert await totals("document", limit=ALL) == [
            Spent("s", "e", 2, 10, 12, 4.0),
            Spent("t", "d", 2, 3_000_000_000, 12, 1.0),
            Spent("s", "d", 4, 20, 3_000_000_012, 0.5),
        ]
        assert await totals("run", limit=ALL) == [
            Spent("", "r1", 6, 3_000_000_020, 3_000_000_024, 5.0),
            Spent("", "r2", 2, 10, 12, 0.5),
        ]

    async def test_totals_by_day_are_days_in_utc(self, ledger: Ledger) -> None:
        """The last microsecond of a day belongs to it, the next one to the next."""
        midnight = 1_764_460_800_000_000  # 2025-11-30
        await ledger.spending.record(
            [spend("d", at=midnight - 1, cost_usd=0.25), spend("e", at=midnight, cost_usd=0.5)]
        )
        await ledger.spending.record([spend("d", run="r2", at=midnight + 5, cost_usd=1.0)])
        assert await ledger.spending.totals("day", limit=ALL) == [
            Spent("", "2025-11-30", 4, 20, 24, 1.5),
            Spent("", "2025-11-29", 2, 10, 12, 0.25),
        ]

    async def test_totals_respect_limit_and_since(self, ledger: Ledger) -> None:
        """The most expensive names are listed up to a limit; spending before `since` does not count."""
        await ledger.spending.record(
            [spend(f"d{n}", run=f"r{n}", at=100 + n, cost_usd=1.0, billed=10 - n) for n in range(5)]
        )
        assert [each.name for each in await ledger.spending.totals("run", limit=2)] == ["r0", "r1"]
        since = await ledger.spending.totals("document", limit=ALL, since=103)
        assert [each.name for each in since] == ["d3", "d4"]
        assert await ledger.spending.totals("lane", limit=ALL, since=105) == []

    async def test_totals_leave_out_rows_without_texts(self, ledger: Ledger) -> None:
        """A row that only marks a run as recorded has no name, and is not recorded again with texts."""
        await ledger.spending.record([spend("", source="", texts=0, planned=0, billed=0, cost_usd=0.0)])
        await ledger.spending.record([spend("", source="")])
        assert await ledger.spending.totals("document", limit=ALL) == []
