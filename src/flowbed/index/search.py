"""Search: the rows of live collections that are nearest to a query, exactly or through the vector index."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import orjson

from flowbed.errors import NotFound, Rejected
from flowbed.index.compaction import partitions_of
from flowbed.index.datasets import blocking
from flowbed.index.filters import to_sql
from flowbed.records import Found, Hit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import lance
    import numpy as np
    from numpy.typing import NDArray

    from flowbed.index.datasets import Datasets
    from flowbed.index.live import Live

Unit = Literal["chunk", "document"]

# Scanning this many vectors takes 5 to 10 ms, about as long as probing an index and reading what it found; and a scan
# misses nothing.
EXACT_ROWS = 5_000
# Of the index's partitions, the share that is probed, and never fewer than so many. Over receipts, whose many equal
# lines crowd into few partitions, 16 probes reach a recall@10 of 0.95, and 48 of 0.997 in the same 4 ms.
PROBED, FEWEST = 0.05, 48
# For each hit asked for, so many rows are looked at: long lists would otherwise end where the nearest partitions do.
ROWS_A_HIT = 8
MOST = 10_000  # hits; more is an export, not a search


@dataclass(frozen=True, kw_only=True)
class _Query:
    """A search of one collection, checked: `condition` is SQL, `exact` None lets the number of rows decide."""

    vector: NDArray[np.float32]
    condition: str
    limit: int
    exact: bool | None


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
) -> Found:
    """Find the `limit` rows nearest to `vector` (float32, of the collections' dimensions), best first.

    `at` asks an older version of one collection. With unit `document` each document counts once, by its best chunk.
    `exact` says to scan every row, or to use the vector index where there is one; None lets the number of rows decide.

    Raises:
        Rejected: the filter or the limit cannot be used.
        NotFound: there is no such version.

    """
    if not 1 <= limit <= MOST:
        message = f"limit is {limit}; ask for 1 to {MOST} hits"
        raise Rejected(message)
    query = _Query(vector=vector, condition=to_sql(where), limit=limit, exact=exact)
    find = _documents if unit == "document" else _chunks
    hits: list[Hit] = []
    versions: dict[str, int] = {}
    for live in collections:
        dataset = await datasets.open(live, version=at)
        if dataset is None:
            if len(collections) > 1:
                continue  # it is just being begun, and the others have answers
            message = f"collection {live.collection} holds nothing yet; `flowbed run` fills it"
            raise NotFound(message)
        found = await blocking(partial(find, dataset, live, query), f"the index of {live.collection}")
        hits += found
        versions[live.collection] = int(dataset.version)
    hits.sort(key=lambda hit: (-hit.score, hit.id))
    if unit == "document":
        hits = _one_each(hits)  # a document may have chunks in several collections
    return Found(hits=tuple(hits[:limit]), versions=versions)


def _documents(dataset: lance.LanceDataset, live: Live, query: _Query) -> list[Hit]:
    """Find the best chunk of each of the nearest documents."""
    rows, wanted = dataset.count_rows(), query.limit
    while True:  # chunks of one document crowd each other: ask for more until enough documents are seen
        wanted = min(wanted * 4, max(rows, 1))
        hits = _chunks(dataset, live, replace(query, limit=wanted))
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
    """Name the document a hit belongs to: source and document where its metadata says so, else its id's stem."""
    if "document" in hit.metadata:
        return f"{hit.metadata.get('source', '')}#{hit.metadata['document']}"
    return hit.id.rpartition("#")[0] or hit.id


def _chunks(dataset: lance.LanceDataset, live: Live, query: _Query) -> list[Hit]:
    """Find the nearest chunks, best first."""
    # Tombstones have no vector, so that no search can meet them; without a filter there is nothing to look up for each
    # row, which takes longer than the search itself.
    condition = None if query.condition == "true" else f"deleted = false AND {query.condition}"
    nearest: dict[str, Any] = {"column": "vector", "q": query.vector, "k": query.limit, "metric": "cosine"}
    indexed = 0 if query.exact else _indexed(dataset)
    few = max(EXACT_ROWS, query.limit)
    if indexed and (query.exact is False or dataset.count_rows(condition) > few):
        partitions = partitions_of(indexed)
        wanted = math.ceil(query.limit * ROWS_A_HIT * partitions / indexed)
        nearest["minimum_nprobes"] = min(partitions, max(FEWEST, round(partitions * PROBED), wanted))
    else:
        nearest["use_index"] = False
    found = dataset.scanner(
        columns=["id", "document", "metadata", "_distance"], nearest=nearest, filter=condition, prefilter=True
    ).to_table()
    hits = [
        Hit(
            id=row["id"],
            # Rounding can lead a hair outside what a cosine can be.
            score=min(1.0, max(-1.0, 1.0 - row["_distance"])),
            document=row["document"],
            metadata=orjson.loads(row["metadata"]),
            collection=live.collection,
        )
        for row in found.to_pylist()
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def _indexed(dataset: lance.LanceDataset) -> int:
    """Count the rows that the vector index holds; 0 where there is none."""
    return sum(each.num_rows_indexed for each in dataset.describe_indices() if each.field_names == ["vector"])
