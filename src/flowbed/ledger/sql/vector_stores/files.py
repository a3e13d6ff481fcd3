"""The files of vector stores, and the batches in which they were attached."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from flowbed.ledger.sql import holds
from flowbed.ledger.sql.database import Database, listed, records
from flowbed.ledger.sql.schema import vector_store_batches, vector_store_files
from flowbed.ledger.sql.vector_stores.windows import read_window
from flowbed.ledger.text import escaped, is_unstorable
from flowbed.ledger.vector_stores import (
    CANCELLED,
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    FileBatchRow,
    Tally,
    VectorStoreFileRow,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.ledger.vector_stores import Window

file = vector_store_files.c
# What a worker writes of a file that it has worked on.
SETTLED = ("status", "work", "usage", "code", "error")
CHANGED = {"revision": file.revision + 1}


class SqlVectorStoreFiles:
    """`VectorStoreFiles` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database

    async def attach(self, rows: Sequence[VectorStoreFileRow]) -> None:
        """Record files. One that is there stays, unless it failed, was cancelled or is being removed."""
        statement = self._database.upsert(
            vector_store_files,
            only=sa.or_(file.status == FAILED, file.status == CANCELLED, file.work == "remove"),
            **CHANGED,
        )
        await self._database.execute_each(statement, [vars(_storable(row)) for row in rows])

    async def get(self, store: str, files: Collection[str]) -> Mapping[str, VectorStoreFileRow]:
        """Return rows by file id, those being removed too."""
        if is_unstorable(store):
            return {}
        query = sa.select(vector_store_files).where(file.store == store, file.file.in_(listed(files)))
        return {row.file: row for row in await self._database.fetch(VectorStoreFileRow, query)}

    async def list(
        self, store: str, window: Window, *, status: str = "", among: Collection[str] | None = None
    ) -> Sequence[VectorStoreFileRow]:
        """Return files of a store that are not being removed."""
        query = sa.select(vector_store_files).where(*_there(store, among))
        if status:
            query = query.where(file.status == status)
        return await read_window(
            self._database, VectorStoreFileRow, query, window, created=file.created, id_=file.file
        )

    async def counts(self, store: str, *, among: Collection[str] | None = None) -> Mapping[str, Tally]:
        """Count the files of a store by status."""
        query = (
            sa.select(file.status, sa.func.count(), sa.func.sum(file.usage))
            .where(*_there(store, among))
            .group_by(file.status)
        )
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return {status: Tally(files=files, usage=int(usage)) for status, files, usage in found}

    async def working(self, store: str, *, limit: int | None = None) -> Sequence[VectorStoreFileRow]:
        """Return the files of a store with work, oldest first."""
        query = (
            sa.select(vector_store_files)
            .where(file.store == store, file.work != "")
            .order_by(file.created, file.file)
            .limit(limit)
        )
        return await self._database.fetch(VectorStoreFileRow, query)

    async def describe(self, store: str, file: str, attributes: str) -> VectorStoreFileRow | None:
        """Replace the attributes of a file; a completed one has work then."""
        row = vector_store_files.c
        work = sa.case((sa.and_(row.status == COMPLETED, row.work == ""), "update"), else_=row.work)
        found = await self._change(
            {"attributes": escaped(attributes), "work": work},
            row.store == store,
            row.file == file,
            row.work != "remove",
        )
        return found[0] if found else None

    async def settle(self, row: VectorStoreFileRow) -> bool:
        """Write what a worker found; return False if the row has changed."""
        said = vars(_storable(row))
        statement = (
            sa.update(vector_store_files)
            .where(file.store == row.store, file.file == row.file, file.revision == row.revision)
            .values({name: said[name] for name in SETTLED})
        )
        return await self._database.execute(statement) > 0

    async def cancel(self, store: str, *, batch: str = "", code: str = "", error: str = "") -> int:
        """Cancel, or fail, the files that are in progress."""
        of_batch = [file.batch == batch] if batch else []
        changed = await self._change(
            {
                "status": FAILED if code else CANCELLED,
                "work": "clean",
                "code": code,
                "error": escaped(error),
            },
            file.store == store,
            file.status == IN_PROGRESS,
            file.work != "remove",
            *of_batch,
        )
        return len(changed)

    async def remove(self, store: str, *, file: str = "") -> int:
        """Begin to remove a file, or all files of a store."""
        row = vector_store_files.c
        if is_unstorable(file):
            return 0
        one = [row.file == file] if file else []
        return len(await self._change({"work": "remove"}, row.store == store, row.work != "remove", *one))

    async def detach(self, file: str) -> Sequence[str]:
        """Begin to remove a file from every store."""
        row = vector_store_files.c
        changed = await self._change({"work": "remove"}, row.file == file, row.work != "remove")
        return sorted({each.store for each in changed})

    async def drop(self, rows: Sequence[VectorStoreFileRow]) -> None:
        """Delete the rows of files that are being removed."""
        statement = sa.delete(vector_store_files).where(
            file.store == sa.bindparam("of_store"),
            file.file == sa.bindparam("of_file"),
            file.revision == sa.bindparam("of_revision"),
            file.work == "remove",
        )
        given = [{"of_store": row.store, "of_file": row.file, "of_revision": row.revision} for row in rows]
        await self._database.execute_each(statement, given)

    async def create_batch(self, batch: FileBatchRow) -> None:
        """Record a batch."""
        await self._database.execute(self._database.insert_new(vector_store_batches).values(vars(batch)))

    async def batch(self, batch: str) -> FileBatchRow | None:
        """Return a batch, or None."""
        return await holds.read(self._database, FileBatchRow, vector_store_batches, batch)

    async def cancel_batch(self, batch: str, *, at: int) -> None:
        """Mark a batch cancelled."""
        row = vector_store_batches.c
        await self._database.execute(
            sa.update(vector_store_batches).where(row.id == batch, row.cancelled == 0).values(cancelled=at)
        )

    async def _change(
        self, values: Mapping[str, Any], *which: sa.ColumnElement[bool]
    ) -> Sequence[VectorStoreFileRow]:
        """Change rows, give them the next revision, and return them."""
        statement = sa.update(vector_store_files).where(*which).values({**values, **CHANGED}).returning(*file)
        return await self._database.write(
            lambda connection: records(VectorStoreFileRow, connection.execute(statement))
        )


def _there(store: str, among: Collection[str] | None) -> list[sa.ColumnElement[bool]]:
    """Choose the files of a store that are not being removed."""
    named = [] if among is None else [file.file.in_(listed(among))]
    return [file.store == store, file.work != "remove", *named]


def _storable(row: VectorStoreFileRow) -> VectorStoreFileRow:
    return replace(
        row,
        filename=escaped(row.filename),
        attributes=escaped(row.attributes),
        error=escaped(row.error),
    )
