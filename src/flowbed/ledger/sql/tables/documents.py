"""The documents of each source, and the swap that moves its cursor together with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.errors import Conflict
from flowbed.ledger import ChunkRow, Cursor, DocumentRow
from flowbed.ledger.sql.database import Database, listed, proposed, querying
from flowbed.ledger.sql.overview import read_progress
from flowbed.ledger.sql.schema import batch_events, chunks, cursors, documents
from flowbed.ledger.text import require_storable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from flowbed.ledger import Progress, Swap
    from flowbed.ledger.sql.database import Insert

# A retry may have raised a chunk's version since the fetch read it. Without this, the new text could get a lower
# version than a delta of the old text, and lose to it in the index.
_SAME = sa.and_(
    proposed(chunks.c.version) == chunks.c.version,
    proposed(chunks.c.row_hash) == chunks.c.row_hash,
    proposed(chunks.c.deleted) == chunks.c.deleted,
)
_GROWING = sa.case(
    (sa.or_(proposed(chunks.c.version) > chunks.c.version, _SAME), proposed(chunks.c.version)),
    else_=chunks.c.version + 1,
)

_DROP_DOCUMENT = sa.delete(documents).where(
    documents.c.source == sa.bindparam("source"), documents.c.id == sa.bindparam("document")
)


class SqlDocuments:
    """`Documents` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database
        self._put_document = database.upsert(documents)
        self._put_chunk = database.upsert(chunks, version=_GROWING)
        self._put_event = sa.insert(batch_events)

    async def cursor(self, source: str) -> Cursor:
        """Return the cursor of a source."""
        query = sa.select(cursors).where(cursors.c.source == source)
        return await self._database.fetch_one(Cursor, query) or Cursor(source=source)

    async def progress(self, sources: Collection[str]) -> Mapping[str, Progress]:
        """Read how far each source was fetched."""
        return await self._database.read(lambda connection: read_progress(querying(connection), sources))

    async def get(self, source: str, documents_: Collection[str]) -> Mapping[str, DocumentRow]:
        """Return rows by document id."""
        query = sa.select(documents).where(
            documents.c.source == source, documents.c.id.in_(listed(documents_))
        )
        return {row.id: row for row in await self._database.fetch(DocumentRow, query)}

    async def etags(self, source: str, documents_: Collection[str]) -> Mapping[str, str]:
        """Return etags by document id."""
        query = sa.select(documents.c.id, documents.c.etag).where(
            documents.c.source == source, documents.c.id.in_(listed(documents_))
        )

        # Straight from the driver: SQLAlchemy's handling of the rows takes as long as the database itself.
        return await self._database.read(lambda connection: dict(connection.execute(query).cursor.fetchall()))

    async def count(self, source: str) -> int:
        """Count the documents of a source."""
        query = sa.select(sa.func.count()).select_from(documents).where(documents.c.source == source)
        return await self._database.read(lambda connection: connection.execute(query).scalar_one())

    async def pages(self, source: str) -> AsyncIterator[list[DocumentRow]]:
        """Iterate over all documents of a source in order of id."""
        query = sa.select(documents).where(documents.c.source == source)
        async for page in self._database.pages(DocumentRow, query, documents.c.id):
            yield page

    async def swap(self, swap: Swap) -> Cursor:
        """Apply one page of a fetch and return the source's new cursor."""
        database, source = self._database, swap.cursor.source
        # The last row of a key counts. Rows are in order of key, so that two swaps cannot deadlock.
        kept = {(row.id, row.collection): row for row in swap.chunks}
        put = [dict(zip(ChunkRow._fields, kept[key], strict=True)) for key in sorted(kept)]
        documents_ = list({(row.source, row.id): vars(row) for row in swap.documents}.values())
        gone = [{"source": source, "document": document} for document in dict.fromkeys(swap.removed)]
        written = sorted({row.batch for row in swap.chunks if row.batch})
        require_storable(row.id for row in swap.documents)
        require_storable(row.id for row in swap.chunks if not row.deleted)

        def work(connection: sa.Connection) -> Cursor:
            moved = self._advance(connection, swap.cursor, swap.value)
            database.execute_many(connection, _DROP_DOCUMENT, gone)
            database.execute_many(connection, self._put_document, documents_)
            database.execute_many(connection, self._put_chunk, put)
            database.execute_many(
                connection,
                self._put_event,
                [{"source": source, "position": moved.token, "batch": batch} for batch in written],
            )
            return moved

        return await self._database.write(work)

    def _advance(self, connection: sa.Connection, seen: Cursor, value: str) -> Cursor:
        moved = Cursor(source=seen.source, value=value, token=seen.token + 1)
        if seen.token:
            step: sa.Update | Insert = (
                sa.update(cursors)
                .where(cursors.c.source == seen.source, cursors.c.token == seen.token)
                .values(value=moved.value, token=moved.token)
            )
        else:
            step = self._database.insert_new(cursors).values(vars(moved))
        if connection.execute(step.returning(cursors.c.token)).first() is None:
            raise Conflict(
                f"source {seen.source!r} has moved since its cursor was read: fetch again from where it stands"
            )
        return moved
