"""Search on behalf of a caller."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from flowbed.errors import NotFound
from flowbed.services.embedding.inputs import most_tokens, require_within, surely_within
from flowbed.services.embedding.served_model import allow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.embedding import Embedder
    from flowbed.index.search.fields import Fields
    from flowbed.records import SearchResults
    from flowbed.records.serving import Caller, Serving
    from flowbed.services.embedding.served_model import ServedModel
    from flowbed.services.models import Models
    from flowbed.services.project import Project
    from flowbed.services.quotas import QuotaService


# Searches of one key that are begun: half of the threads that asyncio has for blocking work.
SEARCHES = min(32, (os.cpu_count() or 1) + 4) // 2


class SearchService:
    """Searches for callers who may use the project's model; the tokens of a query count like any others.

    If that model is served, queries are embedded like requests for embeddings: from the same cache, within the same
    limits, and not while its provider is known to be down. The searches of one key may take half of the threads for
    blocking work.
    """

    def __init__(self, bed: Project, models: Models, quotas: QuotaService, serving: Serving) -> None:
        """Search `bed` with the served `models`, within `quotas` and the operator's choices in `serving`."""
        self._bed, self._quotas, self._serving = bed, quotas, serving
        self._embedder: Embedder | None = None
        self._models, self._served = models, _served(bed.model, models)
        self._turns: dict[str, asyncio.Semaphore] = {}  # by key

    async def find(self, caller: Caller, query: str | Sequence[float], **options: Any) -> SearchResults:
        """Find the nearest neighbours of a text or a vector; takes the arguments of `Flowbed.find`.

        Raises:
            TooMany: the caller's requests of this minute are used up.
            Forbidden: its key may not use the project's model.
            Exhausted: its quota of today is too small.
            Rejected: the query is longer than an input for embeddings may be.
            NotFound, Rejected, Misconfigured, Transient: as `Flowbed.find` does.
        """
        embedder = await self._admitted(caller)
        served = await self._served_of(caller, options.get("collection"), embedder)
        if not isinstance(query, str) or options.get("mode") == "text" or options.get("like") is not None:
            return await self._unembedded(caller, query, options)
        most = most_tokens(query)
        if not surely_within([most]):
            await asyncio.to_thread(require_within, [query], embedder.count)
        left = self._quotas.left(caller)
        if left is not None and most > left:
            most = embedder.count(query)
        self._quotas.hold(caller, most)
        tokens = 0
        try:
            embedded = await _embedded(query, served)
            if embedded is not query:  # paid for, even if the search fails
                tokens, options = embedder.count(query), {**options, "text": query}
            found = await self._found(caller, embedded, options)
            tokens = embedder.count(query) + found.reranked_tokens
        finally:
            self._quotas.settle(caller, held=most, tokens=tokens)
        return found

    async def _unembedded(
        self, caller: Caller, query: str | Sequence[float], options: dict[str, Any]
    ) -> SearchResults:
        """Search without embedding the query; only what a reranker reads counts."""
        if not options.get("rerank"):
            return await self._found(caller, query, options)
        self._quotas.hold(caller, 1)
        tokens = 0
        try:
            found = await self._found(caller, query, options)
            tokens = found.reranked_tokens
        finally:
            self._quotas.settle(caller, held=1, tokens=tokens)
        return found

    async def fields(self, caller: Caller, collection: str, **options: Any) -> Fields:
        """Return which metadata the rows of a collection have; takes the arguments of `Flowbed.fields`.

        Raises:
            TooMany: the caller's requests of this minute are used up.
            Forbidden: its key may not use the project's model.
            NotFound, Rejected: as `Flowbed.fields` does.
        """
        await self._admitted(caller)
        return await self._bed.fields(collection, **options)

    async def _admitted(self, caller: Caller) -> Embedder:
        """Return the project's model, opened, if the caller may use it, and now."""
        await self._quotas.admit(caller)
        embedder = self._embedder = self._embedder or await self._bed.open_model(self._bed.model)
        model = embedder.space.model
        names = {model, self._bed.model}
        names |= {alias for alias, name in self._serving.aliases.items() if name in names}
        allow(model, names, caller, self._serving)
        return embedder

    async def _found(
        self, caller: Caller, query: str | Sequence[float], options: dict[str, Any]
    ) -> SearchResults:
        """Search when the key has its turn; a search whose caller leaves before is not begun."""
        if caller.key is None:
            return await self._bed.find(query, **options)
        turns = self._turns.setdefault(caller.key, asyncio.Semaphore(SEARCHES))
        await turns.acquire()
        search = asyncio.ensure_future(self._bed.find(query, **options))

        def end(search: asyncio.Future[SearchResults]) -> None:
            turns.release()
            if not search.cancelled():
                search.exception()  # retrieved, also if the caller has left

        search.add_done_callback(end)
        # The thread of a search cannot be stopped: the turn ends with it, not when the caller leaves.
        return await asyncio.shield(search)

    async def _served_of(
        self, caller: Caller, collection: str | None, project: Embedder
    ) -> ServedModel | None:
        """Return the served model that embeds a query: the project's, or that of a collection of another space.

        Raises:
            Forbidden: the caller's key may not use that model.
        """
        live = None if collection is None else await self._bed.reader().live(collection)
        if live is None or live.space.fingerprint == project.space.fingerprint:
            return self._served
        for each in self._models.listed():
            if each.space == live.space.fingerprint:
                found = self._models.named(each.id)
                allow(found.id, found.names, caller, self._serving)
                return found
        return None


async def _embedded(query: str, served: ServedModel | None) -> str | list[float]:
    """Return the vector of a query if its model is served; an empty query has none."""
    if served is None or not query.strip():
        return query
    sent = (await asyncio.to_thread(served.embedder.read, query)).sent
    vector: list[float] = (await served.embed([sent], purpose="query")).vectors[0].tolist()
    return vector


def _served(spec: str, models: Models) -> ServedModel | None:
    """Return the served model of this spec; a model that only has the name as an alias is of another space."""
    try:
        found = models.named(spec)
    except NotFound:
        return None
    return found if found.spec == spec else None
