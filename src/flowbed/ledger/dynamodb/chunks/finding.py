"""Finds chunks by id, document and batch, and lists or counts them all."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any

from flowbed.ledger.dynamodb.chunks.items import rows_of
from flowbed.ledger.dynamodb.chunks.rows import stored_from
from flowbed.ledger.dynamodb.chunks.tallies import names_partition
from flowbed.ledger.items.table import groups
from flowbed.ledger.rows import ChunkMark
from flowbed.ledger.text import is_unstorable
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Mapping

    from flowbed.ledger import ChunkRow
    from flowbed.ledger.dynamodb.chunks.parts import Parts
    from flowbed.ledger.dynamodb.chunks.rows import Stored

_PAGE = 1_000
# A table is read in parts at once, since one request returns 1 MB at most.
_SEGMENTS = 8
_LOOKED_UP = 100  # names of a batch that are read at a time until one is found to be used


class Finding:
    """Reads of chunks that change nothing."""

    def __init__(self, parts: Parts) -> None:
        """Use the parts of a ledger."""
        self._parts = parts

    async def of(self, source: str, documents: Collection[str]) -> list[ChunkRow]:
        """Return all chunk rows of some documents, including deleted ones."""
        await self._parts.documents.apply()
        return await self._of(source, documents)

    async def find(self, subject: str) -> list[ChunkRow]:
        """Return the rows whose id or document is `subject`, in every collection and source."""
        if is_unstorable(subject):
            return []
        await self._parts.documents.apply()
        found = {(row.collection, row.id): row for row in rows_of(await self._parts.items.of_id(subject))}
        for source in await self._parts.documents.sources():
            found |= {(row.collection, row.id): row for row in await self._of(source, [subject])}
        return [found[key] for key in sorted(found)]

    async def owners(self, collection: str, chunk_ids: Collection[str]) -> Mapping[str, str]:
        """Return the source of each chunk by id."""
        await self._parts.documents.apply()
        stored = await self._parts.items.read([(collection, each) for each in chunk_ids])
        return {each.row.id: each.row.source for each in stored if not each.row.deleted}

    async def marks(self, collection: str) -> AsyncIterator[list[ChunkMark]]:
        """Iterate over the marks of all chunks of a collection, including deleted ones, in order of id."""
        await self._parts.documents.apply()
        # There may be millions of them: they are sorted on the disk.
        database = await asyncio.to_thread(sqlite3.connect, "", check_same_thread=False)
        try:
            await asyncio.to_thread(database.execute, f"CREATE TABLE marks ({', '.join(ChunkMark._fields)})")
            segments = [self._segment(collection, segment, database) for segment in range(_SEGMENTS)]
            await asyncio.gather(*segments)
            found = await asyncio.to_thread(database.execute, "SELECT * FROM marks ORDER BY id")
            while page := await asyncio.to_thread(found.fetchmany, _PAGE):
                yield [
                    ChunkMark(id_, version, bool(deleted), Status(status), *rest)
                    for id_, version, deleted, status, *rest in page
                ]
        finally:
            await asyncio.to_thread(database.close)

    async def used(self, batches: Collection[str]) -> set[str]:
        """Return those of the batch ids that a chunk row still refers to, in any status."""
        await self._parts.documents.apply()
        return {batch for batch in set(batches) if batch and await self._is_used(batch)}

    async def counts(self) -> Mapping[tuple[str, Status], int]:
        """Count live chunks by collection and status."""
        await self._parts.documents.apply()
        return await self._parts.tallies.counts()

    async def _of(self, source: str, documents: Collection[str]) -> list[ChunkRow]:
        members = await self._parts.documents.members(source, documents)
        stored = await self._parts.items.read(name for names in members.values() for name in names)
        # A chunk that moved to another document has left its name here.
        return [each.row for each in stored if each.row.source == source and each.row.document in members]

    async def _is_used(self, batch: str) -> bool:
        names = await self._parts.items.named(names_partition(batch))
        for some in groups(names, _LOOKED_UP):
            if any(each.row.batch == batch for each in await self._parts.items.read(some)):
                return True
        return False

    async def _segment(self, collection: str, segment: int, database: sqlite3.Connection) -> None:
        start: dict[str, Any] = {}
        while True:
            answer = await self._parts.table.client.read(
                "scan",
                Segment=segment,
                TotalSegments=_SEGMENTS,
                FilterExpression="begins_with(PK, :c) AND SK = :s",
                ExpressionAttributeValues={":c": {"S": "C#"}, ":s": {"S": collection}},
                ConsistentRead=True,
                **start,
            )
            stored = await self._parts.items.now([stored_from(raw) for raw in answer["Items"]])
            await asyncio.to_thread(_insert, database, stored)
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}


def _insert(database: sqlite3.Connection, stored: Iterable[Stored]) -> None:
    database.executemany(
        f"INSERT INTO marks VALUES ({', '.join('?' * len(ChunkMark._fields))})",  # noqa: S608 - no value is in it
        [
            (row.id, row.version, row.deleted, row.status.value, row.text_hash, row.row_hash, row.batch)
            for row in rows_of(stored)
        ],
    )
