"""Search: the rows of live collections that are nearest to a query, exactly or through the vector index."""

from __future__ import annotations

import heapq
import json
import math
from typing import TYPE_CHECKING, Any, Literal

from flowbed.errors import NotFound, Rejected
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

# Scanning this many vectors takes about as long as probing an index, and misses nothing.
EXACT_ROWS = 20_000
# Of the index's partitions, the share that is probed, and never fewer than so many: recall@10 of 0.99 and more where
# partitions follow the square root of the rows.
PROBED, FEWEST = 0.05, 16
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
    condition = to_sql(where)
    hits: list[Hit] = []
    versions: dict[str, int] = {}
    for live in collections:
        dataset = await datasets.open(live, version=at)
        if dataset is None:
            message = f"collection {live.collection} holds nothing yet; `flowbed run` fills it"
            raise NotFound(message)
        found = await blocking(
            lambda: _search_one(dataset, live, vector, condition, limit, unit, exact),  # noqa: B023 - awaited in this turn
            f"the index of {live.collection}",
        )
        hits += found
        versions[live.collection] = int(dataset.version)
    best = heapq.nsmallest(limit, hits, key=lambda hit: (-hit.score, hit.id))
    return Found(hits=tuple(best), versions=versions)


def _search_one(
    dataset: lance.LanceDataset,
    live: Live,
    vector: NDArray[np.float32],
    condition: str,
    limit: int,
    unit: Unit,
    exact: bool | None,
) -> list[Hit]:
    if unit == "chunk":
        return _nearest(dataset, live, vector, condition, limit, exact)
    rows, wanted = dataset.count_rows(), limit
    while True:  # chunks of one document crowd each other: ask for more until enough documents are seen
        wanted = min(wanted * 4, max(rows, 1))
        hits = _nearest(dataset, live, vector, condition, wanted, exact)
        best: dict[str, Hit] = {}
        for hit in hits:
            best.setdefault(document_of(hit), hit)
        if len(best) >= limit or len(hits) < wanted or wanted >= rows:
            return list(best.values())[:limit]


def document_of(hit: Hit) -> str:
    """Name the document a hit belongs to: source and document where its metadata says so, else its id's stem."""
    if "document" in hit.metadata:
        return f"{hit.metadata.get('source', '')}#{hit.metadata['document']}"
    return hit.id.rpartition("#")[0] or hit.id


def _nearest(
    dataset: lance.LanceDataset,
    live: Live,
    vector: NDArray[np.float32],
    condition: str,
    limit: int,
    exact: bool | None,
) -> list[Hit]:
    condition = "deleted = false" if condition == "true" else f"deleted = false AND {condition}"
    partitions = 0 if exact else _partitions(dataset)
    nearest: dict[str, Any] = {
        "column": "vector",
        "q": vector,
        "k": limit,
        "metric": "cosine",
        "use_index": False,
    }
    if partitions and (exact is False or dataset.count_rows(condition) > max(EXACT_ROWS, limit)):
        probes = min(partitions, max(FEWEST, round(partitions * PROBED)))
        nearest |= {"use_index": True, "minimum_nprobes": probes}
    found = dataset.scanner(
        columns=["id", "document", "metadata", "_distance"],
        nearest=nearest,
        filter=condition,
        prefilter=True,
    ).to_table()
    hits = [
        Hit(
            id=row["id"],
            score=1.0 - row["_distance"],
            document=row["document"],
            metadata=json.loads(row["metadata"]),
            collection=live.collection,
        )
        for row in found.to_pylist()
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def _partitions(dataset: lance.LanceDataset) -> int:
    for description in dataset.describe_indices():
        if description.field_names == ["vector"]:
            # Compaction makes as many partitions as the square root of the rows indexed; see `compaction.partitions`.
            return max(1, round(math.sqrt(description.num_rows_indexed)))
    return 0
