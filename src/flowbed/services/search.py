"""Searching on behalf of a caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.services.inputs import most_tokens
from flowbed.services.served import allow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.embedding import Embedder
    from flowbed.records import Found
    from flowbed.services import Caller, Project, Serving
    from flowbed.services.quotas import Quotas


class Search:
    """Finds what is nearest, for callers who may use the project's model; a query's tokens count as any others do."""

    def __init__(self, bed: Project, quotas: Quotas, serving: Serving) -> None:
        """Take the project to search, what callers may use, and what the operator has settled."""
        self._bed, self._quotas, self._serving = bed, quotas, serving
        self._embedder: Embedder | None = None

    async def find(self, caller: Caller, query: str | Sequence[float], **how: Any) -> Found:  # noqa: ANN401 - as `Flowbed.find`
        """Find what is nearest to a text or a vector; takes what `Flowbed.find` takes.

        Raises:
            TooMany: the caller has had its requests of this minute.
            Forbidden: its key may not use the project's model.
            Exhausted: its quota of today does not suffice.
            NotFound, Rejected, Misconfigured, Transient: as `Flowbed.find` does.

        """
        await self._quotas.admit(caller)
        embedder = self._embedder = self._embedder or await self._bed.open_model(self._bed.model)
        model = embedder.space.model
        names = {model, self._bed.model}
        names |= {alias for alias, name in self._serving.aliases.items() if name in names}
        allow(model, names, caller, self._serving)
        most = most_tokens(query) if isinstance(query, str) else 0
        self._quotas.hold(caller, most)
        tokens = 0
        try:
            found = await self._bed.find(query, **how)
            tokens = embedder.count(query) if isinstance(query, str) else 0
        finally:
            self._quotas.settle(caller, held=most, tokens=tokens)
        return found
