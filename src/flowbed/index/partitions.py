"""The vector index of a dataset: how many partitions it is given, and how many of them a search looks into."""

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
# Where the dataset's own configuration says how many partitions were made: Lance tells only by reading every centroid.
PARTITIONS = "flowbed.partitions"
# And from which version the segment was made that they were made for: a segment is gone with the last of its rows.
TRAINED = "flowbed.trained"
# Partitions for each square root of the rows: more find the same with fewer rows looked at, but each takes 50 µs to
# open, and its share of k-means, which looks at so many rows of each.
CROWD, SAMPLE = 1.0, 64
# Rounds of k-means: 15 find a hundredth more at few probes, and take a third longer.
ROUNDS = 10
# Of the partitions the share that is probed, and never fewer than so many: recall@10 of 0.98 among 100,000 vectors made
# from real texts, asked for texts that are not among them. Half as many find 0.95.
PROBED, FEWEST = 0.2, 20
# Under a filter all of them: what it leaves may lie anywhere, above all where it goes by what the texts are about, as
# a source or a tenant does. A third found 0.91 to 0.96 of such rows, and took as long: most is reading metadata.
FILTERED = 1.0
# For each hit asked for, so many rows are looked at: long lists would otherwise end where the nearest partitions do.
ROWS_A_HIT = 8
# RaBitQ with so many bits a number tells rows apart nearly as whole numbers do, and is read twice as fast: of the ten
# nearest none was missing among the nearest 15. With two bits 30 are needed, with one bit 100, and reading those again
# costs more than was saved; scalar quantisation is read more slowly. HNSW found the rows of a corpus with many equal
# texts badly: for some queries none of the ten nearest.
BITS = 4
CODED = 8  # RaBitQ takes vectors of a multiple of so many numbers
# Distances in the index are approximate: so many more rows than asked for are compared exactly, at least. The nearest
# that a filter leaves may be far from the query, where all distances are nearly the same.
SPARE, SPARE_FILTERED = 5, 50


@dataclass(frozen=True, kw_only=True)
class Partitioned:
    """A vector index as it stands: rows in it, partitions, and segments: the one trained, and one for each append."""

    rows: int
    partitions: int
    segments: int

    @property
    def trained(self) -> int:
        """How many rows the partitions were made for."""
        return max(self.partitions, round((self.partitions / CROWD) ** 2))


def partitioned(dataset: lance.LanceDataset | Dataset) -> Partitioned | None:
    """Describe the vector index of a version, None where there is none; from what is in memory already."""
    found = [each for each in dataset.describe_indices() if each.field_names == ["vector"]]
    rows = sum(each.num_rows_indexed for each in found)
    if not rows:
        return None
    said = dataset.config().get(PARTITIONS, "")
    partitions = int(said) if said.isdigit() and int(said) else partitions_of(rows)
    return Partitioned(rows=rows, partitions=partitions, segments=sum(len(each.segments) for each in found))


def trained_at(dataset: lance.LanceDataset) -> str:
    """Tell from which version the first segment of the vector index was made; nothing where there is none."""
    return next((str(each.dataset_version_at_last_update) for each in _segments(dataset)), "")


def settled(dataset: lance.LanceDataset) -> int:
    """Count the rows that the partitions were made for and that are still there; later ones are in other segments."""
    if dataset.config().get(TRAINED, trained_at(dataset)) != trained_at(dataset):
        return 0
    held = {fragment for each in _segments(dataset)[:1] for fragment in each.fragment_ids}
    return sum(each.count_rows() for each in dataset.get_fragments() if each.fragment_id in held)


def largest(dataset: lance.LanceDataset) -> float:
    """Tell which share of the rows of the vector index its largest partition holds; this reads all centroids."""
    (name,) = (each.name for each in dataset.describe_indices() if each.field_names == ["vector"])
    segments = dataset.stats.index_stats(name)["indices"]
    sizes = np.sum([[part["size"] for part in each["partitions"]] for each in segments], axis=0)
    return float(sizes.max() / max(1, sizes.sum()))


def _segments(dataset: lance.LanceDataset) -> list[IndexSegmentDescription]:
    """List the segments of the vector index, the one trained first: appended ones go to the end."""
    found = [each for each in dataset.describe_indices() if each.field_names == ["vector"]]
    return [segment for each in found for segment in each.segments]


def partitions_of(rows: int) -> int:
    """Decide on how many partitions an index of `rows` has."""
    return max(1, min(round(CROWD * math.sqrt(rows)), rows))


def kind_of(dimensions: int) -> dict[str, Any]:
    """Decide on the kind of index for vectors of `dimensions` numbers, as Lance is told it."""
    if dimensions % CODED:
        return {"index_type": "IVF_FLAT"}
    return {"index_type": "IVF_RQ", "num_bits": BITS}


def compared(limit: int, *, filtered: bool) -> int:
    """Decide how many rows of the index are compared exactly to find the nearest `limit`."""
    return limit + max(SPARE_FILTERED if filtered else SPARE, limit // 2)


def probes(index: Partitioned, limit: int, *, filtered: bool) -> int:
    """Decide how many partitions a search for `limit` rows looks into at least."""
    share = FILTERED if filtered else PROBED
    wanted = math.ceil(limit * ROWS_A_HIT * index.partitions / index.rows)
    return min(index.partitions, max(FEWEST, round(index.partitions * share), wanted))
