"""Removes items of all aggregates without a trace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.ledger.items.rows import CURSORS, SUBMISSIONS, chunk_key, item_of, member_key, row_of
from flowbed.ledger.items.spending import RUNS
from flowbed.ledger.items.table import (
    ConditionFailed,
    Delete,
    Put,
    Unanswered,
    all_of,
    until_answered,
    update,
)
from flowbed.ledger.rows import FORGOTTEN, SpendRow

if TYPE_CHECKING:
    from flowbed.ledger import Erasure
    from flowbed.ledger.items.table import Item, Key, Table
    from flowbed.ledger.memory.documents import MemoryDocuments

RUN_STATES = ("pending", "committed", "refused", "reverted")


class MemoryErasing:
    """`Erasing` in a table: not in one step, but safe to repeat."""

    def __init__(self, table: Table, documents: MemoryDocuments) -> None:
        """Use a table, and the documents, whose pending swaps are applied first."""
        self._table = table
        self._documents = documents

    async def erase(self, erasure: Erasure) -> int:
        """Remove the items of chunks and documents, and their names in spending."""
        names = {key for _, key in (*erasure.chunks, *erasure.documents)}
        for source in dict.fromkeys(erasure.sources):
            await self._move(source, names)
        removed = 0
        for collection, chunk in dict.fromkeys(erasure.chunks):
            item = await self._table.get(chunk_key(collection, chunk))
            if item is not None:
                removed += 1
                await self._remove_chunk(item)
        for source, document in dict.fromkeys(erasure.documents):
            place = (f"documents#{source}", document)
            removed += await self._table.get(place) is not None
            await until_answered(self._table, Delete(place))
            await self._rename(source, document)
        await self._empty_errors(names)
        return removed

    async def scrub(self) -> str:
        """Do nothing: a table in memory leaves nothing behind."""
        return ""

    async def _move(self, source: str, names: set[str]) -> None:
        while True:
            await self._documents.apply()
            cursor = await self._table.get((CURSORS, source))
            if cursor is None:
                return
            if cursor["log"]:
                continue
            value = "" if any(name in cursor["value"] for name in names) else cursor["value"]
            moved = {**cursor, "token": cursor["token"] + 1, "value": value}
            try:
                await self._table.write(Put((CURSORS, source), moved, expected=cursor["stamp"]))
            except (ConditionFailed, Unanswered):
                continue
            return

    async def _remove_chunk(self, item: Item) -> None:
        collection, chunk = item["collection"], item["id"]
        places: list[Key] = [
            chunk_key(collection, chunk),
            member_key(f"of#{item['document']}", item["source"], collection, chunk),
        ]
        named = (("run", item["run"]), ("submission", item["submission"]), ("text", item["text_hash"]))
        places += [member_key(f"{kind}#{name}", "-", collection, chunk) for kind, name in named if name]
        for place in places:
            await until_answered(self._table, Delete(place))

    async def _rename(self, source: str, document: str) -> None:
        for run in await all_of(self._table.query, RUNS):
            for item in await all_of(self._table.query, f"spending#{run['run']}"):
                if (item["source"], item["document"]) != (source, document):
                    continue
                row = row_of(SpendRow, item)
                place = member_key(f"spending#{row.run}", "-", source, FORGOTTEN)
                existing = await self._table.get(place)
                if existing is not None:
                    sums = {
                        name: existing[name] + item[name]
                        for name in ("texts", "planned", "billed", "cost_usd")
                    }
                    row = replace(row, **sums)
                put = Put(place, item_of(replace(row, document=FORGOTTEN)), expected=None)
                await until_answered(self._table, put, Delete(item["place"]))

    async def _empty_errors(self, names: set[str]) -> None:
        found = [
            item for state in RUN_STATES for item in await all_of(self._table.look_up, "runs_by_state", state)
        ]
        found += await all_of(self._table.query, SUBMISSIONS)
        for item in found:
            if any(name in item["error"] for name in names):
                await update(self._table, item["place"], lambda _: {"error": ""})
