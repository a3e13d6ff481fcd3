"""The documents, and atomic swaps of any size: a redo log, and a small transaction that makes it count."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

from flowbed.errors import Conflict
from flowbed.ledger import BatchEvent, ChunkRow, Cursor, DocumentRow, Progress
from flowbed.ledger.items.rows import CURSORS, chunk_key, event_key, item_of, member_key, row_of
from flowbed.ledger.items.table import (
    ABSENT,
    TRANSACTION_ITEMS,
    Check,
    ConditionFailed,
    Delete,
    Put,
    Unanswered,
    all_of,
    groups,
    pages,
    read_all,
    until_answered,
)
from flowbed.ledger.text import require_storable
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from flowbed.ledger import Swap
    from flowbed.ledger.items.table import Item, Key, Operation, Table

_STAGED_BYTES = 200 * 2**10  # per item of the redo log: half the limit of an item
# A row is one or two items, and the check that its swap still has to be applied is one more.
_APPLIED_AT_ONCE = (TRANSACTION_ITEMS - 1) // 2


class MemoryDocuments:
    """`Documents` in a table.

    A swap first writes its rows to a redo log of its own, of as many items as it takes. Then one conditional
    transaction of two items moves the cursor and names the log in it: from then on its rows count. They are applied a
    few dozen at a time, each time only if the cursor still names the log, by the swap itself or by anyone about to read
    what it changed.
    """

    def __init__(self, table: Table, *, name: str) -> None:
        """Use a table, and a name that no other ledger object on it has."""
        self._table = table
        self._names = (f"{name}/{number}" for number in count())

    async def cursor(self, source: str) -> Cursor:
        """Return the cursor of a source."""
        found = await self._table.get((CURSORS, source))
        return (
            Cursor(source=source, value=found["value"], token=found["token"])
            if found
            else Cursor(source=source)
        )

    async def progress(self, sources: Collection[str]) -> Mapping[str, Progress]:
        """Read how far each source was fetched."""
        return {
            source: Progress(cursor=await self.cursor(source), documents=await self.count(source))
            for source in sources
        }

    async def get(self, source: str, documents: Collection[str]) -> Mapping[str, DocumentRow]:
        """Return rows by document id."""
        await self.apply()
        keys = [(f"documents#{source}", document) for document in sorted(set(documents))]
        return {item["id"]: row_of(DocumentRow, item) for item in await read_all(self._table, keys)}

    async def etags(self, source: str, documents: Collection[str]) -> Mapping[str, str]:
        """Return etags by document id."""
        return {name: row.etag for name, row in (await self.get(source, documents)).items()}

    async def count(self, source: str) -> int:
        """Count the documents of a source."""
        return sum([len(page) async for page in self.pages(source)])

    async def pages(self, source: str) -> AsyncIterator[list[DocumentRow]]:
        """Iterate over all documents of a source in order of id."""
        await self.apply()
        async for page in pages(self._table.query, f"documents#{source}"):
            if page:
                yield [row_of(DocumentRow, item) for item in page]

    async def swap(self, swap: Swap) -> Cursor:
        """Apply one page of a fetch and return the source's new cursor."""
        require_storable(row.id for row in swap.documents)
        require_storable(row.id for row in swap.chunks if not row.deleted)
        log = next(self._names)
        await self._stage(log, swap)
        try:
            moved = await self._advance(swap, log)
        except Conflict:
            await self._forget(log)
            raise
        await self.apply()
        return moved

    async def apply(self) -> None:
        """Apply the rows of swaps that count but are not applied yet."""
        for cursor in await all_of(self._table.query, CURSORS):
            if cursor["log"]:
                await self._apply(cursor)

    async def _stage(self, log: str, swap: Swap) -> None:
        rows: list[Any] = [["removed", document] for document in swap.removed]
        rows += [["document", vars(row)] for row in swap.documents]
        rows += [["chunk", row._asdict()] for row in swap.chunks]
        rows += [["batch", batch] for batch in sorted({row.batch for row in swap.chunks if row.batch})]
        piece: list[str] = []
        size = 0
        number = count()
        for row in rows:
            text = json.dumps(row)
            if piece and size + len(text) > _STAGED_BYTES:
                await self._put_piece(log, next(number), piece)
                piece, size = [], 0
            piece.append(text)
            size += len(text)
        if piece:
            await self._put_piece(log, next(number), piece)

    async def _put_piece(self, log: str, number: int, piece: list[str]) -> None:
        item = {"record": "log", "rows": f"[{','.join(piece)}]"}
        await until_answered(self._table, Put((f"log#{log}", f"{number:08}"), item, expected=None))

    async def _advance(self, swap: Swap, log: str) -> Cursor:
        """Advance the cursor, and name the log in it."""
        source, token = swap.cursor.source, swap.cursor.token + 1
        record = (f"swaps#{source}", f"{token:020}")
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
            if cursor and cursor["log"]:
                await self._apply(cursor)
                continue
            item = {"record": "cursor", "source": source, "value": swap.value, "token": token, "log": log}
            try:
                await self._table.transact(
                    [
                        Put((CURSORS, source), item, expected=cursor["stamp"] if cursor else ABSENT),
                        Put(record, {"record": "swap", "log": log}, expected=ABSENT),
                    ]
                )
            except (ConditionFailed, Unanswered):
                continue
            return Cursor(source=source, value=swap.value, token=token)

    async def _apply(self, cursor: Item) -> None:
        """Apply the rows of a log while the cursor names it; others may do the same at once."""
        source, log = cursor["source"], cursor["log"]
        fence = Check((CURSORS, source), expected=cursor["stamp"])
        rows: list[Any] = []
        for piece in await all_of(self._table.query, f"log#{log}"):
            rows += json.loads(piece["rows"])
        wanted = dict(_wanted(kind, row, cursor) for kind, row in rows)
        for some in groups(wanted.items(), _APPLIED_AT_ONCE):
            if not await self._apply_some(dict(some), log, fence):
                return  # another process has applied it
        done = {**cursor, "log": ""}
        try:
            await self._table.write(Put((CURSORS, source), done, expected=cursor["stamp"]))
        except (ConditionFailed, Unanswered):
            return
        await self._forget(log)

    async def _apply_some(self, wanted: Mapping[Key, Any], log: str, fence: Check) -> bool:
        while True:
            existing = {item["place"]: item for item in await self._table.get_many(list(wanted))}
            operations: list[Operation] = [fence]
            for key, row in wanted.items():
                operations += _put(key, row, existing.get(key), log)
            try:
                await self._table.transact(operations)
            except ConditionFailed:
                cursor = await self._table.get(fence.key)
                if cursor is None or cursor["stamp"] != fence.expected:
                    return False
            except Unanswered:
                continue  # repeating is harmless
            else:
                return True

    async def _forget(self, log: str) -> None:
        for piece in await all_of(self._table.query, f"log#{log}"):
            await until_answered(self._table, Delete(piece["place"]))


def _wanted(kind: str, row: Any, cursor: Item) -> tuple[Key, Any]:
    """Return the key and the record of one row of a log; the last of a key counts, and None removes a document."""
    source = cursor["source"]
    if kind == "chunk":
        return chunk_key(row["collection"], row["id"]), ChunkRow(**{**row, "status": Status(row["status"])})
    if kind == "document":
        return (f"documents#{source}", row["id"]), DocumentRow(**row)
    if kind == "batch":
        event = BatchEvent(source, cursor["token"], row)
        return event_key(event), event
    return (f"documents#{source}", row), None


def _put(
    key: Key, row: ChunkRow | DocumentRow | BatchEvent | None, existing: Item | None, log: str
) -> list[Operation]:
    """Return the writes that apply one row of a log, if it is not applied already."""
    if row is None:
        return [Delete(key)]
    if isinstance(row, DocumentRow):
        return [Put(key, item_of(row), expected=None)]
    if isinstance(row, BatchEvent):
        return [Put(key, {"record": "event", **row._asdict()}, expected=None)]
    if existing is None:
        grown = row
    elif existing["swap"] == log:
        return []
    else:
        grown = row._replace(version=_grown(row, existing))
    done: list[Operation] = [
        Put(key, item_of(grown, swap=log), expected=existing["stamp"] if existing else ABSENT)
    ]
    if existing is None or (existing["source"], existing["document"]) != (row.source, row.document):
        member = {"record": "member", "collection": row.collection, "id": row.id}
        place = member_key(f"of#{row.document}", row.source, row.collection, row.id)
        done.append(Put(place, member, expected=None))
    return done


def _grown(row: ChunkRow, existing: Item) -> int:
    same = (existing["version"], existing["row_hash"], existing["deleted"]) == (
        row.version,
        row.row_hash,
        row.deleted,
    )
    return row.version if same or row.version > existing["version"] else existing["version"] + 1
