"""Rows of a collection on behalf of a caller: how many, which, and the nearest to vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.errors import Rejected
from flowbed.services.chroma.where import to_filter
from flowbed.services.embedding.served_model import allow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowbed.index.search.nearest import Metric, Nearest
    from flowbed.index.search.reader import IndexReader
    from flowbed.index.search.rows import Selection
    from flowbed.records.serving import Caller, Serving
    from flowbed.services.chroma.collections import ChromaCollection, CollectionDirectory
    from flowbed.services.models import Models
    from flowbed.services.quotas import QuotaService

EMPTY_METADATA = "{}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """The rows near one vector, nearest first: `metadata` is JSON, and None where a row has no text or metadata.

    `distances` is float32, `vectors` float32 of shape (rows, dimensions).
    """

    ids: Sequence[str]
    documents: Sequence[str | None]
    metadata: Sequence[str | None]
    distances: NDArray[np.float32]
    vectors: NDArray[np.float32]


class RowService:
    """Reads rows for callers who may use the model of the collection's space; each call is one request of its quota."""

    def __init__(
        self,
        directory: CollectionDirectory,
        reader: IndexReader,
        *,
        models: Models,
        quotas: QuotaService,
        serving: Serving,
    ) -> None:
        """Read what `directory` finds."""
        self._directory, self._reader = directory, reader
        self._models, self._quotas, self._serving = models, quotas, serving

    async def open(self, caller: Caller, collection: str) -> ChromaCollection:
        """Return the collection with this id, for a caller who may read it.

        Raises:
            TooMany: the caller's requests of this minute are used up.
            NotFound, Rejected: there is no such collection, or that is no id.
            Forbidden: the caller's key may not use the model of its space.
        """
        await self._quotas.admit(caller)
        found = await self._directory.with_id(collection)
        self.require_model(caller, found)
        return found

    def require_model(self, caller: Caller, collection: ChromaCollection) -> None:
        """Require that a caller's key may use the model of a collection's space.

        Raises:
            Forbidden: it may not.
        """
        space = collection.live.space
        names = {space.model}
        for model in self._models.listed():
            if model.space == space.fingerprint:
                names |= {model.id, model.spec, *model.aliases}
        allow(space.model, names, caller, self._serving)

    def require_new(self, caller: Caller, spec: str) -> None:
        """Require that a caller's key may use the model of a new collection, named vendor:model.

        Raises:
            Forbidden: it may not.
        """
        names = {spec}
        for model in self._models.listed():
            if model.spec == spec:
                names |= {model.id, *model.aliases}
        allow(spec, names, caller, self._serving)

    async def count(self, caller: Caller, collection: str) -> int:
        """Count the rows of a collection."""
        found = await self.open(caller, collection)
        return await self._reader.rows.count(found.live)

    async def select(
        self,
        caller: Caller,
        collection: str,
        *,
        ids: Sequence[str] | None,
        where: Any,
        where_document: Any,
        offset: int,
        limit: int | None,
    ) -> Selection | None:
        """Select rows in the order of their ids; None in a collection that is being created.

        Raises:
            Rejected: a filter is invalid; and as `open` does.
        """
        found = await self.open(caller, collection)
        return await self._reader.rows.select(
            found.live, ids=ids, where=to_filter(where, where_document), offset=offset, limit=limit
        )

    async def query(
        self,
        caller: Caller,
        collection: str,
        vectors: Sequence[Sequence[float]],
        *,
        ids: Sequence[str] | None,
        where: Any,
        where_document: Any,
        limit: int,
    ) -> list[Neighbours]:
        """Find the rows nearest to each vector by the collection's distance.

        Raises:
            Rejected: a vector or a filter is invalid; and as `open` does.
        """
        found = await self.open(caller, collection)
        queries = vectors_of(vectors, found.live.space.dimensions)
        condition = to_filter(where, where_document)
        if not limit or not len(queries):
            return [_nothing(each) for each in queries]
        metric = found.settings.metric
        nearest = await self._reader.nearest(
            found.live, queries, ids=ids, where=condition, limit=limit, metric=metric
        )
        return [_neighbours(each, metric) for each in nearest] or [_nothing(each) for each in queries]


def vectors_of(vectors: Sequence[Sequence[float]], dimensions: int) -> NDArray[np.float32]:
    """Return vectors as float32 of shape (vectors, dimensions).

    Raises:
        Rejected: one has another length, or a number that is not finite.
    """
    odd = next((len(each) for each in vectors if len(each) != dimensions), None)
    if odd is not None:
        raise Rejected(f"Collection expecting embedding with dimension of {dimensions}, got {odd}")
    with np.errstate(over="ignore"):
        found = np.asarray(vectors, np.float32).reshape(len(vectors), dimensions)
    if not np.isfinite(found).all():
        raise Rejected("An embedding has a number that is not finite in 32 bits")
    return found


def _neighbours(nearest: Nearest, metric: Metric) -> Neighbours:
    ids, documents, metadata = nearest.shown
    if metric == "l2":
        distances = -nearest.scores
    else:
        scores = np.clip(nearest.scores, -1, 1) if metric == "cosine" else nearest.scores
        distances = 1 - scores  # rounding can exceed the range of a cosine
    return Neighbours(
        ids=ids,
        documents=texts_of(documents),
        metadata=metadata_of(metadata),
        distances=distances,
        vectors=nearest.vectors,
    )


def _nothing(vector: NDArray[np.float32]) -> Neighbours:
    none = np.zeros((0, len(vector)), np.float32)
    return Neighbours(ids=(), documents=(), metadata=(), distances=none[:, 0], vectors=none)


def texts_of(documents: Sequence[str | None]) -> list[str | None]:
    """Return texts as Chroma shows them: a row that came without a text has none."""
    return [text or None for text in documents]


def metadata_of(metadata: Sequence[str | None]) -> list[str | None]:
    """Return metadata as Chroma shows it: a row without keys has none."""
    return [None if each == EMPTY_METADATA else each for each in metadata]
