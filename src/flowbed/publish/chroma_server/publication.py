"""Keeps a collection on a running Chroma server in step with the index, from the changes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.errors import Misconfigured, NotFound
from flowbed.index.search.row_cache import vectors_in
from flowbed.index.versions import identity, state, was_built_again
from flowbed.index.versions.changes import changes
from flowbed.publish import Published, checked_options
from flowbed.publish.chroma.rows import chroma_metadata
from flowbed.publish.chroma_server.client import ChromaDatabase
from flowbed.publish.chroma_server.fence import Fence
from flowbed.records.values import count
from flowbed.telemetry import SERVER_BATCH_WRITTEN, SERVER_MARKED, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    import pyarrow as pa

    from flowbed.index.active_space import Live
    from flowbed.index.versions.changes import Changes
    from flowbed.publish import PublishContext
    from flowbed.records import Scalar

OPTIONS = ("url", "token", "tenant", "database", "name", "batch")
# As of directories: with Chroma's own defaults, rows are missed where many have the same vector.
GRAPH = {"ef_construction": 200, "max_neighbors": 32}
BATCH = 500  # rows of a request: some megabytes of vectors
# Metadata of the collection on the server: the version it holds, and those that interrupted publications began with.
HELD, BEGUN, SPACE = "flowbed:version", "flowbed:begun", "flowbed:space"
# Names the write that made the version held: an index that was built again reaches the same numbers.
IDENTITY = "flowbed:identity"
MOST_BEGUN = 8  # after so many interruptions in a row all rows are compared
CLOSE = 1e-3  # how far two float32 of one vector may be apart


def open_chroma_server(context: PublishContext, options: Mapping[str, str]) -> ChromaServer:
    """Open the publication to a Chroma server, without contacting it.

    Raises:
        Misconfigured: an option is invalid.
    """
    checked_options(context, options, OPTIONS)
    if "url" not in options:
        raise Misconfigured(f"publish.{context.name}: set options.url to the address of the Chroma server")
    batch = options.get("batch", str(BATCH))
    if not batch.isdecimal() or not int(batch):
        raise Misconfigured(f"publish.{context.name}: batch is {batch!r}; it has to be a number of rows")
    token = options.get("token", "")
    if not (token.isascii() and token.isprintable()):
        raise Misconfigured(
            f"publish.{context.name}: options.token has a character that no token has; set it again"
        )
    try:
        database = ChromaDatabase(
            options["url"],
            token=token,
            tenant=options.get("tenant", "default_tenant"),
            database=options.get("database", "default_database"),
        )
    except Misconfigured:  # not repeated: it may have a password
        raise Misconfigured(
            f"publish.{context.name}: options.url has to be as https://host:8000, without a password or a query"
        ) from None
    return ChromaServer(context, database, name=options.get("name", ""), batch=int(batch))


class ChromaServer:
    """Collections on a Chroma server; readers see each row change by itself."""

    def __init__(self, context: PublishContext, database: ChromaDatabase, *, name: str, batch: int) -> None:
        """Write to the collection `name` (default: Flowbed's), `batch` rows at a time."""
        self._context, self._database, self._name, self._batch = context, database, name, batch

    async def aclose(self) -> None:
        """Close the connections."""
        await self._database.aclose()

    async def publish(self, live: Live, version: int) -> Published:
        """Write what changed since the version that the server holds; continue what was interrupted.

        Raises:
            Conflict: another process has begun to write to the same collection.
            Misconfigured: the collection on the server is another one's, or of another space.
        """
        return await self._publish(live, version, compare=False)

    async def reconcile(self, live: Live, version: int) -> Published:
        """Compare every row of the server with the index, write those that differ, and delete those that it lacks."""
        return await self._publish(live, version, compare=True)

    async def fault(self, live: Live, version: int, rows: int) -> str:
        """Say how the collection on the server differs from a version with so many rows, by its marks and its count."""
        name = self._name or live.collection
        place = f"{name} on {self._database.url}"
        found = await self._database.collection(name)
        if found is None:
            return f"there is no collection {place}"
        marks = found.get("metadata") or {}
        if marks.get(SPACE) != live.space.fingerprint:
            return f"{place} is not of space {live.space.space8}"
        if (held := int(marks.get(HELD) or 0)) != version:
            return f"{place} holds version {held}"
        if marks.get(BEGUN):
            return f"a publication to {place} was interrupted"
        there = await self._database.count(found["id"])
        return "" if there == rows else f"{place} has {there:,} of {count(rows, 'row')}"

    async def _publish(self, live: Live, version: int, *, compare: bool) -> Published:
        fence = Fence(self._context, live.collection)
        await fence.take()
        target = await self._target(live)
        newest = (await state(live, datasets=self._context.datasets)).version
        held, begun = await self._held(live, target), _begun(target)
        if version < held <= newest:
            version = held  # a newer version was published
        if held == version and not begun and not compare:
            return self._published(live, version, await self._database.count(target["id"]), already=True)
        work = _Work(self._database, target["id"], fence, self._batch)
        pending = [*dict.fromkeys([*begun, version])]
        steps = (
            []
            if compare or len(pending) > MOST_BEGUN
            else await self._steps(live, held, begun, version, newest)
        )
        await self._mark(target, {HELD: held, BEGUN: ",".join(map(str, pending[-MOST_BEGUN:]))})
        for step in steps:
            await work.apply(step)
        everything = await changes(live, None, version, datasets=self._context.datasets)
        fixed = 0
        if not steps or await self._database.count(target["id"]) != everything.rows:
            fixed = await work.compare(everything)
        await fence.check()
        made_by = await identity(live, version, datasets=self._context.datasets)
        await self._mark(target, {HELD: version, BEGUN: "", IDENTITY: made_by})
        return self._published(
            live,
            version,
            everything.rows,
            upserts=work.upserts,
            deletes=work.deletes,
            fixed=fixed if held else 0,
            already=compare and held == version and not fixed and not begun,
        )

    async def _steps(
        self, live: Live, held: int, begun: Sequence[int], version: int, newest: int
    ) -> list[Changes]:
        """Return the changes that lead from any state a row may be in to `version`; none if all must be compared.

        A row on the server is as in the version held, or as in one that an interrupted publication began with.
        """
        if held > newest:
            return []
        starts = [held or None, *begun]
        try:
            return [
                await changes(live, start, version, datasets=self._context.datasets)
                for start in dict.fromkeys(starts)
            ]
        except NotFound:  # a version is not kept any more
            return []

    async def _target(self, live: Live) -> dict[str, Any]:
        """Return the collection on the server, created where there is none.

        Raises:
            Misconfigured: it is not Flowbed's, or of another space.
        """
        name = self._name or live.collection
        found = await self._database.collection(name)
        if found is None:
            marks: dict[str, Scalar] = {
                HELD: 0,
                BEGUN: "",
                SPACE: live.space.fingerprint,
                "model": live.space.model,
            }
            found = await self._database.create(name, graph=GRAPH, metadata=marks)
        metadata = found.get("metadata") or {}
        if metadata.get(SPACE) == live.space.fingerprint:
            return found
        why = "is of another vector space" if SPACE in metadata else "was not made by Flowbed"
        raise Misconfigured(
            f"publish.{self._context.name}: collection {name!r} on {self._database.url} {why}: delete it there, or set"
            " options.name to a new name"
        )

    async def _held(self, live: Live, target: Mapping[str, Any]) -> int:
        """Return the version that the server holds; 0 if none, or if the index was built again since."""
        held = int(target["metadata"].get(HELD) or 0)
        known = str(target["metadata"].get(IDENTITY) or "")
        return 0 if await was_built_again(live, held, known, datasets=self._context.datasets) else held

    async def _mark(self, target: dict[str, Any], marks: Mapping[str, Scalar]) -> None:
        target["metadata"] = {**target["metadata"], **marks}
        await self._database.set_metadata(target["id"], target["metadata"])
        reached(SERVER_MARKED, version=marks[HELD])

    def _published(self, live: Live, version: int, rows: int, **facts: Any) -> Published:
        return Published(
            publication=self._context.name,
            collection=live.collection,
            place=f"{self._name or live.collection} on {self._database.url}",
            version=version,
            rows=rows,
            **facts,
        )


class _Work:
    """What one publication writes to one collection."""

    def __init__(self, database: ChromaDatabase, collection: str, fence: Fence, batch: int) -> None:
        self._database, self._collection, self._fence, self._batch = database, collection, fence, batch
        self.upserts = self.deletes = 0

    async def apply(self, found: Changes) -> None:
        """Write the rows that changed, then delete those that are gone: no row is missing in between."""
        async for batch in self._batches(found):
            held = await self._database.get(
                self._collection, ids=batch["id"].to_pylist(), include=["metadatas", "documents"]
            )
            await self._write(batch, _by_id(held))
        await self._delete(found.deleted)

    async def compare(self, everything: Changes) -> int:
        """Write the rows that differ and delete those that the index lacks; return how many."""
        before = self.upserts + self.deletes
        wanted: set[str] = set()
        async for batch in self._batches(everything):
            ids = batch["id"].to_pylist()
            wanted.update(ids)
            held = _by_id(
                await self._database.get(
                    self._collection, ids=ids, include=["metadatas", "documents", "embeddings"]
                )
            )
            wrong = [place for place, row in enumerate(_rows(batch)) if _differs(row, held.get(ids[place]))]
            if wrong:
                await self._write(batch.take(wrong), held)
        await self._delete([each async for each in self._ids() if each not in wanted])
        return self.upserts + self.deletes - before

    async def _batches(self, found: Changes) -> AsyncIterator[pa.RecordBatch]:
        batches = found.batches(self._batch)
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            yield batch

    async def _write(self, batch: pa.RecordBatch, held: Mapping[str, Mapping[str, Any]]) -> None:
        await self._fence.check()
        rows = list(_rows(batch))
        # An upsert keeps a document that the new row does not have.
        if emptied := [
            name for name, document, *_ in rows if document is None and held.get(name, {}).get("document")
        ]:
            await self._database.delete(self._collection, emptied)
        await self._database.upsert(
            self._collection,
            [name for name, *_ in rows],
            vectors_in(batch),
            [document for _, document, *_ in rows],
            [_merged(metadata, held.get(name)) for name, _, metadata, _ in rows],
        )
        self.upserts += len(rows)
        reached(SERVER_BATCH_WRITTEN, rows=len(rows))

    async def _delete(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), self._batch):
            await self._fence.check()
            await self._database.delete(self._collection, ids[start : start + self._batch])
        self.deletes += len(ids)

    async def _ids(self) -> AsyncIterator[str]:
        offset = 0
        while True:
            page = await self._database.get(self._collection, include=[], limit=self._batch, offset=offset)
            for each in page["ids"]:
                yield each
            if len(page["ids"]) < self._batch:
                return
            offset += self._batch


Row = tuple[str, "str | None", "dict[str, Scalar] | None", Any]


def _rows(batch: pa.RecordBatch) -> Iterator[Row]:
    """Iterate over the id, document, metadata and vector of each row."""
    metadatas = (chroma_metadata(text) for text in batch["metadata"].to_pylist())
    return zip(
        batch["id"].to_pylist(), batch["document"].to_pylist(), metadatas, vectors_in(batch), strict=True
    )


def _by_id(held: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    names = ("document", "metadata", "embedding")
    columns = [held.get(f"{name}s") or [None] * len(held["ids"]) for name in names]
    return {
        each: dict(zip(names, row, strict=True)) for each, *row in zip(held["ids"], *columns, strict=True)
    }


def _merged(
    metadata: Mapping[str, Scalar] | None, held: Mapping[str, Any] | None
) -> dict[str, Scalar | None] | None:
    """Add a None for each key that the server has and the row does not: otherwise Chroma keeps it."""
    had = (held or {}).get("metadata") or {}
    return {**dict.fromkeys(had), **(metadata or {})} or None


def _differs(row: Row, held: Mapping[str, Any] | None) -> bool:
    if held is None:
        return True
    _, document, metadata, vector = row
    return (
        held["document"] != document
        or (held["metadata"] or None) != metadata
        or not np.allclose(np.asarray(held["embedding"], np.float32), vector, atol=CLOSE)
    )


def _begun(target: Mapping[str, Any]) -> list[int]:
    return [int(each) for each in str(target["metadata"].get(BEGUN) or "").split(",") if each]
