"""What was paid for, by run and document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa

from flowbed.ledger import Spent
from flowbed.ledger.database import Database
from flowbed.ledger.schema import spending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.ledger import SpendRow


class SqlSpending:
    """`Spending` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the table."""
        self._database = database
        self._put = database.insert_new(spending)

    async def record(self, rows: Sequence[SpendRow]) -> None:
        """Record what was spent."""
        # In the order of keys, so that two processes that record the same do not wait for each other in a ring.
        kept = {(row.run, row.source, row.document): vars(row) for row in reversed(rows)}
        put = [kept[key] for key in sorted(kept)]
        if put:
            await self._database.write(
                lambda connection: self._database.execute_many(connection, self._put, put)
            )

    async def totals(
        self, by: Literal["lane", "source", "document", "run"], *, limit: int, since: int = 0
    ) -> list[Spent]:
        """Add up what was spent under each name."""
        table = spending.c
        name = table[by]
        source: sa.ColumnElement[str] = table.source if by == "document" else sa.literal("")
        cost = sa.func.sum(table.cost_usd)
        query = (
            sa.select(
                source,
                name,
                sa.func.sum(table.texts),
                sa.func.sum(table.planned),
                sa.func.sum(table.billed),
                cost,
            )
            .where(table.at >= since, table.texts > 0)
            .group_by(*((table.source, name) if by == "document" else (name,)))
            .order_by(cost.desc(), sa.func.sum(table.billed).desc(), name)
            .limit(limit)
        )
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [
            Spent(
                source=str(row[0]),
                name=str(row[1]),
                texts=int(row[2]),
                planned=int(row[3]),
                billed=int(row[4]),
                cost_usd=float(row[5]),
            )
            for row in rows
        ]
