"""The vector index of a dataset: how many partitions it has, and how many of them a search probes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import lance
    from lance.lance.indices import IndexSegmentDescription

    from flowbed.index.native import Dataset

NAME = "vector"
# Keys of the dataset's configuration. The number of partitions, which Lance itself only returns with every centroid.
PARTITIONS = "flowbed.partitions"
# The version that built the segment for which they were computed; the segment disappears with the last of its rows.
TRAINED = "flowbed.trained"
# Partitions per square root of the rows: with more, a search compares fewer rows for the same recall, but opening each
# takes 50 µs and building each its share of k-means, which samples 64 rows of each.
CROWD, SAMPLE = 1.0, 64
# Rounds of k-means: 15 improve recall by 0.01 at few probes, and take a third longer.
ROUNDS = 10
# The share of partitions to probe, and the least number: recall@10 of 0.98 among 100,000 vectors of real texts, for
# queries that are not among them. Half as many reach 0.95.
PROBED, FEWEST = 0.2, 20
# With a filter, all: the rows that match may lie anywhere, above all if it selects a topic, as a source or a tenant
# does. A third reached a recall of 0.91 to 0.96 and took as long: most of the time is reading metadata.
FILTERED = 1.0
# Rows to compare for each hit wanted: a long list would otherwise end with the nearest partitions.
ROWS_A_HIT = 8
# RaBitQ with 4 bits a number ranks rows nearly as well as full precision and is read twice as fast: the ten nearest
# are always among its nearest 15. With 2 bits they are among 30, with 1 bit among 100, and reading those costs more
# than it saves. Scalar quantisation is read more slowly. HNSW failed on a corpus with many equal texts: for some
# queries it found none of the ten nearest.
BITS = 4
CODED = 8  # RaBitQ needs dimensions that are a multiple of this
# Distances in the index are approximate, so at least this many more rows than wanted are compared exactly. The nearest
# rows that match a filter may be far from the query, where all distances are nearly equal.
SPARE, SPARE_FILTERED = 5, 50


@dataclass(frozen=True, kw_only=True)
class Partitioned:
    """A vector index: its rows, partitions and segments (the first one, and one for each append)."""

    rows: int
    partitions: int
    segments: int

    @property
    def trained(self) -> int:
        """The number of rows for which the partitions were built."""
        return max(self.partitions, round((self.partitions / CROWD) ** 2))


def partitioned(dataset: lance.LanceDataset | Dataset) -> Partitioned | None:
    """Describe the vector index of a version from what is in memory already; None if there is none."""
    found = [each for each in dataset.describe_indices() if each.field_names == ["vector"]]
    rows = sum(each.num_rows_indexed for each in found)
    if not rows:
        return None
    recorded = dataset.config().get(PARTITIONS, "")
    partitions = int(recorded) if recorded.isdigit() and int(recorded) else partitions_of(rows)
    return Partitioned(rows=rows, partitions=partitions, segments=sum(len(each.segments) for each in found))


def trained_at(dataset: lance.LanceDataset) -> str:
    """Return the version that built the first segment of the vector index; an empty text without an index."""
    return next((str(each.dataset_version_at_last_update) for each in _segments(dataset)), "")


def settled(dataset: lance.LanceDataset) -> int:
    """Count the rows for which the partitions were built and that still exist; later rows are in other segments."""
    if dataset.config().get(TRAINED, trained_at(dataset)) != trained_at(dataset):
        return 0
    held = {fragment for each in _segments(dataset)[:1] for fragment in each.fragment_ids}
    return sum(each.count_rows() for each in dataset.get_fragments() if each.fragment_id in held)


def largest(dataset: lance.LanceDataset) -> float:
    """Return the share of the indexed rows in the largest partition; this reads all centroids."""
    (name,) = (each.name for each in dataset.describe_indices() if each.field_names == ["vector"])
    segments = dataset.stats.index_stats(name)["indices"]
    sizes = np.sum([[part["size"] for part in each["partitions"]] for each in segments], axis=0)
    return float(sizes.max() / max(1, sizes.sum()))


def _segments(dataset: lance.LanceDataset) -> list[IndexSegmentDescription]:
    """List the segments of the vector index in the order in which they were appended."""
    found = [each for each in dataset.describe_indices() if each.field_names == ["vector"]]
    return [segment for each in found for segment in each.segments]


def partitions_of(rows: int) -> int:
    """Choose the number of partitions of an index of `rows`."""
    return max(1, min(round(CROWD * math.sqrt(rows)), rows))


def kind_of(dimensions: int) -> dict[str, Any]:
    """Choose the kind of index for vectors of `dimensions`, as Lance's options."""
    if dimensions % CODED:
        return {"index_type": "IVF_FLAT"}
    return {"index_type": "IVF_RQ", "num_bits": BITS}


def compared(limit: int, *, filtered: bool) -> int:
    """Choose how many indexed rows to compare exactly to find the nearest `limit`."""
    return limit + max(SPARE_FILTERED if filtered else SPARE, limit // 2)


def probes(index: Partitioned, limit: int, *, filtered: bool) -> int:
    """Choose the least number of partitions to probe for `limit` rows."""
    share = FILTERED if filtered else PROBED
    wanted = math.ceil(limit * ROWS_A_HIT * index.partitions / index.rows)
    return min(index.partitions, max(FEWEST, round(index.partitions * share), wanted))
