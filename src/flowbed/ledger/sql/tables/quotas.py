"""The tokens and embeddings that each key has used per day."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger.rows import Taken
from flowbed.ledger.sql.database import Database, listed, proposed
from flowbed.ledger.sql.schema import quotas

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class SqlQuotas:
    """`Quotas` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database
        self._put = database.upsert(
            quotas, tokens=quotas.c.tokens + proposed(quotas.c.tokens), embeddings=quotas.c.embeddings
        )

    async def add(self, day: str, tokens: Mapping[str, int]) -> Mapping[str, int]:
        """Add tokens to what keys have used, and return each key's new total."""
        # In order of key, so that two processes that add to the same keys cannot deadlock.
        rows = [{"day": day, "key": key, "tokens": tokens[key], "embeddings": 0} for key in sorted(tokens)]
        if not rows:
            return {}

        def work(connection: sa.Connection) -> Mapping[str, int]:
            self._database.execute_many(connection, self._put, rows)
            return _used(connection, day, tokens)

        return await self._database.write(work)

    async def used(self, day: str, keys: Collection[str]) -> Mapping[str, int]:
        """Return what some keys have used."""
        return await self._database.read(lambda connection: _used(connection, day, keys))

    async def take(self, day: str, key: str, wanted: int, *, least: int, most: int) -> Taken:
        """Take up to `wanted` embeddings of a key's `most` of a day."""
        row = sa.and_(quotas.c.day == day, quotas.c.key == key)
        fresh = self._database.insert_new(quotas).values(day=day, key=key, tokens=0, embeddings=0)
        # The row stays locked until it is changed: of two servers, the second sees what the first one took.
        look = sa.select(quotas.c.embeddings).where(row).with_for_update()

        def work(connection: sa.Connection) -> Taken:
            connection.execute(fresh)
            used = int(connection.execute(look).scalar_one())
            granted = min(wanted, most - used)
            if granted < least:
                return Taken(0, used)
            connection.execute(sa.update(quotas).where(row).values(embeddings=used + granted))
            return Taken(granted, used + granted)

        return await self._database.write(work)

    async def give_back(self, day: str, key: str, unspent: int) -> None:
        """Give back embeddings that were taken and not made."""
        left = sa.case((quotas.c.embeddings > unspent, quotas.c.embeddings - unspent), else_=0)
        statement = sa.update(quotas).where(quotas.c.day == day, quotas.c.key == key)
        await self._database.execute(statement.values(embeddings=left))

    async def forget(self, *, before: str) -> int:
        """Delete what was used before a day."""
        return await self._database.execute(sa.delete(quotas).where(quotas.c.day < before))


def _used(connection: sa.Connection, day: str, keys: Collection[str]) -> Mapping[str, int]:
    query = sa.select(quotas.c.key, quotas.c.tokens).where(
        quotas.c.day == day, quotas.c.key.in_(listed(keys)), quotas.c.tokens > 0
    )
    return {key: tokens for key, tokens in connection.execute(query)}  # noqa: C416 - rows are no pairs to `dict`
