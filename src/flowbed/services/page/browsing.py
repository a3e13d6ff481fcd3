"""What readers of a project look at beside searching: its collections, their versions and their rows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Damaged, NotFound
from flowbed.index.active_space import readable_collections, require_collection
from flowbed.index.datasets import FileMissing, blocking
from flowbed.index.versions import last_written, state
from flowbed.records import IndexedText
from flowbed.records.names import is_store
from flowbed.services.embedding.served_model import allow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from flowbed.index.active_space import Live
    from flowbed.index.versions import Version
    from flowbed.index.versions.changes import Changes
    from flowbed.maintenance.inspect import Reason
    from flowbed.records.serving import Caller, Serving
    from flowbed.services.project import Project

# Rows of a difference that are shown, of each kind.
EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class CollectionSummary:
    """A collection as its readers see it; `updated` is when its newest version was written (µs), 0 if unknown.

    `problem` says why it cannot be read; the counts are 0 then.
    """

    name: str
    rows: int = 0
    unindexed_rows: int = 0
    version: int = 0
    updated: int = 0
    space: str = ""
    model: str = ""
    dimensions: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How two versions of a collection differ; `written` and `deleted` are examples, the latter only ids."""

    start: int
    end: int
    rows: int
    upserts: int
    deletes: int
    written: Sequence[IndexedText]
    deleted: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class RowPage:
    """Some rows of a collection in the order of their ids, and how many there are in all."""

    rows: Sequence[IndexedText]
    total: int


class BrowseService:
    """Reads collections for callers who may use the project's model, as a search is allowed to."""

    def __init__(self, bed: Project, serving: Serving) -> None:
        """Read the collections of `bed`."""
        self._bed, self._serving = bed, serving

    async def require(self, caller: Caller) -> None:
        """Require that a caller may read texts.

        Raises:
            Forbidden: its key may not use the project's model.
        """
        if not caller.models:
            return
        model = (await self._bed.open_model(self._bed.model)).space.model
        names = {model, self._bed.model}
        names |= {alias for alias, name in self._serving.aliases.items() if name in names}
        allow(model, names, caller, self._serving)

    async def collections(self, caller: Caller) -> list[CollectionSummary]:
        """List the collections; one that cannot be read says why."""
        await self.require(caller)
        return await self.summaries()

    async def summaries(self) -> list[CollectionSummary]:
        """List the collections, whoever asks."""
        readable, damaged = await readable_collections(self._bed.store)
        found = [live for live in readable if not is_store(live.collection)]  # only their owners see them
        listed = await asyncio.gather(*map(self._summary, found))
        listed += [
            CollectionSummary(name=name, problem=reason)
            for name, reason in damaged.items()
            if not is_store(name)
        ]
        return sorted((each for each in listed if each is not None), key=lambda each: each.name)

    async def versions(self, caller: Caller, collection: str) -> list[Version]:
        """List the versions of a collection that are kept, newest first.

        Raises:
            NotFound: there is no such collection.
        """
        await self.require(caller)
        return await self._bed.views.versions(collection)

    async def difference(self, caller: Caller, collection: str, *, start: int, end: int) -> Difference:
        """Compare two versions of a collection.

        Raises:
            NotFound: there is no such collection or version.
        """
        from flowbed.index.versions.changes import changes

        await self.require(caller)
        live = await require_collection(self._bed.store, collection)
        found = await changes(live, start, end, datasets=self._bed.reader().datasets)
        written = await blocking(lambda: _examples(found, collection), f"the index of {collection}")
        return Difference(
            start=start,
            end=end,
            rows=found.rows,
            upserts=found.upserts,
            deletes=len(found.deleted),
            written=written,
            deleted=found.deleted[:EXAMPLES],
        )

    async def rows(
        self, caller: Caller, collection: str, *, where: Mapping[str, Any] | None, offset: int, limit: int
    ) -> RowPage:
        """Read rows of a collection by their position in the order of ids.

        Raises:
            NotFound: there is no such collection.
            Rejected: the filter is invalid.
        """
        await self.require(caller)
        reader = self._bed.reader()
        live = await reader.live(collection) or await require_collection(self._bed.store, collection)
        every = await reader.rows.select(live, where=where)
        if every is None:
            return RowPage(rows=(), total=0)
        chosen = await reader.rows.select(live, where=where, offset=offset, limit=limit)
        if chosen is None or not len(chosen):
            return RowPage(rows=(), total=len(every))
        columns = [await chosen.strings(column, first=0) for column in ("id", "document", "metadata")]
        return RowPage(rows=_texts(collection, *columns), total=len(every))

    async def around(
        self, caller: Caller, name: str, *, collection: str | None, before: int, after: int
    ) -> Sequence[IndexedText]:
        """Read the row of that id and those around it in its document.

        Raises:
            NotFound: no collection has the row.
        """
        await self.require(caller)
        return await self._bed.views.around(name, before=before, after=after, collection=collection)

    async def why(self, caller: Caller, subject: str) -> Sequence[Reason]:
        """Explain the state of a chunk or a document.

        Raises:
            NotFound: the ledger knows no such chunk or document.
        """
        await self.require(caller)
        found = [each for each in await self._bed.views.why(subject) if not is_store(each.chunk.collection)]
        if not found:
            raise NotFound(f"nothing is known of {subject!r}")
        return found

    async def _summary(self, live: Live) -> CollectionSummary | None:
        """Describe a collection; None where nothing is left of it."""
        try:
            now = await state(live, datasets=self._bed.reader().datasets)
        except (Damaged, FileMissing) as error:
            return CollectionSummary(name=live.collection, problem=str(error))
        if not now.version:
            return None
        return CollectionSummary(
            name=live.collection,
            rows=now.rows,
            unindexed_rows=now.unindexed_rows,
            version=now.version,
            updated=await last_written(live, store=self._bed.store),
            space=live.space.space8,
            model=live.space.model,
            dimensions=live.space.dimensions,
        )


def _texts(
    collection: str, names: Sequence[str], documents: Sequence[str | None], metadatas: Sequence[str | None]
) -> list[IndexedText]:
    return [
        IndexedText(
            id=name,
            document=document or "",
            metadata=orjson.loads(metadata) if metadata else {},
            collection=collection,
        )
        for name, document, metadata in zip(names, documents, metadatas, strict=True)
    ]


def _examples(found: Changes, collection: str) -> list[IndexedText]:
    """Read some of the rows that were written; blocks."""
    first: pa.RecordBatch | None = next(found.batches(EXAMPLES), None)
    if first is None:
        return []
    names, documents, metadatas = (first[column].to_pylist() for column in ("id", "document", "metadata"))
    return _texts(collection, names, documents, metadatas)
