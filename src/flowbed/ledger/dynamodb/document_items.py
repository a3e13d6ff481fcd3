"""How documents are stored: one item each, with the names of their chunks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from flowbed.ledger import DocumentRow
from flowbed.ledger.dynamodb.packing import names_in, packed_names
from flowbed.ledger.dynamodb.statements import FLIGHT, execute, insert, update
from flowbed.ledger.dynamodb.table import PARTITION, SORT, key_of
from flowbed.ledger.items.table import BATCH_ITEMS, groups

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flowbed.ledger.dynamodb.packing import Name
    from flowbed.ledger.dynamodb.table import DynamoTable
    from flowbed.ledger.items.table import Key

# Bytes of packed names that the item itself holds; more are beside it, since every write is billed by the whole item.
_INSIDE = 16 * 2**10
MARK, TOKEN = "q", "k"
_MEMBERS, _PIECES = "m", "mp"


Document = tuple[str, str]
"""A source, and the id of a document."""
SOURCES = "SOURCES"  # the partition with sources whose chunks another source wrote


def document_partition(source: str) -> str:
    """Return the partition with the documents of a source."""
    return f"DOC#{source}"


def document_key(source: str, document: str) -> Key:
    """Return the key of a document."""
    return document_partition(source), document


def is_there(raw: Mapping[str, Any]) -> bool:
    """Return whether the document exists; the item of a deleted one stays, with the names of its chunks."""
    return "g" in raw


def row_from(source: str, raw: Mapping[str, Any]) -> DocumentRow:
    """Read an item as a document."""
    return DocumentRow(
        source=source,
        id=raw[SORT]["S"],
        etag=raw["E"]["S"],
        hash=raw["H"]["S"],
        chunks=int(raw["c"]["N"]),
        generation=int(raw["g"]["N"]),
    )


def item_of(
    source: str, document: str, row: DocumentRow | None, *, token: int, mark: str, members: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the item of a document; without a row, of one that is deleted."""
    item = {**key_of(document_key(source, document)), TOKEN: {"N": str(token)}, MARK: {"S": mark}, **members}
    if row is None:
        return item
    return {
        **item,
        "E": {"S": row.etag},
        "H": {"S": row.hash},
        "c": {"N": str(row.chunks)},
        "g": {"N": str(row.generation)},
    }


async def members_of(table: DynamoTable, source: str, raw: Mapping[str, Any] | None) -> list[Name]:
    """Return the names of a document's chunks."""
    if raw is None:
        return []
    if _PIECES not in raw:
        return names_in(raw[_MEMBERS]["B"]) if _MEMBERS in raw else []
    keys = _piece_keys(source, raw[SORT]["S"], int(raw[_PIECES]["N"]))
    pieces = {each[SORT]["S"]: each["ids"]["B"] for each in await table.raw_many(keys)}
    return [name for _, sort in keys for name in names_in(pieces[sort])]


async def _members(table: DynamoTable, source: str, document: str, names: Sequence[Name]) -> dict[str, Any]:
    """Return the attributes that hold names; those that are too many are written beside the item first."""
    pieces = list(packed_names(names))
    if not pieces:
        return {}
    if len(pieces) == 1 and len(pieces[0]) <= _INSIDE:
        return {_MEMBERS: {"B": pieces[0]}}
    keys = _piece_keys(source, document, len(pieces))
    await table.put_all(
        [{**key_of(key), "ids": {"B": piece}} for key, piece in zip(keys, pieces, strict=True)]
    )
    return {_PIECES: {"N": str(len(pieces))}}


def _piece_keys(source: str, document: str, pieces: int) -> list[Key]:
    return [(f"MEM#{source}#{document}", f"IDS#{number:04}") for number in range(pieces)]


class DocumentItems:
    """Reads and writes of many documents at once."""

    def __init__(self, table: DynamoTable) -> None:
        """Use a table."""
        self._table = table

    async def read(self, documents: Iterable[Document]) -> dict[Document, dict[str, Any]]:
        """Return items by source and document; missing ones are left out."""
        room = asyncio.Semaphore(FLIGHT)

        async def one(some: list[Document]) -> list[dict[str, Any]]:
            async with room:
                return await self._table.raw_many([document_key(*each) for each in some])

        parts = await asyncio.gather(*map(one, groups(sorted(set(documents)), BATCH_ITEMS)))
        prefix = len(document_partition(""))
        return {(raw[PARTITION]["S"][prefix:], raw[SORT]["S"]): raw for some in parts for raw in some}

    async def write(
        self,
        writer: str,
        token: int,
        rows: Mapping[str, DocumentRow | None],
        names: Mapping[Document, Sequence[Name]],
        known: dict[Document, dict[str, Any]],
    ) -> None:
        """Write the rows of a swap, None for a deleted document, and add the names of chunks to their documents.

        `writer` and `token` are the swap's source and token; `known` are the items as they were read.
        """
        others = sorted({source for source, _ in names} - {writer})
        await self._table.put_all([key_of((SOURCES, source)) for source in others])
        left = set(names)
        table = self._table.client.place.table
        while left:
            statements = {}
            for document in sorted(left):
                before = known.get(document)
                own = document[0] == writer
                if own and before is not None and int(before[TOKEN]["N"]) >= token:
                    continue
                item = await self._item(
                    document, rows if own else {}, names[document], before, token=token if own else 0
                )
                if item is not None:
                    statements[document] = (
                        insert(table, item)
                        if before is None
                        else update(table, document_key(*document), before=before, after=item, mark=MARK)
                    )
            outcomes = await execute(self._table.client, list(statements.values()))
            left = {each for each, happened in zip(statements, outcomes, strict=True) if not happened}
            for each in left:
                known.pop(each, None)
            known |= await self.read(left)

    async def _item(
        self,
        document: Document,
        rows: Mapping[str, DocumentRow | None],
        names: Sequence[Name],
        before: Mapping[str, Any] | None,
        *,
        token: int,
    ) -> dict[str, Any] | None:
        """Return the item of a document after a swap; None if there is nothing to write."""
        source, name = document
        there = before or {}
        row = rows[name] if name in rows else row_from(source, there) if is_there(there) else None
        members = {each: there[each] for each in (_MEMBERS, _PIECES) if each in there}
        old = await members_of(self._table, source, before) if names else []
        if not set(names) <= set(old):
            members = await _members(self._table, source, name, [*old, *names])
        elif name not in rows and not token:
            return None  # another source's document, with the names of these chunks
        if row is None and before is None and not members:
            return None
        token = token or int(there.get(TOKEN, {"N": "0"})["N"])
        return item_of(source, name, row, token=token, mark=self._table.mark(), members=members)
