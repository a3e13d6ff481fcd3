"""The batch files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger import BatchRow
from flowbed.ledger.sql.database import Database, listed, records
from flowbed.ledger.sql.schema import batches

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class SqlBatches:
    """`Batches` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database

    async def register(self, batch: BatchRow) -> BatchRow:
        """Record a batch file before it is written."""

        def work(connection: sa.Connection) -> BatchRow:
            connection.execute(self._database.insert_new(batches).values(vars(batch)))
            query = sa.select(batches).where(batches.c.id == batch.id)
            return records(BatchRow, connection.execute(query))[0]

        return await self._database.write(work)

    async def get(self, batches_: Collection[str]) -> Mapping[str, BatchRow]:
        """Return rows by batch id."""
        query = sa.select(batches).where(batches.c.id.in_(listed(batches_)))
        return {row.id: row for row in await self._database.fetch(BatchRow, query)}
