"""Writes of Chroma's clients: each becomes a run with a delta, durable when it is answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from flowbed.errors import Error, Forbidden, Rejected
from flowbed.index.search.rows import BLOCK
from flowbed.records.precomputed import PrecomputedRows
from flowbed.services.chroma.changes import Change, Row, added, changed, updated, upserted
from flowbed.services.chroma.rows import vectors_of
from flowbed.services.chroma.where import to_filter
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.index.search.reader import IndexReader
    from flowbed.records.precomputed import Ingested
    from flowbed.records.serving import Caller, Serving
    from flowbed.services.chroma.changes import Rule
    from flowbed.services.chroma.collections import ChromaCollection
    from flowbed.services.chroma.rows import RowService
    from flowbed.services.project import Project

RULES: Mapping[str, Rule] = {"add": added, "update": updated, "upsert": upserted}
NO_INPUT = "Validation error: ids, where: Either ids or where must be specified"


class WriteService:
    """Writes for callers who may; one write of a collection at a time in this process.

    A write merges with the rows that are there, so it commits what is pending first. Afterwards its own rows are
    committed before it is answered, or soon after, as the settings say.
    """

    def __init__(self, bed: Project, rows: RowService, reader: IndexReader, serving: Serving) -> None:
        """Write nothing yet."""
        self._bed, self._rows, self._reader, self._serving = bed, rows, reader, serving
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: set[str] = set()  # collections whose commit has not begun
        self._commits: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Finish the commits that answered writes still need."""
        await asyncio.gather(*self._commits)

    def require_writer(self, caller: Caller) -> None:
        """Require that clients may write, and this caller too.

        Raises:
            Forbidden: they may not.
        """
        if self._serving.chroma_writes == "off":
            raise Forbidden(
                "This server takes no writes from Chroma's clients. Its operator can allow them with chroma_writes ="
                ' "committed" in [serve].'
            )
        tier = self._serving.tiers.get(caller.tier)
        if not (caller.admin or (tier is not None and tier.write)):
            raise Forbidden(
                f"Key `{caller.name}` may not write: its tier needs write = true in [serve.tiers.{caller.tier}]."
            )

    async def write(
        self,
        caller: Caller,
        collection: str,
        action: str,
        ids: Sequence[str],
        *,
        vectors: Sequence[Any] | None,
        texts: Sequence[str | None] | None,
        metadata: Sequence[Mapping[str, Any] | None] | None,
    ) -> None:
        """Add, update or upsert rows, as `action` says; each vector is a list of numbers, or None if not sent.

        Raises:
            Forbidden: the caller may not write.
            Rejected: the columns differ in length, or a row cannot be stored; nothing was written.
        """
        self.require_writer(caller)
        found = await self._rows.open(caller, collection)
        columns: list[Sequence[Any]] = [
            [None] * len(ids) if each is None else each for each in (vectors, texts, metadata)
        ]
        if any(len(each) != len(ids) for each in columns):
            raise Rejected("Inconsistent number of IDs, embeddings, documents, URIs and metadatas")
        if not all(ids):
            raise Rejected("Empty ID, ID must have at least one character")
        dimensions = found.live.space.dimensions
        sent = vectors_of([each for each in columns[0] if each is not None], dimensions)
        remaining = iter(sent)
        changes = [
            Change(id=id_, vector=None if vector is None else next(remaining), text=text, metadata=keys)
            for id_, vector, text, keys in zip(ids, *columns, strict=True)
        ]
        async with self._alone(found):
            rows = changed(await self._present(found, ids), changes, RULES[action])
            if rows:
                await self._store(found, _precomputed(rows))

    async def delete(
        self,
        caller: Caller,
        collection: str,
        *,
        ids: Sequence[str] | None,
        where: Any,
        where_document: Any,
        limit: int | None,
    ) -> int:
        """Delete the rows that have one of the `ids` and match the filters, and return how many were there.

        Raises:
            Forbidden: the caller may not write.
            Rejected: a filter is invalid, or a row belongs to a source of the project; nothing was deleted.
        """
        self.require_writer(caller)
        found = await self._rows.open(caller, collection)
        condition = to_filter(where, where_document)
        if ids is not None and not ids and condition is None:
            raise Rejected(NO_INPUT)
        if limit is not None and condition is None:
            raise Rejected(
                "Validation error: limit, where: limit can only be specified when a where clause is provided"
            )
        if ids is None and condition is None:
            return 0
        async with self._alone(found):
            return await self._delete(found, ids, condition, limit)

    async def clear(self, collection: ChromaCollection) -> None:
        """Delete every row of a collection.

        Raises:
            Rejected: a row belongs to a source of the project; nothing was deleted.
        """
        async with self._alone(collection):
            await self._delete(collection, None, None, None)

    async def _delete(
        self,
        collection: ChromaCollection,
        ids: Sequence[str] | None,
        condition: Mapping[str, Any] | None,
        limit: int | None,
    ) -> int:
        await self._flush(collection)
        selection = await self._reader.rows.select(collection.live, ids=ids, where=condition, limit=limit)
        gone: list[str] = []
        for first in range(0, 0 if selection is None else len(selection), BLOCK):
            assert selection is not None  # noqa: S101 - without one there is no block
            gone += await selection.strings("id", first=first)
        if gone:
            await self._store(collection, PrecomputedRows(deleted=gone))
        return len(gone)

    async def _flush(self, collection: ChromaCollection) -> None:
        """Commit rows that are durable only, so that they are read like all others."""
        if self._serving.chroma_writes == "durable":
            await self._bed.write_rows(collection.name, PrecomputedRows())

    def _alone(self, collection: ChromaCollection) -> asyncio.Lock:
        return self._locks.setdefault(collection.name, asyncio.Lock())

    async def _present(self, collection: ChromaCollection, ids: Collection[str]) -> dict[str, Row]:
        """Read the rows that are there, those included that were not committed yet."""
        await self._flush(collection)
        selection = await self._reader.rows.select(collection.live, ids=list(dict.fromkeys(ids)))
        found: dict[str, Row] = {}
        for first in range(0, 0 if selection is None else len(selection), BLOCK):
            assert selection is not None  # noqa: S101 - without one there is no block
            names = await selection.strings("id", first=first)
            texts = await selection.strings("document", first=first)
            metadata = await selection.strings("metadata", first=first)
            vectors = await selection.vectors(first=first)
            for id_, text, keys, vector in zip(names, texts, metadata, vectors, strict=True):
                found[id_] = Row(vector=vector, text=text or None, metadata=orjson.loads(keys))
        return found

    async def _store(self, collection: ChromaCollection, rows: PrecomputedRows) -> None:
        """Make rows durable, and committed now or soon."""
        committed = self._serving.chroma_writes == "committed"
        done: Ingested = await self._bed.write_rows(collection.name, rows, strict=True, commit=committed)
        if done.refused:
            raise Rejected(f"the rows could not be committed: {done.refused[0].reason}")
        if not committed and collection.name not in self._waiting:
            self._waiting.add(collection.name)
            task = asyncio.create_task(self._commit(collection.name), name=f"commit {collection.name}")
            self._commits.add(task)
            task.add_done_callback(self._commits.discard)

    async def _commit(self, collection: str) -> None:
        """Commit what is pending; writes that arrive meanwhile start another one."""
        await asyncio.sleep(0)  # the write is answered first
        self._waiting.discard(collection)
        try:
            await self._bed.write_rows(collection, PrecomputedRows())
        except Error as error:
            log.warning("rows of %s are durable but not committed yet: %s", collection, error)


def _precomputed(rows: Mapping[str, Row]) -> PrecomputedRows:
    return PrecomputedRows(
        ids=list(rows),
        vectors=np.stack([row.vector for row in rows.values()]),
        texts=[row.text for row in rows.values()],
        metadata=[row.metadata for row in rows.values()],
    )
