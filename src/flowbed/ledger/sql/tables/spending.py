"""What was paid for, by run and document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from flowbed.ledger import Spent
from flowbed.ledger.rows import DAY_US, day_of
from flowbed.ledger.sql.schema import spending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.ledger import SpendRow
    from flowbed.ledger.sql.database import Database


class SqlSpending:
    """`Spending` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the table."""
        self._database = database
        self._put = database.insert_new(spending)

    async def record(self, rows: Sequence[SpendRow]) -> None:
        """Record spending."""
        # In order of key, so that two processes that record the same rows cannot deadlock. A price of 0 may be an int,
        # and the type of the first row counts for all.
        kept = {
            (row.run, row.source, row.document): {**vars(row), "cost_usd": float(row.cost_usd)}
            for row in reversed(rows)
        }
        put = [kept[key] for key in sorted(kept)]
        await self._database.execute_each(self._put, put)

    async def totals(
        self, by: Literal["lane", "source", "document", "run", "day"], *, limit: int, since: int = 0
    ) -> list[Spent]:
        """Sum the spending since a time (µs) by lane, source, document, run or day."""
        table = spending.c
        named: tuple[sa.ColumnElement[Any], ...] = (
            (table.source, table.document)
            if by == "document"
            else ((table.at // DAY_US).label("day"),)
            if by == "day"
            else (table[by],)
        )
        cost, billed = sa.func.sum(table.cost_usd), sa.func.sum(table.billed)
        query = (
            sa.select(
                *named,
                sa.func.sum(table.texts),
                sa.func.sum(table.planned),
                billed,
                cost,
            )
            .where(table.at >= since, table.texts > 0)
            .group_by(*named)
            .order_by(cost.desc(), billed.desc(), *named)
            .limit(limit)
        )
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [
            Spent(
                source=names[0] if len(named) > 1 else "",
                name=day_of(names[-1] * DAY_US) if by == "day" else names[-1],
                texts=int(texts),
                planned=int(planned),
                billed=int(tokens),
                cost_usd=float(dollars),
            )
            for *names, texts, planned, tokens, dollars in rows
        ]
