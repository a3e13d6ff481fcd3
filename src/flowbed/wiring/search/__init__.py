"""Searches a project's index with its model."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from flowbed.errors import Damaged, NotFound, Rejected
from flowbed.index.active_space import readable_collections, require_collection, require_same
from flowbed.index.search import not_searched, search
from flowbed.records.names import is_store
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from typing import Unpack

    from numpy.typing import NDArray

    from flowbed.embedding.cache.cached import Cached
    from flowbed.index.active_space import Live
    from flowbed.index.search import Mode, Order
    from flowbed.index.search.hits import Unit
    from flowbed.index.search.reader import IndexReader
    from flowbed.records import Hit, SearchResults, Space
    from flowbed.storage import Store
    from flowbed.wiring.models import Embedders
    from flowbed.wiring.search.reranking import Reranking


class Options(TypedDict):
    """Arguments of `Flowbed.find` that a search takes as they are."""

    where: Mapping[str, Any] | None
    since: str | float | datetime | None
    before: str | float | datetime | None
    order: Order
    limit: int
    unit: Unit
    cursor: str | None


class Searcher:
    """The searches of one project."""

    def __init__(self, store: Store, reader: IndexReader, embedders: Embedders, reranking: Reranking) -> None:
        """Search what `reader` reads."""
        self._store, self._reader = store, reader
        self._embedders, self._reranking = embedders, reranking

    async def aclose(self) -> None:
        """Close the reranker, if it was used."""
        await self._reranking.aclose()

    async def find(
        self,
        query: str | Sequence[float],
        *,
        collection: str | None,
        at: int | None,
        mode: Mode,
        text: str,
        like: str | None,
        rerank: bool,
        **options: Unpack[Options],
    ) -> SearchResults:
        """Search as `Flowbed.find` says; `text` is that of a query whose vector is given."""
        if at is not None and collection is None:
            raise Rejected("a version belongs to one collection: name the collection too")
        text = query if isinstance(query, str) else text
        if rerank and (not text.strip() or options["order"] != "score"):
            raise Rejected(
                "a reranker compares the texts of hits with that of a query, and orders them by score"
            )
        vector: NDArray[np.float32] | None
        if like is not None:
            vector, example, searched, damaged = await self._like(like, collection, text, mode)
        else:
            example = None
            vector, searched, damaged = await self._asked(query, collection, text, mode)
        found = await search(
            vector,
            searched,
            datasets=self._reader.datasets,
            cache=self._reader.cache,
            now=process.now() / 1e6,
            text=text if like is None else "",
            mode=mode,
            at=at,
            without=example,
            rerank=partial(self._reranking.rerank, text) if rerank else None,
            **options,
        )
        if not damaged:
            return found
        return replace(found, warnings=(*map(not_searched, damaged), *found.warnings))

    async def _asked(
        self, query: str | Sequence[float], collection: str | None, text: str, mode: Mode
    ) -> tuple[NDArray[np.float32] | None, list[Live], Mapping[str, str]]:
        """Return the vector of a query, what to search, and why other collections cannot be."""
        if mode != "vector" and not text.strip():
            raise Rejected(f"a search in mode {mode!r} looks for the words of a text: give it one")
        # Words are found without the model, and in every space.
        embedder = await self._model(collection) if mode != "text" else None
        searched, damaged = await self._collections(collection, None if embedder is None else embedder.space)
        return None if embedder is None else await _vector(query, embedder), searched, damaged

    async def _model(self, collection: str | None) -> Cached:
        """Return the model that embeds the query: of the collection's space, where one is named that has another."""
        live = None if collection is None else await self._reader.live(collection)
        found = None if live is None else await self._embedders.of(live.space)
        return found or await self._embedders.live()

    async def _like(
        self, name: str, collection: str | None, text: str, mode: Mode
    ) -> tuple[NDArray[np.float32], Hit, list[Live], Mapping[str, str]]:
        """Return the vector of a row and the row, what to search, and why other collections cannot be."""
        from flowbed.index.search.around import example

        if text or mode != "vector":
            raise Rejected("`like` searches by the vector of a row: leave out the query and the mode")
        everywhere, damaged = await self._collections(collection, None)
        row, live, vector = await example(name, everywhere, datasets=self._reader.datasets)
        same = [each for each in everywhere if each.space.fingerprint == live.space.fingerprint]
        return vector, row, same, damaged

    async def _collections(
        self, collection: str | None, space: Space | None
    ) -> tuple[list[Live], Mapping[str, str]]:
        """Return what to search, and why other collections cannot be."""
        if collection is not None:
            live = await self._reader.live(collection) or await require_collection(self._store, collection)
            if space is not None:
                require_same(live, space)
            return [live], {}
        found, damaged = await readable_collections(self._store)
        found = [live for live in found if not is_store(live.collection)]  # only their owners search them
        searched = [live for live in found if space is None or live.space.fingerprint == space.fingerprint]
        if space is not None and not searched and found:
            models = ", ".join(sorted({live.space.model for live in found}))
            raise NotFound(
                f"no collection is in the space of {space.model} ({space.space8}): they have vectors of {models}; set"
                " the model back, or fill a collection with vectors of this one"
            )
        if not searched and damaged:
            raise Damaged(next(iter(damaged.values())))
        if not searched:
            raise NotFound(
                "nothing is indexed yet; `flowbed run` does it, and names sources that list nothing"
            )
        return searched, damaged


async def _vector(query: str | Sequence[float], embedder: Cached) -> NDArray[np.float32]:
    """Return the vector of a query.

    Raises:
        Rejected: the query is empty, or a vector of another size.
    """
    if isinstance(query, str):
        if not query.strip():
            raise Rejected("the query is empty; ask for something")
        # Read as documents are, by a tokenizer that is loaded now.
        sent = (await asyncio.to_thread(embedder.read, query)).sent
        found: NDArray[np.float32] = (await embedder.embed([sent], purpose="query")).vectors[0]
        return found
    vector = _single(query)
    size = embedder.space.dimensions
    if vector.shape != (size,) or not np.isfinite(vector).all():
        raise Rejected(f"the query vector must have {size} numbers, all finite, as the model's have")
    return vector


def _single(query: Sequence[float]) -> NDArray[np.float32]:
    """Return numbers in single precision; one that is too large for it becomes infinite, and is refused as such."""
    with np.errstate(over="ignore"):
        return np.asarray(query, np.float32)
