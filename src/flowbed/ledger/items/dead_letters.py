"""Dead letters: one item each."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.ledger import DeadLetter
from flowbed.ledger.items.rows import LETTERS, item_of, row_of
from flowbed.ledger.items.table import (
    ABSENT,
    ConditionFailed,
    Delete,
    Put,
    Unanswered,
    all_of,
    groups,
    until_answered,
)
from flowbed.ledger.text import escaped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from flowbed.ledger.items.table import Key, Table

PAGE = 1_000


class ItemDeadLetters:
    """`DeadLetters` in a table: all in one partition, since only people read them."""

    def __init__(self, table: Table) -> None:
        """Take the table."""
        self._table = table

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Add letters."""
        for letter in letters:
            await self._add(replace(letter, subject=escaped(letter.subject), reason=escaped(letter.reason)))

    async def pages(self) -> AsyncIterator[list[DeadLetter]]:
        """Iterate over all letters, oldest first."""
        letters = [row_of(DeadLetter, item) for item in await all_of(self._table.query, LETTERS)]
        letters.sort(key=lambda each: (each.at, each.kind, each.owner, each.subject))
        for page in groups(letters, PAGE):
            yield page

    async def count(self) -> int:
        """Count the letters."""
        return len(await all_of(self._table.query, LETTERS))

    async def remove(self, kind: str, *, owner: str = "", subjects: Collection[str] = ()) -> int:
        """Remove letters of a kind, optionally only those of an owner or with given subjects."""
        named = set(map(escaped, subjects))
        gone = 0
        for item in await all_of(self._table.query, LETTERS):
            letter = row_of(DeadLetter, item)
            if (
                letter.kind != kind
                or (owner and letter.owner != owner)
                or (named and letter.subject not in named)
            ):
                continue
            await until_answered(self._table, Delete(item["place"]))
            gone += 1
        return gone

    async def _add(self, letter: DeadLetter) -> None:
        mark = self._table.mark()
        while True:
            existing = await self._table.get(_place(letter))
            if existing and existing["mark"] == mark:
                return None
            attempts = letter.attempts + (existing["attempts"] if existing else 0)
            item = item_of(replace(letter, attempts=attempts)) | {"mark": mark}
            put = Put(_place(letter), item, expected=existing["stamp"] if existing else ABSENT)
            try:
                return await self._table.write(put)
            except (ConditionFailed, Unanswered):
                continue


def _place(letter: DeadLetter) -> Key:
    named = f"{letter.kind}\n{letter.owner}\n{letter.subject}"
    return LETTERS, hashlib.sha256(named.encode()).hexdigest()
