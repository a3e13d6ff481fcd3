"""The rows that both sides index, read from files that were made for a benchmark."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SOURCES = ("receipts", "abstracts", "issues", "chat")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows with their vectors."""

    ids: Sequence[str]
    vectors: NDArray[np.float32]
    documents: Sequence[str]
    metadata: Sequence[dict[str, Any]]


class RowFiles:
    """The rows in a folder, and their queries."""

    def __init__(self, folder: str) -> None:
        """Read everything except the vectors, which are read when needed.

        They are not memory-mapped: the pages around each row would count as memory of the process.
        """
        place = Path(folder)
        mapped = np.load(place / "vectors.npy", mmap_mode="r")
        self._begin, self._width = mapped.offset, mapped.shape[1]
        self._vectors = (place / "vectors.npy").open("rb")
        self.queries: NDArray[np.float32] = np.load(place / "queries.npy")
        self.query_texts: list[str] = json.loads((place / "queries.json").read_text("utf-8"))
        self._texts: list[str] = json.loads((place / "texts.json").read_text("utf-8"))
        self._base = np.load(place / "base.npy")
        self._buckets = np.load(place / "buckets.npy")
        self._topics = np.load(place / "topics.npy")

    def batch(self, rows: Sequence[int] | NDArray[np.int64], *, edition: int = 0) -> Batch:
        """Return rows; another edition of a row has another document and a slightly different vector."""
        vectors = self._read(rows)
        if edition:
            noise = np.random.default_rng(edition).standard_normal(vectors.shape, np.float32)
            vectors += 0.05 * noise / np.sqrt(vectors.shape[1])
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        suffix = f" (edition {edition})" if edition else ""
        return Batch(
            ids=[row_id(int(row)) for row in rows],
            vectors=vectors,
            documents=[self._texts[self._base[row]] + suffix for row in rows],
            metadata=[
                {
                    "source": SOURCES[int(row) % len(SOURCES)],
                    "document": f"document {int(row) // 10}",
                    "bucket": int(self._buckets[row]),
                    "topic": int(self._topics[row]),
                    "time": 1_600_000_000 + int(row) * 60,
                }
                for row in rows
            ],
        )

    def _read(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        size = self._width * np.dtype(np.float32).itemsize
        file = self._vectors.fileno()
        read = bytearray().join(os.pread(file, size, self._begin + int(row) * size) for row in rows)
        return np.frombuffer(read, np.float32).reshape(-1, self._width)


def row_id(row: int) -> str:
    """Return the id of a row."""
    return f"rows#{row // 10:07d}#{row % 10:05d}"


def row_of(key: str) -> int:
    """Return the row of an id."""
    _, document, ordinal = key.split("#")
    return int(document) * 10 + int(ordinal)
