"""API keys and quotas: one item each, and one more per key that makes its hash unique."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import Conflict
from flowbed.ledger import KeyRow
from flowbed.ledger.items.rows import item_of, row_of
from flowbed.ledger.items.table import (
    ABSENT,
    ConditionFailed,
    Delete,
    Put,
    Unanswered,
    all_of,
    read_all,
    until_answered,
    update,
)
from flowbed.ledger.rows import Taken
from flowbed.ledger.text import escaped

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flowbed.ledger.items.table import Item, Table

KEYS = "keys"
DAYS = "days"


class ItemKeys:
    """`Keys` in a table: all in one partition, since they are few."""

    def __init__(self, table: Table) -> None:
        """Take the table."""
        self._table = table

    async def create(self, key: KeyRow) -> None:
        """Record a key."""
        item = item_of(key) | {"name": escaped(key.name), "models": list(key.models)}
        while True:
            try:
                await self._table.transact(
                    [
                        Put((KEYS, key.id), item, expected=ABSENT),
                        Put((f"hash#{key.hash}", "-"), {"record": "Hash", "id": key.id}, expected=ABSENT),
                    ]
                )
            except Unanswered:
                continue
            except ConditionFailed as error:
                existing = await self._table.get((KEYS, key.id))
                if existing is None or _row(existing) != _row(item):
                    raise Conflict(f"there is another key of id {key.id}, or of the same secret") from error
            return

    async def find(self, hash: str) -> KeyRow | None:  # noqa: A002 - the record's own field
        """Return the key whose secret has this hash, revoked or not, or None."""
        named = await self._table.get((f"hash#{hash}", "-"))
        existing = await self._table.get((KEYS, named["id"])) if named else None
        return _row(existing) if existing else None

    async def all(self) -> list[KeyRow]:
        """Return every key, oldest first."""
        rows = [_row(item) for item in await all_of(self._table.query, KEYS)]
        return sorted(rows, key=lambda row: (row.created, row.id))

    async def exist(self) -> bool:
        """Return whether any key was ever created."""
        return bool((await self._table.query(KEYS)).items)

    async def revoke(self, id: str, *, at: int) -> KeyRow | None:  # noqa: A002 - the record's own field
        """Revoke a key and return it, or None if there is none."""
        await update(self._table, (KEYS, id), lambda item: None if item["revoked"] else {"revoked": at})
        existing = await self._table.get((KEYS, id))
        return _row(existing) if existing else None

    async def use(self, times: Mapping[str, int]) -> None:
        """Record when keys were last used, by id."""
        for id_, at in times.items():
            await update(
                self._table,
                (KEYS, id_),
                lambda item, at=at: {"used": at} if item["used"] < at else None,  # type: ignore[misc]
            )


class ItemQuotas:
    """`Quotas` in a table: one partition per day."""

    def __init__(self, table: Table) -> None:
        """Take the table."""
        self._table = table

    async def add(self, day: str, tokens: Mapping[str, int]) -> Mapping[str, int]:
        """Add tokens to what keys have used, and return each key's new total."""
        if not tokens:
            return {}
        # Written before the counts, so that `forget` finds every day.
        await until_answered(self._table, Put((DAYS, day), {"record": "Day", "day": day}, expected=None))
        return {key: await self._add(day, key, more) for key, more in tokens.items()}

    async def used(self, day: str, keys: Collection[str]) -> Mapping[str, int]:
        """Return what some keys have used."""
        items = await read_all(self._table, [(f"quota#{day}", key) for key in sorted(set(keys))])
        return {item["key"]: item["tokens"] for item in items if item["tokens"]}

    async def take(self, day: str, key: str, wanted: int, *, least: int, most: int) -> Taken:
        """Take up to `wanted` embeddings of a key's `most` of a day."""
        await self.add(day, {key: 0})
        granted = 0

        def change(item: Item) -> Mapping[str, int] | None:
            nonlocal granted
            used = item.get("embeddings", 0)
            granted = min(wanted, most - used)
            return None if granted < least else {"embeddings": used + granted}

        place = (f"quota#{day}", key)
        changed = await update(self._table, place, change)
        if changed is not None:
            return Taken(granted, int(changed["embeddings"]))
        item = await self._table.get(place)
        return Taken(0, int((item or {}).get("embeddings", 0)))

    async def give_back(self, day: str, key: str, unspent: int) -> None:
        """Give back embeddings that were taken and not made."""
        await update(
            self._table,
            (f"quota#{day}", key),
            lambda item: {"embeddings": max(0, item.get("embeddings", 0) - unspent)},
        )

    async def forget(self, *, before: str) -> int:
        """Delete what was used before a day."""
        gone = 0
        for day in [item["day"] for item in await all_of(self._table.query, DAYS)]:
            if day >= before:
                continue
            for item in await all_of(self._table.query, f"quota#{day}"):
                await until_answered(self._table, Delete(item["place"]))
                gone += 1
            await until_answered(self._table, Delete((DAYS, day)))
        return gone

    async def _add(self, day: str, key: str, more: int) -> int:
        place = (f"quota#{day}", key)
        while True:
            changed = await update(self._table, place, lambda item: {"tokens": item["tokens"] + more})
            if changed is not None:
                return int(changed["tokens"])
            beginning = {"record": "Quota", "mark": "", "key": key, "tokens": 0}
            try:
                await self._table.write(Put(place, beginning, expected=ABSENT))
            except (ConditionFailed, Unanswered):
                continue


def _row(item: Item) -> KeyRow:
    return row_of(KeyRow, {**item, "models": tuple(item["models"])})
