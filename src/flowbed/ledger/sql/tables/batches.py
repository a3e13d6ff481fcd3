"""The batch files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger import BatchEvent, BatchRow
from flowbed.ledger.sql.database import Database, listed, records
from flowbed.ledger.sql.schema import batch_events, batches

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

    async def positions(self) -> Mapping[str, int]:
        """Return the position of each source's newest batch file."""
        query = sa.select(
            batch_events.c.source, sa.func.max(batch_events.c.position).label("position")
        ).group_by(batch_events.c.source)
        return await self._database.read(
            lambda connection: {row.source: row.position for row in connection.execute(query)}
        )

    async def events(self, source: str, *, after: int, limit: int) -> list[BatchEvent]:
        """Return the first batch files of a source after a position."""
        event = batch_events.c
        query = (
            sa.select(batch_events)
            .where(event.source == source, event.position > after)
            .order_by(event.position, event.batch)
            .limit(limit)
        )
        return await self._database.fetch(BatchEvent, query)
