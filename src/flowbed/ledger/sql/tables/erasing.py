"""Removes rows from all tables without a trace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger.rows import FORGOTTEN, SpendRow
from flowbed.ledger.sql.database import Database, proposed, records
from flowbed.ledger.sql.schema import chunks, cursors, documents, runs, spending, submissions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.ledger import Erasure

_DROP_CHUNK = sa.delete(chunks).where(
    chunks.c.collection == sa.bindparam("in_collection"), chunks.c.id == sa.bindparam("chunk")
)
_DROP_DOCUMENT = sa.delete(documents).where(
    documents.c.source == sa.bindparam("of_source"), documents.c.id == sa.bindparam("document")
)
_OF_DOCUMENT = sa.and_(
    spending.c.source == sa.bindparam("of_source"), spending.c.document == sa.bindparam("of_document")
)


class SqlErasing:
    """`Erasing` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database
        table = spending.c
        summed = (table.texts, table.planned, table.billed, table.cost_usd)
        self._add = database.upsert(spending, **{each.name: each + proposed(each) for each in summed})

    async def erase(self, erasure: Erasure) -> int:
        """Remove the rows of chunks and documents, and their names in spending."""
        # In order of key, so that it cannot deadlock with a swap.
        gone = [{"in_collection": name, "chunk": key} for name, key in sorted(set(erasure.chunks))]
        left = [{"of_source": name, "document": key} for name, key in sorted(set(erasure.documents))]
        names = {key for _, key in (*erasure.chunks, *erasure.documents)}

        def work(connection: sa.Connection) -> int:
            for source in sorted(set(erasure.sources)):
                self._move(connection, source, names)
            removed = self._database.execute_many(connection, _DROP_DOCUMENT, left)
            removed += self._database.execute_many(connection, _DROP_CHUNK, gone)
            for source, document in sorted(set(erasure.documents)):
                self._rename(connection, source, document)
            for table in (runs, submissions):
                found = connection.execute(
                    sa.select(table.c.id, table.c.error).where(table.c.error != "")
                ).all()
                named = [key for key, error in found if any(name in error for name in names)]
                for key in named:
                    connection.execute(sa.update(table).where(table.c.id == key).values(error=""))
            return removed

        return await self._database.write(work)

    async def scrub(self) -> str:
        """Overwrite on the disk what removed rows have left there."""
        return await self._database.scrub()

    def _move(self, connection: sa.Connection, source: str, names: set[str]) -> None:
        mine = cursors.c.source == source
        value = connection.execute(sa.select(cursors.c.value).where(mine)).scalar()
        kept = "" if value is None or any(name in value for name in names) else value
        connection.execute(sa.update(cursors).where(mine).values(token=cursors.c.token + 1, value=kept))

    def _rename(self, connection: sa.Connection, source: str, document: str) -> None:
        named = {"of_source": source, "of_document": document}
        found: Sequence[SpendRow] = records(
            SpendRow, connection.execute(sa.select(spending).where(_OF_DOCUMENT), named)
        )
        connection.execute(sa.delete(spending).where(_OF_DOCUMENT), named)
        for row in found:
            connection.execute(self._add, vars(replace(row, document=FORGOTTEN)))
