"""Search: finds the rows of live collections nearest to a query, exactly or through the vector index."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson
import pyarrow as pa

from flowbed.errors import NotFound, Rejected
from flowbed.index.partitions import compared, probes
from flowbed.index.search.filters import to_sql
from flowbed.index.search.row_cache import SHOWN, RowCache, View, new_view, shown_of, vectors_in, vectors_of
from flowbed.records import Hit, SearchResults

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.index.native import Dataset

Unit = Literal["chunk", "document"]

# Scanning this many vectors takes 5 to 10 ms, about as long as probing an index and reading its candidates, and a scan
# misses nothing.
EXACT_ROWS = 5_000
# Up to this many rows that match a filter are compared one by one; reading their scattered vectors takes 20 ms.
FEW = 2_000
# Of up to this many rows, the texts are read together with the vectors.
WHOLE = 24
MOST = 10_000  # hits; more is an export, not a search


@dataclass(frozen=True, kw_only=True)
class _Query:
    """A checked search of one collection: `condition` is SQL; with `exact` None, the number of rows decides."""

    vector: NDArray[np.float32]
    condition: str
    limit: int
    exact: bool | None

    @cached_property
    def arrow(self) -> pa.FloatArray:
        """The vector as an Arrow array; Lance converts a NumPy array to double precision and back."""
        # `pa.array` loads masked arrays, which takes longer than most searches.
        whole = np.ascontiguousarray(self.vector)
        return pa.FloatArray.from_buffers(pa.float32(), len(whole), [None, pa.py_buffer(whole)])


async def search(
    vector: NDArray[np.float32],
    collections: Sequence[Live],
    *,
    datasets: Datasets,
    where: Mapping[str, Any] | None = None,
    limit: int = 10,
    at: int | None = None,
    unit: Unit = "chunk",
    exact: bool | None = None,
    cache: RowCache | None = None,
) -> SearchResults:
    """Find the `limit` rows nearest to `vector` (float32, of the collections' dimensions), best first.

    `at` searches an older version of one collection. With unit `document` each document counts once, by its best
    chunk. `exact` scans every row (True) or uses the vector index if there is one (False); None lets the number of
    rows decide. `cache` holds rows of newest versions between the searches of this process.

    Raises:
        Rejected: the vector, the filter or the limit is invalid.
        NotFound: there is no such version.
    """
    if not 1 <= limit <= MOST:
        raise Rejected(f"limit is {limit}; ask for 1 to {MOST} hits")
    query = _Query(vector=_direction(vector), condition=to_sql(where), limit=limit, exact=exact)
    find = partial(_found, query=query, cache=cache if at is None else None, unit=unit)
    hits: list[Hit] = []
    versions: dict[str, int] = {}
    for live in collections:
        # All of it runs on one version and in one thread: each switch of threads costs a tenth of a millisecond.
        answer = await datasets.reading(live, partial(find, live=live), version=at)
        if answer is None:
            if len(collections) > 1:
                continue  # its dataset is being created; the others have rows
            raise NotFound(f"collection {live.collection} is empty; fill it with `flowbed run`")
        found, versions[live.collection] = answer
        hits += found
    hits.sort(key=lambda hit: (-hit.score, hit.id))
    if unit == "document":
        hits = _one_each(hits)  # a document may have chunks in several collections
    return SearchResults(hits=tuple(hits[:limit]), versions=versions)


def _direction(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalize a vector, in double precision: squares of very long or short ones overflow single precision."""
    precise = vector.astype(np.float64)
    length = np.linalg.norm(precise)
    if not length:
        raise Rejected("the query vector is all zeros, which has no direction")
    unit: NDArray[np.float32] = (precise / length).astype(np.float32)
    return unit


def _found(dataset: Dataset, live: Live, query: _Query, cache: RowCache | None, unit: Unit) -> list[Hit]:
    """Search one version, and keep what it read for the next search."""
    if cache is None:
        return _hits_of(new_view(dataset), live, query, unit)
    view = cache.view(live, dataset)
    hits = _hits_of(view, live, query, unit)
    cache.fill(view)
    return hits


def _hits_of(view: View, live: Live, query: _Query, unit: Unit) -> list[Hit]:
    return (_documents if unit == "document" else _chunks)(view, live, query)


def _documents(view: View, live: Live, query: _Query) -> list[Hit]:
    """Find the best chunk of each of the nearest documents."""
    rows, wanted = view.dataset.count_rows(), query.limit
    while True:  # many chunks of one document may come first: ask for more until enough documents are found
        wanted = min(wanted * 4, max(rows, 1))
        hits = _chunks(view, live, replace(query, limit=wanted))
        best = _one_each(hits)
        if len(best) >= query.limit or len(hits) < wanted or wanted >= rows:
            return best[: query.limit]


def _one_each(hits: Sequence[Hit]) -> list[Hit]:
    """Keep the first hit of each document."""
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(document_of(hit), hit)
    return list(best.values())


def document_of(hit: Hit) -> str:
    """Return the document of a hit: source and document from its metadata, otherwise its id without the ordinal."""
    if "document" in hit.metadata:
        return f"{hit.metadata.get('source', '')}#{hit.metadata['document']}"
    return hit.id.rpartition("#")[0] or hit.id


def _chunks(view: View, live: Live, query: _Query) -> list[Hit]:
    """Find the nearest chunks, best first."""
    return _nearest(view, live, query, _candidates(view, query))


def _candidates(view: View, query: _Query) -> list[int]:
    """Return the row ids of candidates, which include the nearest rows."""
    index = None if query.exact else view.index
    if query.condition == "true":
        # Tombstones have no vector, so no search returns them and they need no filter.
        if index is None or (query.exact is None and index.rows <= EXACT_ROWS):
            return _scan(view, query, query.limit, None, {"use_index": False})
        nprobes, wanted = probes(index, query.limit, filtered=False), compared(query.limit, filtered=False)
        found = _scan(view, query, wanted, None, {"nprobes": nprobes})
        if len(found) >= query.limit or nprobes == index.partitions:
            return found
        # Probe more partitions until there are enough.
        return _scan(view, query, wanted, None, {"minimum_nprobes": nprobes})
    condition = f"deleted = false AND {query.condition}"
    if query.exact is not False and (few := _few(view.dataset, condition)) is not None:
        return few
    if index is None:
        return _scan(view, query, query.limit, condition, {"use_index": False})
    nprobes = probes(index, query.limit, filtered=True)
    return _scan(view, query, compared(query.limit, filtered=True), condition, {"minimum_nprobes": nprobes})


def _scan(view: View, query: _Query, wanted: int, condition: str | None, how: Mapping[str, Any]) -> list[int]:
    """Let Lance find the nearest rows: through the index, and by a scan of unindexed rows."""
    nearest = {"column": "vector", "q": query.arrow, "k": wanted, "metric": "cosine", **how}
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


def _nearest(view: View, live: Live, query: _Query, row_ids: Sequence[int]) -> list[Hit]:
    """Find the nearest of a few rows by comparing all of them."""
    if not row_ids:
        return []
    rows, taken = view.rows.find(row_ids), None
    vectors = vectors_of(rows) if rows is not None else None
    # Reading by row id takes 0.5 ms, and 0.1 ms for each row's text: few rows are read whole, of many only the best.
    whole = rows is None and len(row_ids) <= WHOLE
    if vectors is None:
        taken = view.dataset.take_rows(list(row_ids), ["vector", *(SHOWN if whole else ())])
        vectors = vectors_in(taken)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query.vector)
    scores = (vectors @ query.vector) / np.maximum(lengths, np.finfo(np.float32).tiny)
    best = np.argsort(-scores, kind="stable")[: query.limit].tolist()
    if rows is not None:
        shown = shown_of([rows[place] for place in best])
    elif taken is not None and whole:
        # Not `RecordBatch.take`, which loads all of pyarrow's compute functions.
        shown = [[column[place] for place in best] for column in _columns(taken)]
    else:
        shown = _columns(view.dataset.take_rows([row_ids[place] for place in best], list(SHOWN)))
    return _hits(shown, scores[best], live)


def _columns(rows: pa.RecordBatch) -> list[list[str]]:
    return [rows[name].to_pylist() for name in SHOWN]


def _hits(shown: Sequence[Sequence[str]], scores: NDArray[np.float32], live: Live) -> list[Hit]:
    bounded = np.clip(scores, -1.0, 1.0).tolist()  # rounding can exceed the range of a cosine
    hits = [
        Hit(
            id=id_,
            score=score,
            document=document,
            metadata=orjson.loads(metadata),
            collection=live.collection,
        )
        for id_, document, metadata, score in zip(*shown, bounded, strict=True)
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))
