"""Documents that are written one by one: synced, embedded and committed at once, by the same steps as a run's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowbed.errors import Transient
from flowbed.lanes.claims import release_dead_workers
from flowbed.lanes.failures import RunStats
from flowbed.ledger import Erasure
from flowbed.pipeline.run import tidy
from flowbed.pipeline.sync import check_space, sync
from flowbed.records import Status
from flowbed.records.written import WrittenDocument, documents_collection, documents_source

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from flowbed.lanes.contexts import RunContext
    from flowbed.ledger import ChunkRow
    from flowbed.pipeline import ConfiguredSource
    from flowbed.records import Problem


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What was embedded: the tokens that were sent, and why nothing more was, empty if all was."""

    tokens: int = 0
    stopped: str = ""


class DocumentSteps:
    """The steps by which documents are written; each may be repeated, by any process."""

    def __init__(self, context: RunContext) -> None:
        """Work with `context`."""
        self._context = context

    async def sync(self, feeds: Sequence[ConfiguredSource]) -> dict[str, Problem]:
        """Write batch files of what changed, and record it; return the problems, by document. Nothing is embedded.

        The source of each feed lists what to write, and names what is gone; it is never complete.

        Raises:
            Misconfigured: a collection lives in another space.
            Transient: the same call may succeed later.
        """
        problems: dict[str, Problem] = {}
        for feed in feeds:
            await check_space(feed, self._context)
            synced = await sync(feed, self._context, allow_deletes=True, troubled=False)
            if fetching := [each for each in synced.problems if not each.document]:
                raise Transient(fetching[0].reason)  # others kept writing documents of this collection
            problems |= {each.document: each for each in synced.problems}
        return problems

    async def embed(self, sources: Collection[str]) -> Embedded:
        """Embed and commit what waits of these sources, and what killed processes left of them.

        Raises:
            Misconfigured: the model cannot be used.
        """
        from flowbed.lanes.embed import embed  # loads numpy and lance
        from flowbed.lanes.write_deltas import commit_readable

        context = self._context
        overview = await context.ledger.overview()
        await release_dead_workers(context, overview)
        tally = RunStats()
        collections = set(map(documents_collection, sources))
        for collection in collections.intersection(overview.pending):
            await commit_readable(collection, context, tally)
        await asyncio.to_thread(context.embedder)
        tally.add(await embed(context, sources=sources))
        await tidy(context, tally)
        return Embedded(tokens=tally.tokens, stopped=tally.stopped)

    async def read(self, source: str, documents: Collection[str]) -> dict[str, WrittenDocument]:
        """Return what the ledger says of documents; one that it does not know is missing."""
        ledger = self._context.ledger
        found = dict.fromkeys(await ledger.documents.get(source, documents), WrittenDocument())
        rows = await ledger.chunks.of(source, list(documents))
        for row in sorted(rows, key=lambda row: row.ordinal):
            if row.deleted and row.status is Status.SUCCESS:
                continue
            found[row.document] = _with_chunk(found.get(row.document, WrittenDocument()), row)
        return found

    async def dismiss(self, collection: str, chunks: Collection[str]) -> None:
        """Remove the dead letters of chunks whose document reports the failure itself."""
        if chunks:
            await self._context.ledger.dead_letters.remove("chunk", owner=collection, subjects=chunks)

    async def erase(self, collection: str) -> None:
        """Delete all that is stored of a collection of documents, and all that the ledger knows of them.

        Nothing of it may be pending, and nobody may write to it.
        """
        ledger, store, source = self._context.ledger, self._context.store, documents_source(collection)
        async for page in ledger.chunks.marks(collection):
            await ledger.erasing.erase(
                Erasure(chunks=[(collection, mark.id) for mark in page], sources=[source])
            )
        async for documents in ledger.documents.pages(source):
            await ledger.erasing.erase(
                Erasure(documents=[(source, row.id) for row in documents], sources=[source])
            )
        for folder in (collection, source):
            keys = [listed.key async for listed in store.list(folder)]
            if keys:
                await store.delete(keys)


def _with_chunk(before: WrittenDocument, row: ChunkRow) -> WrittenDocument:
    if row.deleted:
        return replace(before, waiting=True)  # until the deletion is committed
    rejected = row.status is Status.FAILED and row.failure == "rejected"
    return WrittenDocument(
        chunks=(*before.chunks, row.id),
        tokens=before.tokens + row.tokens,
        unsent=before.unsent + (row.tokens if row.status is Status.NONE else 0),
        unsent_chunks=before.unsent_chunks + (row.status is Status.NONE),
        waiting=before.waiting or not (rejected or row.status is Status.SUCCESS),
        reason=before.reason or (row.error if rejected else ""),
    )
