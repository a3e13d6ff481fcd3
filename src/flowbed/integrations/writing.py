"""Writes texts of a framework into a collection, as rows with vectors of the project's model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import NotFound, Rejected
from flowbed.records.precomputed import PrecomputedRows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.blocking import Blocking
    from flowbed.records import IndexedText


def write(
    bed: Blocking,
    collection: str,
    *,
    ids: Sequence[str],
    texts: Sequence[str],
    metadata: Sequence[Mapping[str, object]],
    vectors: NDArray[np.float32] | Sequence[Sequence[float]] | None = None,
) -> None:
    """Insert or replace rows, all or none; without `vectors` the project's model embeds the texts.

    Raises:
        Rejected: a row cannot be stored, such as one with nested metadata; it is named.
    """
    if not ids:
        return
    made = bed.vectors(*texts) if vectors is None else vectors
    rows = PrecomputedRows(ids=ids, vectors=made, texts=texts, metadata=metadata)
    bed.write_rows(collection, rows, strict=True)


def delete(bed: Blocking, collection: str, ids: Sequence[str]) -> None:
    """Delete rows by their ids; ids that are not there are ignored."""
    if ids and exists(bed, collection):
        bed.write_rows(collection, PrecomputedRows(deleted=ids))


def exists(bed: Blocking, collection: str) -> bool:
    """Return whether the collection has been written before."""
    return collection in bed.status().collections


def rows(
    bed: Blocking,
    collection: str,
    *,
    ids: Sequence[str] | None = None,
    where: Mapping[str, object] | None = None,
) -> tuple[IndexedText, ...]:
    """Return the rows of a collection; none if it was never written."""
    try:
        return bed.rows(collection, ids=ids, where=where)
    except NotFound:
        return ()


def positive(limit: int) -> int:
    """Return how many hits to ask for.

    Raises:
        Rejected: none are asked for.
    """
    if limit < 1:
        raise Rejected(f"{limit} hits were asked for; ask for at least 1")
    return limit
