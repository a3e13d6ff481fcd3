"""The vector stores of the server's API."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger.sql import holds
from flowbed.ledger.sql.database import Database, records
from flowbed.ledger.sql.schema import vector_store_batches, vector_store_files, vector_stores
from flowbed.ledger.sql.vector_stores.windows import read_window
from flowbed.ledger.text import escaped, is_unstorable
from flowbed.ledger.vector_stores import DAY, VectorStoreRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.ledger.vector_stores import Window

# What a description of a store may change.
DESCRIBED = ("name", "description", "metadata", "days", "active")


class SqlVectorStores:
    """`VectorStores` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the table."""
        self._database = database

    async def create(self, store: VectorStoreRow) -> None:
        """Record a store."""
        await self._database.execute(self._database.insert_new(vector_stores).values(vars(_storable(store))))

    async def get(self, store: str) -> VectorStoreRow | None:
        """Return one store of any owner, deleted or not, or None."""
        return await holds.read(self._database, VectorStoreRow, vector_stores, store)

    async def list(self, owner: str, window: Window) -> Sequence[VectorStoreRow]:
        """Return an owner's stores that are not deleted."""
        row = vector_stores.c
        query = sa.select(vector_stores).where(row.owner == owner, row.deleted == 0)
        return await read_window(
            self._database, VectorStoreRow, query, window, created=row.created, id_=row.id
        )

    async def describe(self, store: VectorStoreRow) -> bool:
        """Write what may be changed of a store that is not deleted."""
        row, said = vector_stores.c, vars(_storable(store))
        statement = (
            sa.update(vector_stores)
            .where(row.id == store.id, row.deleted == 0)
            .values({name: said[name] for name in DESCRIBED})
        )
        return await self._database.execute(statement) > 0

    async def touch(self, store: str, *, at: int) -> None:
        """Record that a store was used."""
        row = vector_stores.c
        await self._database.execute(
            sa.update(vector_stores).where(row.id == store, row.active < at).values(active=at)
        )

    async def delete(self, store: str, *, at: int) -> bool:
        """Mark a store deleted."""
        if is_unstorable(store):
            return False
        row = vector_stores.c
        return (
            await self._database.execute(
                sa.update(vector_stores).where(row.id == store, row.deleted == 0).values(deleted=at)
            )
            > 0
        )

    async def due(self, *, now: int) -> Sequence[VectorStoreRow]:
        """Return the stores with work, oldest first."""
        row, file = vector_stores.c, vector_store_files.c
        # Each kind of work by itself, so that each finds it by an index.
        busy = sa.union_all(
            *(
                sa.select(file.store).where(file.work == work)
                for work in ("attach", "update", "clean", "remove")
            )
        )
        used = sa.select(file.store).where(file.store == row.id, file.work != "remove").exists()
        over = sa.and_(row.days > 0, row.active + row.days * DAY <= now, used)
        query = (
            sa.select(vector_stores)
            .where(row.ended == 0, sa.or_(row.deleted > 0, row.id.in_(busy), over))
            .order_by(row.created, row.id)
        )
        return await self._database.fetch(VectorStoreRow, query)

    async def hold(self, store: str, *, worker: str, now: int, until: int) -> VectorStoreRow | None:
        """Hold a store for `worker` until `until`."""
        return await holds.hold(
            self._database, VectorStoreRow, vector_stores, store, worker=worker, now=now, until=until
        )

    async def release(self, store: str, *, worker: str, ended: int = 0) -> None:
        """Release a store that `worker` holds; with `ended`, it has no remains."""

        def work(connection: sa.Connection) -> None:
            row = vector_stores.c
            released = (
                sa.update(vector_stores)
                .where(row.id == store, row.worker == worker, row.ended == 0)
                .values(worker="", until=0, ended=ended)
                .returning(*row)
            )
            if records(VectorStoreRow, connection.execute(released)) and ended:
                for table in (vector_store_files, vector_store_batches):
                    connection.execute(sa.delete(table).where(table.c.store == store))

        await self._database.write(work)


def _storable(store: VectorStoreRow) -> VectorStoreRow:
    return replace(
        store,
        name=escaped(store.name),
        description=escaped(store.description),
        metadata=escaped(store.metadata),
    )
