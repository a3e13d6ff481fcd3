"""Searches of vector stores, as OpenAI scores and filters them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import NotFound, Rejected
from flowbed.ledger.vector_stores import COMPLETED
from flowbed.services.vector_stores.filters import to_where

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.ledger.vector_stores import VectorStoreFiles, VectorStoreRow
    from flowbed.records import Hit, Scalar
    from flowbed.records.serving import Caller
    from flowbed.services.project import Project
    from flowbed.services.search import SearchService
    from flowbed.services.vector_stores.stores import StoreService


@dataclass(frozen=True, kw_only=True)
class StoreQuery:
    """What to find: `texts` of which each has its own vector, and a chunk the score of the nearest.

    Results below `threshold`, from 0 to 1, are left out before the best `limit` are chosen.
    """

    texts: Sequence[str]
    limit: int = 10
    filters: Mapping[str, Any] | None = None
    threshold: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StoreHit:
    """A chunk that was found; `score` is from 0 to 1."""

    file: str
    filename: str
    score: float
    text: str
    attributes: Mapping[str, Scalar] = field(default_factory=dict)


class StoreSearch:
    """Searches stores for callers who may use the project's model; the tokens of queries count like any others."""

    def __init__(
        self, bed: Project, files: VectorStoreFiles, stores: StoreService, searches: SearchService
    ) -> None:
        """Search with `searches`."""
        self._bed, self._files, self._stores, self._searches = bed, files, stores, searches

    async def find(self, caller: Caller, store: VectorStoreRow, query: StoreQuery) -> list[StoreHit]:
        """Find the chunks nearest to one of the texts, best first; only files that are completed are found.

        Raises:
            Rejected: the store has expired, or the filter is invalid.
            TooMany, Exhausted, Forbidden, Transient, Misconfigured: as `SearchService.find` does.
        """
        if self._stores.is_expired(store):
            raise Rejected(
                f"Vector store '{store.id}' has expired, and cannot be searched.",
                param="vector_store_id",
                code="vector_store_expired",
            )
        conditions = [] if query.filters is None else [to_where(query.filters)]
        await self._stores.touch(store)
        if await self._bed.reader().live(store.id) is None:
            return []  # no file was indexed yet
        # Chunks of these files may be in the index already, or still.
        if unsettled := [row.file for row in await self._files.working(store.id) if row.work != "update"]:
            conditions.append({"document": {"$nin": unsettled}})
        best: dict[str, Hit] = {}
        for text in query.texts:
            for hit in await self._nearest(caller, store, text, conditions, query.limit):
                if hit.id not in best or best[hit.id].score < hit.score:
                    best[hit.id] = hit
        return await self._shown(store, best, query)

    async def _nearest(
        self, caller: Caller, store: VectorStoreRow, text: str, conditions: list[dict[str, Any]], limit: int
    ) -> Sequence[Hit]:
        where = {"$and": conditions} if conditions else None
        try:
            found = await self._searches.find(
                caller, text, collection=store.id, where=where, limit=limit, at=None, unit="chunk"
            )
        except NotFound:
            return ()  # its first version is being written
        return found.hits

    async def _shown(
        self, store: VectorStoreRow, best: Mapping[str, Hit], query: StoreQuery
    ) -> list[StoreHit]:
        rows = await self._files.get(store.id, {str(hit.metadata["document"]) for hit in best.values()})
        shown = []
        for hit in sorted(best.values(), key=lambda hit: (-hit.score, hit.id)):
            row = rows.get(str(hit.metadata["document"]))
            score = max(0.0, hit.score)
            if row is None or row.status != COMPLETED or row.work == "remove" or score < query.threshold:
                continue
            shown.append(
                StoreHit(
                    file=row.file,
                    filename=row.filename,
                    score=score,
                    text=hit.document,
                    attributes=orjson.loads(row.attributes),
                )
            )
        return shown[: query.limit]
