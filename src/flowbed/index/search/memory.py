"""All rows of one version in memory: compared one by one, or found through an index in memory where they are many.

Lance plans every search as a database plans a query: 1.5 ms of CPU before it compares anything. FAISS, where it is
installed, finds as good candidates among 100,000 rows in 0.4 ms. Its index is made of the cached rows, a step with each
search, and follows a commit by the rows that changed.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flowbed.index.partitions import ROUNDS, SAMPLE, Partitioned, compared, partitions_of, probes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from flowbed.index.search.nearest import Query
    from flowbed.index.search.row_cache import View

# Comparing this many rows one by one takes 2 ms of CPU, as long as Lance's index.
FEWEST = 15_000
# RaBitQ keeps one bit of each number, which ranks worse the fewer there are: vectors of fewer dimensions keep a byte.
CODED_DIMENSIONS = 256
# Bits of each number of a query: 8 take longer and find no more.
QUERY_BITS = 4
# Candidates for each hit wanted, and the least number: recall@10 of 0.986 where Lance's index has 0.984.
CANDIDATES, LEAST = 10, 100
# Longer lists are left to Lance: comparing their candidates takes as long.
LONGEST = 100
# An index is made again when fewer of its rows are left than this share, or when they are this many times more.
LEFT, GROWN = 0.5, 2
TINY = np.finfo(np.float32).tiny


class Whole(NamedTuple):
    """All rows of one version in memory: `vectors` are blocks of the rows that `row_ids` names in their order.

    `lengths` are those of the vectors.
    """

    row_ids: NDArray[np.uint64]
    vectors: tuple[NDArray[np.float32], ...]
    lengths: NDArray[np.float32]


def whole_of(view: View) -> Whole | None:
    """Return all rows of a version if their vectors are cached; None otherwise.

    A cached piece may have rows that this version has replaced, so the rows that there are, are read once a version.
    """
    if not view.counted and view.planned and view.complete and "vector" in view.columns:
        view.held, view.counted = _whole(view), True
    return view.held


def _whole(view: View) -> Whole | None:
    scanner = view.dataset.scanner(columns=[], filter="deleted = false", with_row_id=True)
    live = np.sort(scanner.to_pyarrow().read_all()["_rowid"].to_numpy())
    row_ids, vectors, lengths = [np.zeros(0, np.uint64)], [], [np.zeros(0, np.float32)]
    for piece in view.rows.pieces:
        if piece.vectors is None:
            return None
        mine = np.arange(piece.first, piece.first + len(piece.vectors), dtype=np.uint64)
        mine = mine if piece.row_ids is None else piece.row_ids
        kept = np.isin(mine, live, assume_unique=True)
        row_ids.append(mine[kept])
        vectors.append(piece.vectors if kept.all() else piece.vectors[kept])
        lengths.append(np.linalg.norm(vectors[-1], axis=1))
    found = np.concatenate(row_ids)
    if len(found) != len(live):
        return None  # there was no room for all, or a file was gone before it was read
    return Whole(found, tuple(vectors), np.concatenate(lengths))


def scan_whole(whole: Whole, query: Query) -> list[int]:
    """Find the nearest of all rows in memory, which takes a tenth of the time that Lance takes."""
    if not len(whole.row_ids):
        return []
    # Not `@`, for which BLAS starts threads that cost more than they save.
    scores = np.concatenate([np.einsum("ij,j->i", vectors, query.vector) for vectors in whole.vectors])
    if query.metric == "cosine":
        scores = scores / np.maximum(whole.lengths, TINY)
    elif query.metric == "l2":
        scores = 2 * scores - np.square(whole.lengths)
    wanted = min(compared(query.limit, filtered=False), len(scores))
    best = np.argpartition(-scores, wanted - 1)[:wanted]
    row_ids: list[int] = whole.row_ids[best].tolist()
    return row_ids


class MemoryIndex:
    """An index of all rows of one version by cosine; it is never changed, so searches may run at the same time."""

    def __init__(self, index: Any, whole: Whole, trained: int) -> None:
        """Take FAISS's index of the row ids of `whole`, whose partitions were made for `trained` rows."""
        self.index, self.whole, self.trained = index, whole, trained
        self._partitioned = Partitioned(rows=len(whole.row_ids), partitions=index.nlist, segments=1)
        self._starts = np.cumsum([0, *map(len, whole.vectors)])

    def near(self, query: Query) -> list[int] | None:
        """Return the row ids of candidates, which include the nearest rows; None if Lance finds so many sooner."""
        if query.limit > LONGEST:
            return None
        rows = len(self.whole.row_ids)
        limit = min(query.limit, rows)
        wanted = min(max(LEAST, CANDIDATES * limit), rows)
        found = self._found(query, wanted, probes(self._partitioned, limit, filtered=False))
        if len(found) < limit:
            found = self._found(query, wanted, self._partitioned.partitions)
        return self._best(query, found)

    def _found(self, query: Query, wanted: int, nprobes: int) -> NDArray[np.int64]:
        """Return positions in `row_ids`, nearest first by the index's own, rough measure."""
        parameters = _faiss().SearchParametersIVF(nprobe=nprobes)
        _, found = self.index.search(query.vector[None], wanted, params=parameters)
        row_ids: NDArray[np.int64] = found[0][found[0] >= 0]  # -1 where there were too few
        return np.searchsorted(self.whole.row_ids, row_ids.astype(np.uint64))

    def _best(self, query: Query, places: NDArray[np.int64]) -> list[int]:
        """Return the row ids of the best places by exact cosines."""
        blocks = np.searchsorted(self._starts, places, side="right") - 1
        offsets = (places - self._starts[blocks]).tolist()
        vectors = [
            self.whole.vectors[block][offset] for block, offset in zip(blocks.tolist(), offsets, strict=True)
        ]
        scores = (np.stack(vectors) @ query.vector) / np.maximum(self.whole.lengths[places], TINY)
        best = np.argsort(-scores)[: compared(query.limit, filtered=False)]
        row_ids: list[int] = self.whole.row_ids[places[best]].tolist()
        return row_ids


def building(whole: Whole, before: MemoryIndex | None) -> Iterator[MemoryIndex | None]:
    """Index all rows in steps; the last one returns the index. There is none without FAISS.

    That of an older version, `before`, is copied and changed if most of its rows are left.
    """
    if not installed():
        return
    faiss = _faiss()
    count = len(whole.row_ids)
    held = np.zeros(0, np.uint64) if before is None else before.whole.row_ids
    left = np.isin(held, whole.row_ids)
    if before is not None and left.sum() >= LEFT * before.trained and count <= GROWN * before.trained:
        index, trained = faiss.clone_index(before.index), before.trained
        index.remove_ids(held[~left].astype(np.int64))
        new = np.isin(whole.row_ids, held, invert=True)
    else:
        index, trained = _trained(whole), count
        new = np.ones(count, bool)
    yield None
    start = 0
    for vectors in whole.vectors:
        part = slice(start, start + len(vectors))
        start += len(vectors)
        if new[part].any():
            row_ids = whole.row_ids[part][new[part]].astype(np.int64)
            # Threads that OpenMP starts for a block would take cores from other searches.
            faiss.omp_set_num_threads(1)
            index.add_with_ids(_directions(vectors, whole.lengths[part])[new[part]], row_ids)
            yield None
    yield MemoryIndex(index, whole, trained)


def _trained(whole: Whole) -> Any:
    """Create an empty index whose partitions fit the rows: k-means of a sample."""
    faiss, count = _faiss(), len(whole.row_ids)
    partitions, dimensions = partitions_of(count), whole.vectors[0].shape[1]
    faiss.omp_set_num_threads(1)
    kind = "RaBitQ" if dimensions >= CODED_DIMENSIONS else "SQ8"
    index = faiss.index_factory(dimensions, f"IVF{partitions},{kind}", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid = ROUNDS, SAMPLE
    index.cp.min_points_per_centroid = 1  # FAISS prints a warning below that
    if kind == "RaBitQ":
        index.qb = QUERY_BITS
    step = max(1, count // (SAMPLE * partitions))
    edges = np.cumsum([0, *map(len, whole.vectors)])
    blocks = zip(whole.vectors, np.split(whole.lengths, edges[1:-1]), strict=True)
    index.train(
        np.concatenate([_directions(vectors[::step], lengths[::step]) for vectors, lengths in blocks])
    )
    return index


def _directions(vectors: NDArray[np.float32], lengths: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors of length 1, whose dot products are cosines."""
    return np.ascontiguousarray(vectors / np.maximum(lengths, TINY)[:, None], np.float32)


@cache
def installed() -> bool:
    """Tell whether FAISS is installed."""
    return find_spec("faiss") is not None


def _faiss() -> Any:  # a module without types
    import faiss

    return faiss
