"""Finds the merchant of a receipt in those of the same source that have the same identifiers."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from flowbed.sources.receipts.reading import normal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowbed.sources.receipts.reading import Receipt

# The share of the receipts with an identifier that must name the same merchant: others may be spelt by OCR.
AGREEMENT = 0.9
# A first line, such as TAX INVOICE, says something only where several receipts agree on it.
LEAST_FIRST = 2

SCHEMA = """
CREATE TABLE neighbours (
    identifier TEXT NOT NULL, merchant TEXT NOT NULL, spelling TEXT NOT NULL, receipts INTEGER NOT NULL,
    PRIMARY KEY (identifier, merchant, spelling)
) WITHOUT ROWID
"""


class Neighbours:
    """The identifiers of all receipts of a fetch that name their merchant.

    They are in a temporary file of SQLite, since there may be millions. Steps may run in different threads, one at a
    time.
    """

    def __init__(self) -> None:
        """Create an empty table, which is deleted when it is closed."""
        self._database = sqlite3.connect("", check_same_thread=False)
        self._database.execute(SCHEMA)

    def close(self) -> None:
        """Delete the table."""
        self._database.close()

    def add(self, receipts: Iterable[Receipt]) -> None:
        """Add those of the receipts whose record names the merchant."""
        rows = []
        for receipt in receipts:
            merchant = receipt.record.get("merchant_name")
            if isinstance(merchant, str) and (name := normal(merchant)):
                rows += [(each, name, merchant.strip()) for each in receipt.identifiers]
        self._database.executemany(
            "INSERT INTO neighbours VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET receipts = receipts + 1",
            rows,
        )

    def merchant(self, receipt: Receipt) -> str:
        """Return the merchant that all neighbours agree on, in its most frequent spelling; empty if there is none."""
        found: dict[str, str] = {}
        for identifier in sorted(receipt.identifiers):
            rows = self._database.execute(
                "SELECT merchant, spelling, receipts FROM neighbours WHERE identifier = ?"
                " ORDER BY receipts DESC, spelling",
                (identifier,),
            ).fetchall()
            counts: dict[str, int] = {}
            for merchant, _, receipts in rows:
                counts[merchant] = counts.get(merchant, 0) + receipts
            total = sum(counts.values())
            if not total or (identifier.startswith("first ") and total < LEAST_FIRST):
                continue
            most = max(counts, key=lambda each: counts[each])
            # An identifier that several merchants share, such as the number of a card terminal, says nothing.
            if counts[most] >= AGREEMENT * total:
                found.setdefault(most, next(spelling for name, spelling, _ in rows if name == most))
        return next(iter(found.values())) if len(found) == 1 else ""
