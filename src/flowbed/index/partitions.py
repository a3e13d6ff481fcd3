"""The vector index of a dataset: how many partitions it is given, and how many of them a search looks into."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import lance

NAME = "vector"
# Where the dataset's own configuration says how many partitions were made: Lance tells only by reading every centroid.
PARTITIONS = "flowbed.partitions"
# Partitions for each square root of the rows: more find the same with fewer rows looked at, but each takes 50 µs to
# open, and its share of k-means, which looks at so many rows of each.
CROWD, SAMPLE = 1.0, 64
# Rounds of k-means: 15 find a hundredth more at few probes, and take a third longer.
ROUNDS = 10
# Of the partitions the share that is probed, and never fewer than so many: recall@10 of 0.98 among 100,000 vectors made
# from real texts, asked for texts that are not among them. Half as many find 0.95.
PROBED, FEWEST = 0.2, 20
# Under a filter the rows looked for lie further apart, while the filter itself takes longer than the probes.
FILTERED = 1 / 3
# For each hit asked for, so many rows are looked at: long lists would otherwise end where the nearest partitions do.
ROWS_A_HIT = 8
# RaBitQ with so many bits a number tells rows apart nearly as whole numbers do, and is read twice as fast: of the ten
# nearest none was missing among the nearest 15. With two bits 30 are needed, with one bit 100, and reading those again
# costs more than was saved; scalar quantisation is read more slowly. HNSW found the rows of a corpus with many equal
# texts badly: for some queries none of the ten nearest.
BITS = 4
CODED = 8  # RaBitQ takes vectors of a multiple of so many numbers
# Distances in the index are approximate: so many more rows than asked for are compared exactly, at least.
SPARE = 5


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


def partitioned(dataset: lance.LanceDataset) -> Partitioned | None:
    """Describe the vector index of a version, None where there is none; from what is in memory already."""
    found = [each for each in dataset.describe_indices() if each.field_names == ["vector"]]
    rows = sum(each.num_rows_indexed for each in found)
    if not rows:
        return None
    said = dataset.config().get(PARTITIONS, "")
    partitions = int(said) if said.isdigit() and int(said) else partitions_of(rows)
    return Partitioned(rows=rows, partitions=partitions, segments=sum(len(each.segments) for each in found))


def partitions_of(rows: int) -> int:
    """Decide on how many partitions an index of `rows` has."""
    return max(1, min(round(CROWD * math.sqrt(rows)), rows))


def kind_of(dimensions: int) -> dict[str, Any]:
    """Decide on the kind of index for vectors of `dimensions` numbers, as Lance is told it."""
    if dimensions % CODED:
        return {"index_type": "IVF_FLAT"}
    return {"index_type": "IVF_RQ", "num_bits": BITS}


def compared(limit: int) -> int:
    """Decide how many rows of the index are compared exactly to find the nearest `limit`."""
    return limit + max(SPARE, limit // 2)


def probes(index: Partitioned, limit: int, *, filtered: bool) -> int:
    """Decide how many partitions a search for `limit` rows looks into at least."""
    share = FILTERED if filtered else PROBED
    wanted = math.ceil(limit * ROWS_A_HIT * index.partitions / index.rows)
    return min(index.partitions, max(FEWEST, round(index.partitions * share), wanted))
