"""Samples of a version, with what an exact search of it finds: to check copies of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.index.native import row_ids_in
from flowbed.index.search.row_cache import vectors_in
from flowbed.index.versions.changes import SHOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lance
    from numpy.typing import NDArray

    from flowbed.index.versions.changes import Changes

PAGE = 16_384  # rows compared at a time: 25 MB of vectors at 384 dimensions


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A live row; `metadata` is JSON text."""

    id: str
    document: str
    metadata: str | None
    vector: NDArray[np.float32]


def sample(changes: Changes, count: int) -> list[Sampled]:
    """Return up to `count` changed rows and up to `count` of all rows, evenly spread; blocks."""
    dataset = changes.dataset
    batches = dataset.scanner(columns=[], with_row_id=True, filter=changes.condition).to_batches()
    row_ids = np.concatenate([np.empty(0, np.uint64), *(batch["_rowid"].to_numpy() for batch in batches)])
    chosen = _spread(row_ids, count)
    if changes.row_ids is not None:
        chosen = np.union1d(chosen, _spread(changes.row_ids, count))
    return _rows(dataset, chosen) if len(chosen) else []


def nearest(changes: Changes, vectors: NDArray[np.float32], limit: int) -> NDArray[np.float32]:
    """Return the cosine distances of the `limit` live rows nearest to each vector, ascending; reads all vectors once.

    With fewer rows, the result has fewer columns.
    """
    asked = _unit(vectors)
    best: NDArray[np.float32] = np.empty((len(asked), 0), np.float32)
    for batch in changes.dataset.to_batches(columns=["vector"], filter=changes.condition, batch_size=PAGE):
        if batch.num_rows:
            distances = (1 - asked @ _unit(vectors_in(batch)).T).astype(np.float32)
            both = np.concatenate([best, distances], axis=1)
            both.sort(axis=1)
            best = both[:, :limit]
    return best


def _spread(row_ids: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    if len(row_ids) <= count:
        return row_ids
    return row_ids[np.linspace(0, len(row_ids) - 1, count).astype(np.int64)]


def _rows(dataset: lance.LanceDataset, row_ids: NDArray[np.uint64]) -> list[Sampled]:
    batches: Sequence[Any] = list(dataset.to_batches(columns=SHOWN, filter=row_ids_in(row_ids.tolist())))
    return [
        Sampled(id=name, document=document, metadata=metadata, vector=vector)
        for batch in batches
        for name, document, metadata, vector in zip(
            batch["id"].to_pylist(),
            batch["document"].to_pylist(),
            batch["metadata"].to_pylist(),
            vectors_in(batch),
            strict=True,
        )
    ]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)
