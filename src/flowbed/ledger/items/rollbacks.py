"""The rollbacks of each collection, and how far its history was searched for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from flowbed.ledger import Rollback
from flowbed.ledger.items.rows import SEEN, item_of, row_of
from flowbed.ledger.items.table import ABSENT, ConditionFailed, Put, Unanswered, all_of, until_answered

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowbed.ledger.items.table import Item, Table


class Revertible(Protocol):
    """The runs that a rollback reverts."""

    async def all_of(self, collection: str) -> list[Item]:
        """Return every run of a collection."""
        ...

    async def revert(self, run: str) -> int:
        """Revert a run and its SUCCESS chunks; return how many chunks."""
        ...

    async def reverted(self, collection: str) -> list[str]:
        """Return the ids of the reverted runs of a collection."""
        ...

    async def commit(self, runs: Collection[str], *, version: int, onto: int = 0) -> None:
        """Mark runs committed."""
        ...


class ItemRollbacks:
    """`Rollbacks` in a table."""

    def __init__(self, table: Table, runs: Revertible) -> None:
        """Use a table, and the runs that a rollback reverts."""
        self._table = table
        self._runs = runs

    async def record(self, rollback: Rollback, *, kept: Collection[str]) -> Rollback:
        """Record a rollback once, revert the runs it undid, and return it with their counts."""
        place = (f"rollbacks#{rollback.collection}", f"{rollback.version:020}")
        # Recorded before it is carried out: a commit that marks its runs later sees what is undone, and one in progress
        # fails, since the history has changed.
        while (existing := await self._table.get(place)) is None:
            history = {"record": "history", "version": rollback.version}
            try:
                await self._table.transact(
                    [
                        Put(place, item_of(rollback, done=False), expected=ABSENT),
                        Put((f"history#{rollback.collection}", "-"), history, expected=None),
                    ]
                )
            except (ConditionFailed, Unanswered):
                continue
        if existing["done"]:
            return row_of(Rollback, existing)
        runs, chunks = await self._carry_out(rollback, set(kept))
        done = replace(rollback, runs=runs, chunks=chunks)
        await until_answered(self._table, Put(place, item_of(done, done=True), expected=None))
        return done

    async def _carry_out(self, rollback: Rollback, kept: set[str]) -> tuple[int, int]:
        runs = chunks = 0
        for item in await self._runs.all_of(rollback.collection):
            within = rollback.target < item["version"] < rollback.version
            if item["state"] == "committed" and within and item["id"] not in kept:
                runs += 1
                chunks += await self._runs.revert(item["id"])
        back = kept.intersection(await self._runs.reverted(rollback.collection))
        await self._runs.commit(back, version=rollback.version)
        return runs, chunks

    async def of(self, collection: str) -> list[Rollback]:
        """Return the rollbacks of a collection, newest first."""
        found = await all_of(self._table.query, f"rollbacks#{collection}")
        return [row_of(Rollback, item) for item in reversed(found)]

    async def seen(self, collection: str) -> int:
        """Return the version up to which the collection's history was searched for rollbacks."""
        item = await self._table.get((SEEN, collection))
        return int(item["version"]) if item else 0

    async def see(self, collection: str, version: int) -> None:
        """Record that the history was searched up to a version."""
        await see(self._table, collection, version)


async def see(table: Table, collection: str, version: int, *, known: int = 0) -> None:
    """Record that a history was searched up to `version`, unless it was not searched up to `known`."""
    place = (SEEN, collection)
    while True:
        item = await table.get(place)
        before = int(item["version"]) if item else 0
        # Version 1 is an empty dataset: there is nothing to know of it.
        if before >= version or known > max(1, before):
            return
        seen = {"record": "seen", "collection": collection, "version": version}
        try:
            await table.write(Put(place, seen, expected=item["stamp"] if item else ABSENT))
        except (ConditionFailed, Unanswered):
            continue
        return
