"""Searches a project's index with its model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.errors import NotFound, Rejected
from flowbed.index.active_space import RecentSpaces, live_collections, require_collection, require_same
from flowbed.index.search import Unit, search
from flowbed.index.search.row_cache import RowCache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.records import SearchResults, Space
    from flowbed.storage import Store
    from flowbed.wiring.models import Embedders


class Searcher:
    """The searches of one project; rows and pointers that were read stay in memory from one search to the next."""

    def __init__(self, store: Store, datasets: Datasets, embedders: Embedders) -> None:
        """Read nothing yet."""
        self._store, self._datasets, self._embedders = store, datasets, embedders
        self._rows, self._recent = RowCache(), RecentSpaces(store, monotonic=time.monotonic)

    async def find(
        self,
        query: str | Sequence[float],
        *,
        collection: str | None,
        where: Mapping[str, Any] | None,
        limit: int,
        at: int | None,
        unit: Unit,
    ) -> SearchResults:
        """Search as `Flowbed.find` says."""
        if at is not None and collection is None:
            raise Rejected("a version belongs to one collection: name the collection too")
        embedder = await self._embedders.live()
        searched = await self._collections(collection, embedder.space)
        if isinstance(query, str):
            if not query.strip():
                raise Rejected("the query is empty; ask for something")
            vector = (await embedder.embed([query], purpose="query")).vectors[0]
        else:
            vector = np.asarray(query, np.float32)
            if vector.shape != (embedder.space.dimensions,) or not np.isfinite(vector).all():
                size = embedder.space.dimensions
                raise Rejected(f"the query vector must have {size} numbers, all finite, as the model's have")
        return await search(
            vector,
            searched,
            datasets=self._datasets,
            where=where,
            limit=limit,
            at=at,
            unit=unit,
            cache=self._rows,
        )

    async def _collections(self, collection: str | None, space: Space) -> list[Live]:
        if collection is not None:
            live = await self._recent.get(collection) or await require_collection(self._store, collection)
            require_same(live, space)
            return [live]
        found = await live_collections(self._store)
        searched = [live for live in found if live.space.fingerprint == space.fingerprint]
        if not searched and found:
            raise NotFound(f"no collection is in the space of {space.model} ({space.space8})")
        if not searched:
            raise NotFound("nothing is indexed yet; `flowbed run` does it")
        return searched
