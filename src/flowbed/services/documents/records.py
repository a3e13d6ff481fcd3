"""Rows that callers write with their vectors, which no model computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Misconfigured, NotFound, Rejected
from flowbed.records.names import is_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.records import Scalar
    from flowbed.records.precomputed import Ingested, PrecomputedRows
    from flowbed.records.serving import Caller
    from flowbed.services.jobs.jobs import IndexJobService
    from flowbed.services.project import Project


@dataclass(frozen=True, kw_only=True)
class RecordView:
    """A row: `vector` is of the collection's dimensions."""

    id: str
    text: str | None
    metadata: Mapping[str, Scalar]
    vector: Sequence[float]


class RecordService:
    """Writes, reads and deletes rows for callers who may."""

    def __init__(self, bed: Project, jobs: IndexJobService) -> None:
        """Write into the collections of `bed`; `jobs` knows who may."""
        self._bed, self._jobs = bed, jobs

    async def put(self, caller: Caller, collection: str, rows: PrecomputedRows) -> Ingested:
        """Write or delete rows; when this returns they are searched, or gone.

        Raises:
            Forbidden: the caller may not write.
            Rejected: a row cannot be stored, or is a source's; nothing was written.
            NotFound: the collection is a vector store.
        """
        self._jobs.require_writer(caller)
        _require_open(collection)
        try:
            rows = replace(rows, vectors=_single(rows.vectors)) if rows.ids else rows
            done: Ingested = await self._bed.write_rows(collection, rows, strict=True)
        except (Misconfigured, Rejected) as error:
            raise Rejected(str(error), param="records") from error
        if done.refused:
            raise Rejected(done.refused[0].reason, param="records")
        return done

    async def get(self, collection: str, record: str) -> RecordView:
        """Return a row.

        Raises:
            NotFound: there is no such row, or no such collection.
        """
        _require_open(collection)
        reader = self._bed.reader()
        live = await reader.live(collection)
        selection: Any = None if live is None else await reader.rows.select(live, ids=[record])
        if selection is None or not len(selection):
            raise NotFound(f"Collection {collection} has no record {record[:80]!r}.", param="record")
        (text,) = await selection.strings("document", first=0)
        (metadata,) = await selection.strings("metadata", first=0)
        vectors = await selection.vectors(first=0)
        return RecordView(
            id=record, text=text or None, metadata=orjson.loads(metadata), vector=vectors[0].tolist()
        )


def _single(vectors: Any) -> NDArray[np.float32]:
    """Return vectors in single precision; a number that is too large for it is refused later, as infinite.

    Raises:
        Rejected: they differ in length.
    """
    import numpy as np  # loading it takes a tenth of a second

    try:
        with np.errstate(over="ignore"):
            return np.asarray(vectors, np.float32)
    except ValueError as error:
        raise Rejected("the vectors differ in their numbers of dimensions") from error


def _require_open(collection: str) -> None:
    """Require that a collection is not the vector store of a key.

    Raises:
        NotFound: it is one.
    """
    if is_store(collection):
        raise NotFound(f"there is no collection {collection}", param="collection")
