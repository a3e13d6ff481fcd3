"""Removes items of all aggregates without a trace."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowbed.ledger.dynamodb.chunks.items import NAMES, run_key
from flowbed.ledger.dynamodb.document_items import document_key, is_there
from flowbed.ledger.dynamodb.packing import names_in, pack, unpack
from flowbed.ledger.dynamodb.swapping import LOGS, SWAPS
from flowbed.ledger.dynamodb.table import PARTITION, SORT
from flowbed.ledger.items.rows import CURSORS, SUBMISSIONS, item_of, member_key, row_of
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
    from collections.abc import Mapping

    from flowbed.ledger import Erasure
    from flowbed.ledger.dynamodb.chunks.parts import Parts

_RUN_STATES = ("pending", "committed", "refused", "reverted")
# A table is read in parts at once, since one request returns 1 MB at most.
_SEGMENTS = 8


class DynamoErasing:
    """`Erasing` in a table of DynamoDB: not in one step, but safe to repeat."""

    def __init__(self, parts: Parts) -> None:
        """Use the parts of a ledger."""
        self._parts = parts
        self._table = parts.table

    async def erase(self, erasure: Erasure) -> int:
        """Remove the items of chunks and documents, and their names everywhere else."""
        names = {key for _, key in (*erasure.chunks, *erasure.documents)}
        for source in dict.fromkeys(erasure.sources):
            await self._move(source, names)
        stored = await self._parts.items.read(erasure.chunks)
        await self._table.delete_all([each.key for each in stored])
        await self._parts.tallies.add([], gone=stored)
        removed = len(stored)
        for source, document in dict.fromkeys(erasure.documents):
            raw = await self._table.raw(document_key(source, document))
            removed += raw is not None and is_there(raw)
            await self._table.delete_all([document_key(source, document)])
            await self._rename(source, document)
        if names:
            await self._forget(_Names(erasure))
        await self._empty_errors(names)
        return removed

    async def scrub(self) -> str:
        """Say how long backups keep what was removed."""
        described = await self._table.client.read("describe_continuous_backups")
        backups = described["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
        if backups.get("PointInTimeRecoveryStatus") != "ENABLED":
            return ""
        return (
            "backups of the table keep what was removed for up to 35 days: turn point-in-time recovery off and on again"
            " to delete them now"
        )

    async def _move(self, source: str, names: set[str]) -> None:
        while True:
            await self._parts.documents.apply()
            cursor = await self._table.get((CURSORS, source))
            if cursor is None:
                return
            if await self._table.get((SWAPS, source)):
                continue
            value = "" if any(name in cursor["value"] for name in names) else cursor["value"]
            moved = {**cursor, "token": cursor["token"] + 1, "value": value}
            try:
                await self._table.write(Put((CURSORS, source), moved, expected=cursor["stamp"]))
            except (ConditionFailed, Unanswered):
                continue
            return

    async def _forget(self, names: _Names) -> None:
        """Remove names from lists of chunks and from logs: all of the table is read, as nothing says where they are."""
        await asyncio.gather(*(self._forget_in(names, segment) for segment in range(_SEGMENTS)))

    async def _forget_in(self, names: _Names, segment: int) -> None:
        start: dict[str, Any] = {}
        while True:
            answer = await self._table.client.read(
                "scan",
                Segment=segment,
                TotalSegments=_SEGMENTS,
                FilterExpression=" OR ".join(
                    ["begins_with(SK, :n)", *(f"begins_with(PK, :p{number})" for number in range(3))]
                ),
                ExpressionAttributeValues={
                    ":n": {"S": NAMES},
                    **{f":p{number}": {"S": each} for number, each in enumerate((LOGS, "DOC#", "T#"))},
                },
                ConsistentRead=True,
                **start,
            )
            for raw in answer["Items"]:
                await self._forget_at(names, raw)
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    async def _forget_at(self, names: _Names, raw: Mapping[str, Any]) -> None:
        partition = raw[PARTITION]["S"]
        if partition.startswith("T#"):
            if any(names.is_erased(*name) for name in unpack(raw["ids"]["B"])):
                await self._table.delete_all([(partition, raw[SORT]["S"])])
            return
        if partition.startswith(LOGS):
            rows = unpack(raw["rows"]["B"])
            kept = [row for row in rows if not names.is_in_log(*row)]
            if len(kept) < len(rows):
                await self._table.put_all([{**raw, "rows": {"B": pack(kept)}}])
            return
        attribute = "m" if partition.startswith("DOC#") else "ids"
        if attribute not in raw:
            return
        # The names of a run's chunks are by batch: the collection is the run's.
        run = await self._collection_of(partition[2:]) if partition.startswith("R#") else ""
        found = names_in(raw[attribute]["B"])
        left = [name for name in found if not names.is_erased(run or name[0], name[1])]
        if len(left) < len(found):
            grouped: dict[str, list[str]] = {}
            for first, second in left:
                grouped.setdefault(first, []).append(second)
            await self._table.put_all([{**raw, attribute: {"B": pack(grouped)}}])

    async def _collection_of(self, run: str) -> str:
        item = await self._table.get(run_key(run))
        return str(item["collection"]) if item else ""

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
            item
            for state in _RUN_STATES
            for item in await all_of(self._table.look_up, "runs_by_state", state)
        ]
        found += await all_of(self._table.query, SUBMISSIONS)
        for item in found:
            if any(name in item["error"] for name in names):
                await update(self._table, item["place"], lambda _: {"error": ""})


class _Names:
    """What is erased."""

    def __init__(self, erasure: Erasure) -> None:
        self._chunks = set(erasure.chunks)
        self._documents = {document for _, document in erasure.documents}

    def is_erased(self, collection: str, chunk: str) -> bool:
        """Return whether a chunk is erased."""
        return (collection, chunk) in self._chunks

    def is_in_log(self, kind: str, row: Any) -> bool:
        """Return whether a row of a log is about something that is erased."""
        if kind == "chunk":
            return (row[0], row[1]) in self._chunks or row[3] in self._documents
        return (row if kind == "removed" else row["id"]) in self._documents
