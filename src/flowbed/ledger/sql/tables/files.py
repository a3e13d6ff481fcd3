"""The files of the server's Files API."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger import FileRow
from flowbed.ledger.sql.schema import files
from flowbed.ledger.text import escaped, is_unstorable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.ledger.sql.database import Database


class SqlFiles:
    """`Files` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the table."""
        self._database = database

    async def create(self, file: FileRow) -> None:
        """Record a file."""
        row = replace(file, filename=escaped(file.filename))
        statement = self._database.insert_new(files).values(vars(row))
        await self._database.execute(statement)

    async def get(self, file: str) -> FileRow | None:
        """Return one file of any owner, or None."""
        if is_unstorable(file):
            return None
        return await self._database.fetch_one(FileRow, sa.select(files).where(files.c.id == file))

    async def list(
        self,
        owner: str,
        *,
        purpose: str | None,
        after: str | None,
        limit: int,
        descending: bool,
        now: int = 0,
    ) -> Sequence[FileRow]:
        """Return an owner's files in order of time and id, those that follow the id `after`."""
        if purpose is not None and is_unstorable(purpose):
            return []
        order = [each.desc() if descending else each.asc() for each in (files.c.created, files.c.id)]
        query = sa.select(files).where(files.c.owner == owner, _kept(now)).order_by(*order).limit(limit)
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        if after is not None:
            known = await self.get(after)
            if known is None or known.owner != owner:
                return []
            place, last = sa.tuple_(files.c.created, files.c.id), sa.tuple_(known.created, known.id)
            query = query.where(place < last if descending else place > last)
        return await self._database.fetch(FileRow, query)

    async def stored(self, owner: str, *, now: int) -> int:
        """Sum the bytes of an owner's files that have not expired."""
        query = sa.select(sa.func.coalesce(sa.func.sum(files.c.bytes), 0)).where(
            files.c.owner == owner, _kept(now)
        )
        return int(await self._database.read(lambda connection: connection.execute(query).scalar_one()))

    async def count(self, owner: str, *, now: int) -> int:
        """Count an owner's files that have not expired."""
        query = sa.select(sa.func.count()).select_from(files).where(files.c.owner == owner, _kept(now))
        return int(await self._database.read(lambda connection: connection.execute(query).scalar_one()))

    async def remove(self, file: str) -> bool:
        """Remove a file."""
        if is_unstorable(file):
            return False
        return await self._database.execute(sa.delete(files).where(files.c.id == file)) > 0

    async def expired(self, *, now: int, limit: int) -> Sequence[FileRow]:
        """Return expired files of any owner."""
        query = (
            sa.select(files)
            .where(files.c.expires > 0, files.c.expires <= now)
            .order_by(files.c.expires, files.c.id)
            .limit(limit)
        )
        return await self._database.fetch(FileRow, query)


def _kept(now: int) -> sa.ColumnElement[bool]:
    return sa.or_(files.c.expires == 0, files.c.expires > now)
