"""Audit: compares the rows of an index with the ledger's chunks, in bounded memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pyarrow.compute as pc

from flowbed.index.datasets import UnfitIndex, blocking
from flowbed.index.sorted_keys import positions
from flowbed.index.vector_lookup import usable
from flowbed.records import Status, canonical

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    import lance
    import pyarrow as pa
    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.ledger import ChunkMark

    Mask = NDArray[np.bool_]

# Kinds of faults of a row, or of a missing row.
MISSING = "missing"
STALE = "stale"
AHEAD = "ahead"
ALTERED = "altered"
VECTOR = "vector"
GONE = "gone"
DOUBLED = "doubled"
UNKNOWN = "unknown"
ILL_FORMED = "ill-formed"

# Their meanings, to follow "N rows" or "N chunks".
MEANINGS = {
    MISSING: "missing from the index",
    STALE: "with an outdated text",
    AHEAD: "with a later version than the ledger assigned",
    ALTERED: "with other text or metadata than was indexed",
    VECTOR: "with an unusable vector",
    GONE: "of deleted chunks",
    DOUBLED: "with a duplicate id",
    UNKNOWN: "unknown to the ledger",
    ILL_FORMED: "with an invalid id",
}

# The ids of receipts, and of every other source: source, document, ordinal. A document may have any name.
ID = (
    r"(?s)^(?:IMAGE#.+#RECEIPT#\d{5,}#LINE#\d{5,}(?:#WORD#\d{5,})?"
    r"|[a-z0-9][a-z0-9_-]{0,62}#.+#\d{5,})$"
)

# Rows compared at a time: 13 MB of vectors at 384 dimensions.
ROWS = 8_192
# Bytes that Lance may read ahead; by default it takes 2 GB, as much as a million rows.
READ_AHEAD = 64 * 2**20

MUST, MAY, MUST_NOT = 0, 1, 2


class Expected:
    """The rows that the ledger expects in a collection, at 34 bytes per chunk.

    A chunk that is SUCCESS must be in the index at its version, or must not be if it is deleted. Any other chunk may
    have an older row, which stays searchable until the new one is committed. Ids are compared by their 64-bit hash: a
    collision among a million ids has a probability of one in thirty million, and would be reported as a fault.
    """

    def __init__(self) -> None:
        """Start without chunks."""
        self._pages: list[
            tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint8]]
        ] = []
        self.keys = np.empty(0, np.int64)
        self.versions = np.empty(0, np.int64)
        self.hashes = np.empty(0, np.uint64)
        self.kinds = np.empty(0, np.uint8)
        self.rows = np.empty(0, np.uint32)
        self.present = np.empty(0, np.bool_)

    def add(self, marks: Sequence[ChunkMark]) -> None:
        """Add a page of chunks."""
        count = len(marks)
        self._pages.append(
            (
                np.fromiter((hash(mark.id) for mark in marks), np.int64, count),
                np.fromiter((mark.version for mark in marks), np.int64, count),
                np.fromiter((_first8(mark.row_hash) for mark in marks), np.uint64, count),
                np.fromiter((kind_of(mark) for mark in marks), np.uint8, count),
            )
        )

    def sort(self) -> None:
        """Sort the added chunks; call it once, before `find`."""
        if self._pages:
            self.keys, self.versions, self.hashes, self.kinds = (
                np.concatenate(column) for column in zip(*self._pages, strict=True)
            )
            self._pages.clear()
        order = np.argsort(self.keys, kind="stable")
        self.keys, self.versions = self.keys[order], self.versions[order]
        self.hashes, self.kinds = self.hashes[order], self.kinds[order]
        self.rows = np.zeros(len(self.keys), np.uint32)
        self.present = np.zeros(len(self.keys), np.bool_)

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the position of each id, -1 for unknown ones."""
        return positions(self.keys, np.fromiter(map(hash, ids), np.int64, len(ids)))

    def missing(self, marks: Sequence[ChunkMark]) -> list[str]:
        """Return the ids of a page that must be in the index but were seen in no row."""
        ids = [mark.id for mark in marks if kind_of(mark) == MUST]
        places = self.find(ids)
        return [ids[at] for at in np.flatnonzero((places < 0) | ~self.present[places])]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The comparison of some rows: how many, how many of them are live, and the faulty ids by kind."""

    rows: int
    live: int
    faults: Mapping[str, list[str]]


def kind_of(mark: ChunkMark) -> int:
    """Return what is expected of a chunk's row."""
    if mark.status is not Status.SUCCESS:
        return MAY
    return MUST_NOT if mark.deleted else MUST


async def open_newest(live: Live | None, *, datasets: Datasets) -> lance.LanceDataset | None:
    """Open the newest version of an index; None if it does not exist yet.

    Raises:
        UnfitIndex: it cannot be committed to.
    """
    dataset = None if live is None else await datasets.open(live)
    if live is not None and dataset is not None:
        dimensions = dimensions_of(dataset)
        if dimensions != live.space.dimensions:
            raise UnfitIndex(
                f"{live.key} has vectors of {dimensions} dimensions, but its space has {live.space.dimensions}"
            )
    return dataset


def dimensions_of(dataset: lance.LanceDataset) -> int:
    """Return the dimensions of a dataset's vectors; 0 if they have no fixed length."""
    place = dataset.schema.get_field_index("vector")
    return getattr(dataset.schema.field(place).type, "list_size", 0) if place >= 0 else 0


async def compare(dataset: lance.LanceDataset, live: Live, expected: Expected) -> AsyncIterator[Compared]:
    """Compare every row of a dataset with the expected ones, batch by batch; `expected` records which rows it has seen.

    Raises:
        Transient: the dataset cannot be read.
    """
    batches: Iterator[pa.RecordBatch] = iter(
        await blocking(
            lambda: dataset.to_batches(
                columns=["id", "version", "deleted", "vector", "document", "metadata", "text_hash"],
                batch_size=ROWS,
                batch_readahead=2,
                fragment_readahead=1,
                io_buffer_size=READ_AHEAD,
            ),
            f"the index of {live.collection}",
        )
    )
    step = partial(_next, batches, live, expected)
    while (some := await blocking(step, f"the index of {live.collection}")) is not None:
        yield some


def _next(batches: Iterator[pa.RecordBatch], live: Live, expected: Expected) -> Compared | None:
    batch = next(batches, None)
    return None if batch is None else _compare(batch, live, expected)


def _compare(batch: pa.RecordBatch, live: Live, expected: Expected) -> Compared:
    ids = batch["id"].to_pylist()
    alive = ~batch["deleted"].to_numpy(zero_copy_only=False).astype(np.bool_)
    versions = batch["version"].to_numpy()
    places = expected.find(ids)
    known = places >= 0
    np.add.at(expected.rows, places[known], 1)
    expected.present[places[known & alive]] = True
    kinds, latest = np.full(len(ids), MAY, np.uint8), np.zeros(len(ids), np.int64)
    kinds[known], latest[known] = expected.kinds[places[known]], expected.versions[places[known]]
    doubled = np.zeros(len(ids), np.bool_)
    doubled[known] = expected.rows[places[known]] > 1
    must = alive & known & (kinds == MUST)
    masks = {
        UNKNOWN: alive & ~known,
        GONE: alive & known & (kinds == MUST_NOT),
        STALE: must & (versions < latest),
        AHEAD: alive & known & (kinds != MUST_NOT) & (versions > latest),
        DOUBLED: doubled,
        VECTOR: _useless(batch["vector"], live, alive),
        # Precomputed rows have any ids; the ledger knows theirs.
        ILL_FORMED: alive
        & ~known
        & ~pc.match_substring_regex(batch["id"], ID).to_numpy(zero_copy_only=False),
        ALTERED: _altered(batch, must & (versions == latest), places, expected),
    }
    faults = {name: [ids[at] for at in np.flatnonzero(mask)] for name, mask in masks.items() if mask.any()}
    return Compared(rows=len(ids), live=int(alive.sum()), faults=faults)


def _useless(vectors: pa.FixedSizeListArray, live: Live, alive: Mask) -> Mask:
    """Mark the live rows whose vector is missing, not finite, or not of length 1 in a normalized space."""
    there = vectors.is_valid().to_numpy(zero_copy_only=False)
    values = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, live.space.dimensions)
    good = usable(values, live.space)
    whole = np.zeros(len(vectors), np.bool_)
    whole[there] = good
    return alive & ~whole


def _altered(batch: pa.RecordBatch, asked: Mask, places: NDArray[np.int64], expected: Expected) -> Mask:
    """Mark the rows, among those `asked`, whose row_hash is not their chunk's."""
    altered = np.zeros(len(asked), np.bool_)
    chosen = np.flatnonzero(asked)
    whole = len(chosen) == len(asked)
    rows = batch if whole else batch.take(chosen)
    columns = (rows["text_hash"], rows["document"], rows["metadata"].storage)
    for at, place, text_hash, document, metadata in zip(
        chosen, places[chosen], *(column.to_pylist() for column in columns), strict=True
    ):
        if _row_hash(text_hash, document, metadata) != expected.hashes[place]:
            altered[at] = True
    return altered


def _row_hash(text_hash: str | None, document: str | None, metadata: str | None) -> int:
    """Return the first 8 bytes of a row's `Chunk.row_hash`, computed from the columns of the index."""
    if text_hash is None or document is None or metadata is None:
        return -1
    # Lance returns metadata in the canonical form in which it was written; parsing it would take twice as long.
    said = canonical([text_hash, document, orjson.Fragment(metadata)])
    return int.from_bytes(hashlib.sha256(said).digest()[:8])


def _first8(row_hash: str) -> int:
    try:
        return int(row_hash[:16] or "0", 16)
    except ValueError:  # damaged in the ledger: no row has it
        return 0
