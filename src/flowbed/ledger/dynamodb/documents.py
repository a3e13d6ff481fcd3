"""The documents of each source, with the names of their chunks, and the source's cursor."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any

from flowbed.errors import Conflict
from flowbed.ledger import Cursor, DocumentRow, Progress
from flowbed.ledger.dynamodb.document_items import (
    SOURCES,
    DocumentItems,
    document_partition,
    is_there,
    members_of,
    row_from,
)
from flowbed.ledger.dynamodb.packing import pack, pieces_of
from flowbed.ledger.dynamodb.swapping import LOGS, SWAPS, Swapping
from flowbed.ledger.dynamodb.table import SORT, TTL, key_of
from flowbed.ledger.items.rows import CURSORS
from flowbed.ledger.items.table import ABSENT, ConditionFailed, Put, Unanswered, all_of
from flowbed.ledger.text import require_storable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from flowbed.ledger import Swap
    from flowbed.ledger.dynamodb.packing import Name
    from flowbed.ledger.dynamodb.table import DynamoTable

_PAGE = 1_000
_KEPT = 30 * 86_400  # s: a log is applied within seconds, or by the next command


class DynamoDocuments:
    """`Documents` in a table of DynamoDB.

    A swap first writes its rows to a log. Then one conditional transaction moves the cursor and says that the log is to
    be applied: from then on its rows count. Whoever reads applies what is not applied yet.
    """

    def __init__(self, table: DynamoTable, swapping: Swapping) -> None:
        """Use a table, and what applies logs to it."""
        self._table, self._swapping = table, swapping
        self._items = DocumentItems(table)
        self._client = table.client
        self._logs = (f"{table.mark()}/{number}" for number in count())

    async def cursor(self, source: str) -> Cursor:
        """Return the cursor of a source."""
        found = await self._table.get((CURSORS, source))
        if found is None:
            return Cursor(source=source)
        return Cursor(source=source, value=found["value"], token=found["token"])

    async def sources(self) -> list[str]:
        """Return the sources that were ever fetched."""
        cursors = {raw[SORT]["S"] async for raw in self._table.raw_pages(CURSORS)}
        return sorted(cursors | {raw[SORT]["S"] async for raw in self._table.raw_pages(SOURCES)})

    async def progress(self, sources: Collection[str]) -> Mapping[str, Progress]:
        """Read how far each source was fetched."""
        await self.apply()

        async def one(source: str) -> Progress:
            cursor, documents = await asyncio.gather(self.cursor(source), self._count(source))
            return Progress(cursor=cursor, documents=documents)

        return dict(zip(sources, await asyncio.gather(*map(one, sources)), strict=True))

    async def get(self, source: str, documents: Collection[str]) -> Mapping[str, DocumentRow]:
        """Return rows by document id."""
        await self.apply()
        found = await self._read(source, documents)
        return {raw[SORT]["S"]: row_from(source, raw) for raw in found if is_there(raw)}

    async def etags(self, source: str, documents: Collection[str]) -> Mapping[str, str]:
        """Return etags by document id."""
        return {name: row.etag for name, row in (await self.get(source, documents)).items()}

    async def members(self, source: str, documents: Collection[str]) -> Mapping[str, list[Name]]:
        """Return the names of the chunks of documents, those of deleted documents too."""
        found = await self._read(source, documents)
        members = await asyncio.gather(*(members_of(self._table, source, raw) for raw in found))
        return {raw[SORT]["S"]: names for raw, names in zip(found, members, strict=True)}

    async def count(self, source: str) -> int:
        """Count the documents of a source."""
        await self.apply()
        return await self._count(source)

    async def pages(self, source: str) -> AsyncIterator[list[DocumentRow]]:
        """Iterate over all documents of a source in order of id."""
        await self.apply()
        page: list[DocumentRow] = []
        async for raw in self._table.raw_pages(document_partition(source)):
            if is_there(raw):
                page.append(row_from(source, raw))
            if len(page) == _PAGE:
                yield page
                page = []
        if page:
            yield page

    async def swap(self, swap: Swap) -> Cursor:
        """Apply one page of a fetch and return the source's new cursor."""
        require_storable(row.id for row in swap.documents)
        require_storable(row.id for row in swap.chunks if not row.deleted)
        log = next(self._logs)
        pieces = await self._write_log(log, swap)
        try:
            moved = await self._advance(swap, log, pieces)
        except Conflict:
            await self._table.delete_all([(f"{LOGS}{log}", f"{number:05}") for number in range(pieces)])
            raise
        await self.apply()
        return moved

    async def apply(self) -> None:
        """Apply the swaps that count but are not applied yet."""
        for pending in await all_of(self._table.query, SWAPS):
            await self._swapping.apply(pending)

    async def _write_log(self, log: str, swap: Swap) -> int:
        rows: list[Any] = [["removed", document] for document in swap.removed]
        rows += [["document", vars(row)] for row in swap.documents]
        rows += [["chunk", list(row)] for row in swap.chunks]
        items = [
            {
                **key_of((f"{LOGS}{log}", f"{number:05}")),
                "rows": {"B": pack(piece)},
                **self._table.expiring(_KEPT),
            }
            for number, piece in enumerate(pieces_of(rows))
        ]
        await self._table.put_all(items)
        return len(items)

    async def _advance(self, swap: Swap, log: str, pieces: int) -> Cursor:
        """Advance the cursor, and say that the log is to be applied."""
        source, token = swap.cursor.source, swap.cursor.token + 1
        record = (f"SWAP#{source}", f"{token:020}")
        while True:
            cursor = await self._table.get((CURSORS, source))
            if (cursor["token"] if cursor else 0) != swap.cursor.token:
                # If an answer was lost, this very swap may have moved it.
                landed = await self._table.get(record)
                if landed and landed["log"] == log:
                    return Cursor(source=source, value=swap.value, token=token)
                raise Conflict(
                    f"source {source!r} has moved since its cursor was read: fetch again from where it stands"
                )
            if pending := await self._table.get((SWAPS, source)):
                await self._swapping.apply(pending)
                continue
            item = {"record": "cursor", "source": source, "value": swap.value, "token": token}
            named = {"record": "swap", "source": source, "log": log, "token": token, "pieces": pieces}
            try:
                await self._table.transact(
                    [
                        Put((CURSORS, source), item, expected=cursor["stamp"] if cursor else ABSENT),
                        Put((SWAPS, source), named, expected=ABSENT),
                        Put(record, {**named, TTL: self._client.now + _KEPT}, expected=ABSENT),
                    ]
                )
            except (ConditionFailed, Unanswered):
                continue
            return Cursor(source=source, value=swap.value, token=token)

    async def _read(self, source: str, documents: Collection[str]) -> list[dict[str, Any]]:
        return list((await self._items.read((source, each) for each in documents)).values())

    async def _count(self, source: str) -> int:
        number, start = 0, dict[str, Any]()
        while True:
            answer = await self._client.read(
                "query",
                KeyConditionExpression="PK = :p",
                FilterExpression="attribute_exists(g)",
                ExpressionAttributeValues={":p": {"S": document_partition(source)}},
                Select="COUNT",
                ConsistentRead=True,
                **start,
            )
            number += int(answer["Count"])
            if "LastEvaluatedKey" not in answer:
                return number
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
