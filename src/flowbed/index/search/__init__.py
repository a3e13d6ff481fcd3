"""Search: finds the rows of live collections nearest to a query, exactly or through the vector index."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from flowbed.errors import Damaged, NotFound, Rejected
from flowbed.index.datasets import FileMissing
from flowbed.index.search.filters import to_sql
from flowbed.index.search.nearest import Nearest, Query, find_nearest
from flowbed.index.search.row_cache import RowCache, View, new_view
from flowbed.records import Hit, SearchResults

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.index.native import Dataset

Unit = Literal["chunk", "document"]

MOST = 10_000  # hits; more is an export, not a search


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

    Of several collections, those that cannot be read are left out, and a warning says why.

    Raises:
        Rejected: the vector, the filter or the limit is invalid.
        NotFound: there is no such version.
        Damaged, Transient: no collection can be read.
    """
    if not 1 <= limit <= MOST:
        raise Rejected(f"limit is {limit}; ask for 1 to {MOST} hits")
    query = Query(vector=_direction(vector), condition=to_sql(where), limit=limit, exact=exact)
    find = partial(_found, query=query, cache=cache if at is None else None, unit=unit)
    hits, versions, unreadable = await _search_each(collections, find, datasets, at)
    hits.sort(key=lambda hit: (-hit.score, hit.id))
    if unit == "document":
        hits = _one_each(hits)  # a document may have chunks in several collections
    warnings = tuple(map(not_searched, unreadable))
    if hits or not where:
        return SearchResults(hits=tuple(hits[:limit]), versions=versions, warnings=warnings)
    from flowbed.index.search.unknown_keys import unknown_keys  # few searches find nothing

    read = [live for live in collections if live.collection in versions]
    warnings += await unknown_keys(where, read, datasets=datasets, at=at)
    return SearchResults(hits=(), versions=versions, warnings=warnings)


async def _search_each(
    collections: Sequence[Live], find: Callable[..., list[Hit]], datasets: Datasets, at: int | None
) -> tuple[list[Hit], dict[str, int], list[str]]:
    """Return the hits and versions of the collections that can be read, and the names of the others.

    Raises:
        Damaged, Transient: none can be read.
    """
    hits: list[Hit] = []
    versions: dict[str, int] = {}
    unreadable: list[str] = []
    for live in collections:
        # All of it runs on one version and in one thread: each switch of threads costs a tenth of a millisecond.
        try:
            answer = await datasets.reading(live, partial(find, live=live), version=at)
        except (Damaged, FileMissing):
            unreadable.append(live.collection)
            if len(unreadable) == len(collections):
                raise
            continue
        if answer is None:
            if len(collections) > 1:
                continue  # its dataset is being created; the others have rows
            raise NotFound(f"collection {live.collection} is empty; fill it with `flowbed run`")
        found, versions[live.collection] = answer
        hits += found
    return hits, versions, unreadable


def not_searched(collection: str) -> str:
    """Say that a collection was left out; the reason, which may name paths, is the operator's."""
    return (
        f"{collection} was not searched, because its index cannot be read; `flowbed doctor` says what to do"
    )


def _direction(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalize a vector, in double precision: squares of very long or short ones overflow single precision."""
    precise = vector.astype(np.float64)
    length = np.linalg.norm(precise)
    if not length:
        raise Rejected("the query vector is all zeros, which has no direction")
    unit: NDArray[np.float32] = (precise / length).astype(np.float32)
    return unit


def _found(dataset: Dataset, live: Live, query: Query, cache: RowCache | None, unit: Unit) -> list[Hit]:
    """Search one version, and keep what it read for the next search."""
    if cache is None:
        return _hits_of(new_view(dataset), live, query, unit)
    view = cache.view(live, dataset)
    hits = _hits_of(view, live, query, unit)
    cache.fill(view)
    return hits


def _hits_of(view: View, live: Live, query: Query, unit: Unit) -> list[Hit]:
    return (_documents if unit == "document" else _chunks)(view, live, query)


def _documents(view: View, live: Live, query: Query) -> list[Hit]:
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


def _chunks(view: View, live: Live, query: Query) -> list[Hit]:
    """Find the nearest chunks, best first."""
    (found,) = find_nearest(view, [query])
    return _hits(found, live)


def _hits(found: Nearest, live: Live) -> list[Hit]:
    bounded = np.clip(found.scores, -1.0, 1.0).tolist()  # rounding can exceed the range of a cosine
    hits = [
        Hit(
            id=id_,
            score=score,
            document=document,
            metadata=orjson.loads(metadata),
            collection=live.collection,
        )
        for id_, document, metadata, score in zip(*found.shown, bounded, strict=True)
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))
