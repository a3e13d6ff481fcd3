"""The API keys."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from flowbed.errors import Conflict
from flowbed.ledger import KeyRow
from flowbed.ledger.sql.database import Database, records
from flowbed.ledger.sql.schema import keys
from flowbed.ledger.text import escaped

if TYPE_CHECKING:
    from collections.abc import Mapping

_USE = (
    sa.update(keys)
    .where(keys.c.id == sa.bindparam("of_id"), keys.c.used < sa.bindparam("at"))
    .values(used=sa.bindparam("at"))
)


class SqlKeys:
    """`Keys` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database

    async def create(self, key: KeyRow) -> None:
        """Record a key."""
        row = replace(key, name=escaped(key.name))
        values = {**vars(row), "models": orjson.dumps(row.models).decode()}

        def work(connection: sa.Connection) -> None:
            connection.execute(self._database.insert_any_new(keys).values(values))
            existing = sa.select(keys).where(keys.c.id == row.id)
            if _rows(connection.execute(existing)) != [row]:
                raise Conflict(f"there is another key of id {row.id}, or of the same secret")

        await self._database.write(work)

    async def find(self, hash: str) -> KeyRow | None:  # noqa: A002 - the record's own field
        """Return the key whose secret has this hash, revoked or not, or None."""
        found = await self._fetch(sa.select(keys).where(keys.c.hash == hash))
        return found[0] if found else None

    async def all(self) -> list[KeyRow]:
        """Return every key, oldest first."""
        return await self._fetch(sa.select(keys).order_by(keys.c.created, keys.c.id))

    async def exist(self) -> bool:
        """Return whether any key was ever created."""
        query = sa.select(keys.c.id).limit(1)
        return await self._database.read(lambda connection: connection.execute(query).first() is not None)

    async def revoke(self, id: str, *, at: int) -> KeyRow | None:  # noqa: A002 - the record's own field
        """Revoke a key and return it, or None if there is none."""

        def work(connection: sa.Connection) -> KeyRow | None:
            connection.execute(sa.update(keys).where(keys.c.id == id, keys.c.revoked == 0).values(revoked=at))
            found = _rows(connection.execute(sa.select(keys).where(keys.c.id == id)))
            return found[0] if found else None

        return await self._database.write(work)

    async def use(self, times: Mapping[str, int]) -> None:
        """Record when keys were last used, by id."""
        rows = [{"of_id": id_, "at": at} for id_, at in times.items()]
        await self._database.execute_each(_USE, rows)

    async def _fetch(self, query: sa.Select[Any]) -> list[KeyRow]:
        return await self._database.read(lambda connection: _rows(connection.execute(query)))


def _rows(result: sa.CursorResult[Any]) -> list[KeyRow]:
    return [replace(row, models=tuple(orjson.loads(str(row.models)))) for row in records(KeyRow, result)]
