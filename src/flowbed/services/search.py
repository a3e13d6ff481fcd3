"""Searching on behalf of a caller."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from flowbed.errors import NotFound
from flowbed.services.inputs import most_tokens, require_within, surely_within
from flowbed.services.served_model import allow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.embedding import Embedder
    from flowbed.records import SearchResults
    from flowbed.records.serving import Caller, Serving
    from flowbed.services.models import Models
    from flowbed.services.project import Project
    from flowbed.services.quotas import Quotas
    from flowbed.services.served_model import ServedModel


class Search:
    """Finds what is nearest, for callers who may use the project's model; a query's tokens count as any others do.

    Where that model is served, it embeds queries as it does what requests for embeddings send: from the same cache,
    within the same limits, and not while its provider is known to be down.
    """

    def __init__(self, bed: Project, models: Models, quotas: Quotas, serving: Serving) -> None:
        """Take the project to search, the models served, what callers may use, and what the operator has settled."""
        self._bed, self._quotas, self._serving = bed, quotas, serving
        self._embedder: Embedder | None = None
        self._served = _served(bed.model, models)

    async def find(
        self, caller: Caller, query: str | Sequence[float], **how: Any
    ) -> SearchResults:  # as `Flowbed.find`
        """Find what is nearest to a text or a vector; takes what `Flowbed.find` takes.

        Raises:
            TooMany: the caller has had its requests of this minute.
            Forbidden: its key may not use the project's model.
            Exhausted: its quota of today does not suffice.
            Rejected: the query is longer than an input of `Embeddings` may be.
            NotFound, Rejected, Misconfigured, Transient: as `Flowbed.find` does.
        """
        await self._quotas.admit(caller)
        embedder = self._embedder = self._embedder or await self._bed.open_model(self._bed.model)
        model = embedder.space.model
        names = {model, self._bed.model}
        names |= {alias for alias, name in self._serving.aliases.items() if name in names}
        allow(model, names, caller, self._serving)
        if not isinstance(query, str):
            return await self._bed.find(query, **how)
        most = most_tokens(query)
        if not surely_within([most]):
            await asyncio.to_thread(require_within, [query], embedder.count)
        left = self._quotas.left(caller)
        if left is not None and most > left:
            most = embedder.count(query)
        self._quotas.hold(caller, most)
        tokens = 0
        try:
            asked = await self._embedded(query)
            if asked is not query:  # paid for, whatever becomes of the search
                tokens = embedder.count(query)
            found = await self._bed.find(asked, **how)
            tokens = embedder.count(query)
        finally:
            self._quotas.settle(caller, held=most, tokens=tokens)
        return found

    async def _embedded(self, query: str) -> str | list[float]:
        """Give the vector of a query, where its model is served; of nothing there is none."""
        if self._served is None or not query.strip():
            return query
        vector: list[float] = (await self._served.embed([query], purpose="query")).vectors[0].tolist()
        return vector


def _served(spec: str, models: Models) -> ServedModel | None:
    """Find a model among those served, if it is; another that has its name as an alias is of another space."""
    try:
        found = models.named(spec)
    except NotFound:
        return None
    return found if found.spec == spec else None
