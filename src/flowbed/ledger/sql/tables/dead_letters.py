"""What failed permanently, until a person looks at it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger import DeadLetter
from flowbed.ledger.sql.database import Database, listed, proposed
from flowbed.ledger.sql.schema import dead_letters
from flowbed.ledger.text import escaped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence


class SqlDeadLetters:
    """`DeadLetters` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database
        counted = dead_letters.c.attempts + proposed(dead_letters.c.attempts)
        self._put = database.upsert(dead_letters, attempts=counted)

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Add letters."""
        merged: dict[tuple[str, str, str], DeadLetter] = {}
        for letter in letters:
            subject = escaped(letter.subject)
            key = (letter.kind, letter.owner, subject)
            before = merged[key].attempts if key in merged else 0
            merged[key] = replace(
                letter, subject=subject, reason=escaped(letter.reason), attempts=before + letter.attempts
            )
        rows = [vars(letter) for letter in merged.values()]
        await self._database.execute_each(self._put, rows)

    async def pages(self) -> AsyncIterator[list[DeadLetter]]:
        """Iterate over all letters, oldest first."""
        table = dead_letters.c
        by_age = (table.at, table.kind, table.owner, table.subject)
        async for page in self._database.pages(DeadLetter, sa.select(dead_letters), *by_age):
            yield page

    async def count(self) -> int:
        """Count the letters."""
        query = sa.select(sa.func.count()).select_from(dead_letters)
        return await self._database.read(lambda connection: connection.execute(query).scalar_one())

    async def remove(self, kind: str, *, owner: str = "", subjects: Collection[str] = ()) -> int:
        """Remove letters of a kind, optionally only those of an owner or with given subjects."""
        statement = sa.delete(dead_letters).where(dead_letters.c.kind == kind)
        if owner:
            statement = statement.where(dead_letters.c.owner == owner)

        if subjects:
            statement = statement.where(dead_letters.c.subject.in_(listed(list(map(escaped, subjects)))))
        return await self._database.execute(statement)
