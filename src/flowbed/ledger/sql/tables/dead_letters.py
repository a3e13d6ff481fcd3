"""What failed for good until someone looks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger import DeadLetter
from flowbed.ledger.sql.database import PAGE, Database, listed, proposed
from flowbed.ledger.sql.schema import dead_letters
from flowbed.ledger.text import escaped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

_AGE = sa.tuple_(dead_letters.c.at, dead_letters.c.kind, dead_letters.c.owner, dead_letters.c.subject)


class SqlDeadLetters:
    """`DeadLetters` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database
        counted = dead_letters.c.attempts + proposed(dead_letters.c.attempts)
        self._put = database.upsert(dead_letters, attempts=counted)

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Add letters, or count on those that are there."""
        merged: dict[tuple[str, str, str], DeadLetter] = {}
        for letter in letters:
            subject = escaped(letter.subject)
            key = (letter.kind, letter.owner, subject)
            before = merged[key].attempts if key in merged else 0
            merged[key] = replace(
                letter, subject=subject, reason=escaped(letter.reason), attempts=before + letter.attempts
            )
        rows = [vars(letter) for letter in merged.values()]
        if rows:
            await self._database.write(
                lambda connection: self._database.execute_many(connection, self._put, rows)
            )

    async def pages(self) -> AsyncIterator[list[DeadLetter]]:
        """Read every letter, oldest first."""
        query = sa.select(dead_letters).order_by(*_AGE.clauses).limit(PAGE)
        following = query
        while True:
            page = await self._database.fetch(DeadLetter, following)
            if not page:
                return
            yield page
            last = page[-1]
            following = query.where(sa.tuple_(last.at, last.kind, last.owner, last.subject) < _AGE)

    async def count(self) -> int:
        """Count the letters."""
        query = sa.select(sa.func.count()).select_from(dead_letters)
        return await self._database.read(lambda connection: connection.execute(query).scalar_one())

    async def remove(self, kind: str, *, owner: str = "", subjects: Collection[str] = ()) -> int:
        """Remove letters of a kind."""
        statement = sa.delete(dead_letters).where(dead_letters.c.kind == kind)
        if owner:
            statement = statement.where(dead_letters.c.owner == owner)

        if subjects:
            statement = statement.where(dead_letters.c.subject.in_(listed(list(map(escaped, subjects)))))
        return await self._database.write(lambda connection: connection.execute(statement).rowcount)
