"""The rows of one version that are nearest to a vector: candidates from the index or a scan, compared exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from flowbed.index.partitions import compared, probes
from flowbed.index.search.memory import scan_whole, whole_of
from flowbed.index.search.row_cache import SHOWN, shown_of, vectors_in, vectors_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from flowbed.index.native import Dataset
    from flowbed.index.partitions import Partitioned
    from flowbed.index.search.row_cache import View

Metric = Literal["cosine", "l2", "ip"]

# Scanning this many vectors takes 5 to 10 ms, about as long as probing an index and reading its candidates, and a scan
# misses nothing.
EXACT_ROWS = 5_000
# In memory, this many times more rows take as long as an index: 2 ms of CPU.
HELD = 3
# Up to this many rows that match a filter are compared one by one; reading their scattered vectors takes 20 ms.
FEW = 2_000
# Of up to this many rows, the texts are read together with the vectors.
WHOLE = 24
EVERY = "true"  # the condition of a search without a filter
LANCE = {"cosine": "cosine", "l2": "l2", "ip": "dot"}


@dataclass(frozen=True, kw_only=True)
class Query:
    """A checked search of one collection: `condition` is SQL; with `exact` None, the number of rows decides.

    Vectors are compared by `metric`. The vector index ranks by cosine similarity, so it serves another metric only if
    all vectors are `normalized`.
    """

    vector: NDArray[np.float32]
    condition: str
    limit: int
    exact: bool | None = None
    metric: Metric = "cosine"
    normalized: bool = True

    @cached_property
    def arrow(self) -> pa.FloatArray:
        """The vector as an Arrow array; Lance converts a NumPy array to double precision and back."""
        # `pa.array` loads masked arrays, which takes longer than most searches.
        whole = np.ascontiguousarray(self.vector)
        return pa.FloatArray.from_buffers(pa.float32(), len(whole), [None, pa.py_buffer(whole)])

    @property
    def ranked(self) -> str:
        """Lance's name of the metric that finds the candidates."""
        if not self.vector.any():
            return "dot"  # a vector without direction is equally near to all
        return "cosine" if self.normalized else LANCE[self.metric]

    @property
    def scans(self) -> bool:
        """Whether every row has to be compared."""
        return bool(self.exact) or self.ranked != "cosine"


@dataclass(frozen=True, kw_only=True, eq=False)
class Nearest:
    """The rows found, best first.

    `shown` holds the columns of `SHOWN`: ids, documents and metadata as JSON. `scores` are higher for nearer rows: the
    cosine, the dot product, or the negative squared distance. `vectors` is float32 of shape (rows, dimensions).
    """

    shown: Sequence[Sequence[str]]
    scores: NDArray[np.float32]
    vectors: NDArray[np.float32]


def find_nearest(view: View, queries: Sequence[Query]) -> list[Nearest]:
    """Find the nearest rows of each query; all of them have the same condition."""
    few = None
    if queries and queries[0].condition != EVERY and queries[0].exact is not False:
        few = _few(view.dataset, _living(queries[0].condition))
    return [_compared(view, query, _candidates(view, query) if few is None else few) for query in queries]


def _candidates(view: View, query: Query) -> list[int]:
    """Return the row ids of candidates, which include the nearest rows."""
    index = None if query.scans else view.index
    if query.condition == EVERY:
        # Tombstones have no vector, so no search returns them and they need no filter.
        if index is None or (query.exact is None and index.rows <= HELD * EXACT_ROWS):
            whole = whole_of(view)
            if whole is not None:
                return scan_whole(whole, query)
        if index is None or (query.exact is None and index.rows <= EXACT_ROWS):
            return _scan(view, query, query.limit, None, {"use_index": False})
        return _through_index(view, query, index)
    condition = _living(query.condition)
    if index is None:
        return _scan(view, query, query.limit, condition, {"use_index": False})
    nprobes = probes(index, query.limit, filtered=True)
    return _scan(view, query, compared(query.limit, filtered=True), condition, {"minimum_nprobes": nprobes})


def _through_index(view: View, query: Query, index: Partitioned) -> list[int]:
    """Find candidates through the index in memory, if there is one, or Lance's."""
    if view.memory is not None and (near := view.memory.near(query)) is not None:
        return near
    nprobes, wanted = probes(index, query.limit, filtered=False), compared(query.limit, filtered=False)
    found = _scan(view, query, wanted, None, {"nprobes": nprobes})
    if len(found) >= query.limit or nprobes == index.partitions:
        return found
    # Probe more partitions until there are enough.
    return _scan(view, query, wanted, None, {"minimum_nprobes": nprobes})


def _living(condition: str) -> str:
    return f"deleted = false AND {condition}"


def _scan(view: View, query: Query, wanted: int, condition: str | None, how: Mapping[str, Any]) -> list[int]:
    """Let Lance find the nearest rows: through the index, and by a scan of unindexed rows."""
    nearest = {"column": "vector", "q": query.arrow, "k": wanted, "metric": query.ranked, **how}
    found = (
        view.dataset.scanner(
            columns=["_distance"],
            with_row_id=True,
            nearest=nearest,
            filter=condition,
            prefilter=True,
            # Looking for unindexed rows doubles the time, even if there are none.
            fast_search=view.whole and how.get("use_index", True),
        )
        .to_pyarrow()
        .read_all()
    )
    row_ids: list[int] = found["_rowid"].to_pylist()
    return row_ids


def _few(dataset: Dataset, condition: str) -> list[int] | None:
    """Return the row ids that match a condition; None if they are more than FEW.

    For a broad condition this stops after a part of the rows, and a narrow one needs only this pass: Lance's own exact
    search with a filter reads the vectors of all rows.
    """
    fitting = dataset.scanner(columns=[], filter=condition, with_row_id=True, limit=FEW + 1)
    found = fitting.to_pyarrow().read_all()
    return found["_rowid"].to_pylist() if found.num_rows <= FEW else None


def _compared(view: View, query: Query, row_ids: Sequence[int]) -> Nearest:
    """Find the nearest of a few rows by comparing all of them."""
    if not row_ids:
        nothing = np.zeros((0, len(query.vector)), np.float32)
        return Nearest(shown=[[] for _ in SHOWN], scores=nothing[:, 0], vectors=nothing)
    rows, taken = view.rows.find(row_ids), None
    vectors = vectors_of(rows) if rows is not None else None
    # Reading by row id takes 0.5 ms, and 0.1 ms for each row's text: few rows are read whole, of many only the best.
    whole = rows is None and len(row_ids) <= WHOLE
    if vectors is None:
        taken = view.dataset.take_rows(list(row_ids), ["vector", *(SHOWN if whole else ())])
        vectors = vectors_in(taken)
    scores = _scores(vectors, query)
    order = np.argsort(-scores, kind="stable")[: query.limit]
    best = order.tolist()
    if rows is not None:
        shown = shown_of([rows[place] for place in best])
    elif taken is not None and whole:
        # Not `RecordBatch.take`, which loads all of pyarrow's compute functions.
        shown = [[column[place] for place in best] for column in _columns(taken)]
    else:
        shown = _columns(view.dataset.take_rows([row_ids[place] for place in best], list(SHOWN)))
    return Nearest(shown=shown, scores=scores[order], vectors=vectors[order])


def _scores(vectors: NDArray[np.float32], query: Query) -> NDArray[np.float32]:
    scores: NDArray[np.float32]
    if query.metric == "l2":
        scores = -np.square(vectors - query.vector).sum(axis=1)
        return scores
    scores = vectors @ query.vector
    if query.metric == "cosine":
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query.vector)
        scores = scores / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scores


def _columns(rows: pa.RecordBatch) -> list[list[str]]:
    return [rows[name].to_pylist() for name in SHOWN]
