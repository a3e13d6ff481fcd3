"""The tokens that each key has used per day."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger.sql.database import Database, listed, proposed
from flowbed.ledger.sql.schema import quotas

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class SqlQuotas:
    """`Quotas` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database
        self._put = database.upsert(quotas, tokens=quotas.c.tokens + proposed(quotas.c.tokens))

    async def add(self, day: str, tokens: Mapping[str, int]) -> Mapping[str, int]:
        """Add tokens to what keys have used, and return each key's new total."""
        # In order of key, so that two processes that add to the same keys cannot deadlock.
        rows = [{"day": day, "key": key, "tokens": tokens[key]} for key in sorted(tokens)]
        if not rows:
            return {}

        def work(connection: sa.Connection) -> Mapping[str, int]:
            self._database.execute_many(connection, self._put, rows)
            return _used(connection, day, tokens)

        return await self._database.write(work)

    async def used(self, day: str, keys: Collection[str]) -> Mapping[str, int]:
        """Return what some keys have used."""
        return await self._database.read(lambda connection: _used(connection, day, keys))

    async def forget(self, *, before: str) -> int:
        """Delete what was used before a day."""
        return await self._database.execute(sa.delete(quotas).where(quotas.c.day < before))


def _used(connection: sa.Connection, day: str, keys: Collection[str]) -> Mapping[str, int]:
    query = sa.select(quotas.c.key, quotas.c.tokens).where(
        quotas.c.day == day, quotas.c.key.in_(listed(keys))
    )
    return {key: tokens for key, tokens in connection.execute(query)}  # noqa: C416 - rows are no pairs to `dict`
