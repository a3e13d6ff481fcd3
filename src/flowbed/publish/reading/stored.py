"""Reads the rows of a Chroma directory from its files: chromadb makes a Python object of every number of a vector.

What is not of the form that chromadb writes today is left to chromadb: `stored_rows` returns None then. It is only
used on a directory that chromadb has opened, after a sample was compared with what chromadb answers (`child`). The
graph of a collection with cosine distances has its vectors at length 1: it is read where only their direction counts.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import sqlite3
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.publish.reading.archives import DATABASE
from flowbed.publish.reading.database import HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    # Vectors by id, in the order of the ids.
    Ask = Callable[[list[str]], NDArray[np.float32]]

# What is raised by files of another form.
UNKNOWN = (
    sqlite3.Error,
    struct.error,
    pickle.UnpicklingError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)
DOCUMENT = "chroma:document"  # the key under which chromadb keeps a row's text
# The segments of a collection, and the newest operation that each holds.
_SEGMENTS = """
SELECT segments.scope, segments.id, max_seq_id.seq_id FROM segments
LEFT JOIN max_seq_id ON max_seq_id.segment_id = segments.id WHERE segments.collection = ?
"""
# The topic of the log ends with the id of its collection.
_LOGGED = "SELECT DISTINCT id FROM embeddings_queue WHERE seq_id > ? AND topic LIKE '%' || ?"
_LISTS = "SELECT count(*) FROM embedding_metadata_array"
# In chromadb's own order, as are the rows of their metadata.
_IDS = "SELECT id, embedding_id FROM embeddings WHERE segment_id = ? AND id > ? ORDER BY id LIMIT ?"
_METADATA = """
SELECT id, key, coalesce(string_value, int_value, float_value), bool_value FROM embedding_metadata
WHERE id BETWEEN ? AND ?
"""


@dataclass(frozen=True, kw_only=True)
class StoredPage:
    """Some rows, column by column; `metadata` is JSON, and `vectors` float32 of shape (rows, dimensions)."""

    ids: list[str]
    documents: list[str | None]
    metadata: list[str]
    vectors: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """The rows of one collection: its database, and the places of its vectors in the file of the graph.

    `ask` gets from chromadb the vectors of rows that have changed since the graph was written.
    """

    database: sqlite3.Connection
    segment: str
    elements: NDArray[np.uint8]  # of shape (elements, bytes)
    vector: slice  # where an element has its vector
    places: Mapping[str, int]
    ask: Ask

    def pages(self, size: int) -> Iterator[StoredPage]:
        """Iterate over the rows in pages of `size`."""
        last = -1
        while found := self.database.execute(_IDS, (self.segment, last, size)).fetchall():
            numbers, ids = zip(*found, strict=True)
            last = numbers[-1]
            documents, metadata = self._metadata(numbers)
            vectors = self._vectors(ids)
            yield StoredPage(ids=list(ids), documents=documents, metadata=metadata, vectors=vectors)

    def sample(self, count: int) -> tuple[list[str], NDArray[np.float32]]:
        """Return up to `count` ids with their vectors in the graph, evenly spread."""
        ids = list(self.places)[:: max(1, math.ceil(len(self.places) / count))]
        return ids, self._vectors(ids)

    def _vectors(self, ids: Sequence[str]) -> NDArray[np.float32]:
        places = [self.places.get(each, 0) for each in ids]
        vectors = np.ascontiguousarray(self.elements[places, self.vector]).view(np.float32)
        logged = [place for place, each in enumerate(ids) if each not in self.places]
        if logged:
            vectors[logged] = self.ask([ids[place] for place in logged])
        return vectors

    def _metadata(self, numbers: Sequence[int]) -> tuple[list[str | None], list[str]]:
        held: dict[int, dict[str, Any]] = {each: {} for each in numbers}
        found = self.database.execute(_METADATA, (numbers[0], numbers[-1]))
        for number, key, value, boolean in found:
            row = held.get(number)
            if row is None:
                continue  # of another collection
            if value is None and boolean is not None:
                row[key] = bool(boolean)
            else:
                row[key] = value
        documents = [row.pop(DOCUMENT, None) for row in held.values()]
        return documents, [json.dumps(row or None) for row in held.values()]


class _Plain(pickle.Unpickler):
    """Reads numbers, texts, lists and dicts, and nothing that would run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")


def stored_rows(folder: Path, collection: str, ask: Ask) -> StoredRows | None:
    """Open the rows of a collection, by Chroma's id of it; None where chromadb has to read them."""
    try:
        database = sqlite3.connect(f"{(folder / DATABASE).as_uri()}?mode=ro", uri=True)
        database.execute("PRAGMA trusted_schema = OFF")
        segments = {
            scope: (name, newest) for scope, name, newest in database.execute(_SEGMENTS, (collection,))
        }
        (vectors, newest), (metadata, _) = segments["VECTOR"], segments["METADATA"]
        # Lists are in a table of their own.
        if newest is None or database.execute(_LISTS).fetchone() != (0,):
            return None
        logged = {name for (name,) in database.execute(_LOGGED, (newest, collection))}
        return _opened(folder / vectors, metadata, database, logged, ask)
    except UNKNOWN:
        return None


def _opened(
    graph: Path, metadata: str, database: sqlite3.Connection, logged: Collection[str], ask: Ask
) -> StoredRows | None:
    fields = HEADER.unpack((graph / "header.bin").read_bytes())
    _, start, _, count, size, label, vector = fields[:7]
    data = np.memmap(graph / "data_level0.bin", np.uint8, "r")
    known = 0 < vector < label and label + 8 == size and (label - vector) % 4 == 0
    if start or not known or not 0 < count * size <= len(data):
        return None
    elements = data[: count * size].reshape(count, size)
    labels = np.ascontiguousarray(elements[:, label:]).view(np.uint64).ravel()
    of: dict[str, int] = _Plain(io.BytesIO((graph / "index_metadata.pickle").read_bytes())).load()[
        "id_to_label"
    ]
    order = np.argsort(labels)
    wanted = np.fromiter(of.values(), np.uint64, len(of))
    found = np.searchsorted(labels, wanted, sorter=order)
    if len(found) and (found.max() >= count or (labels[order[found]] != wanted).any()):
        return None
    places = dict(zip(of, order[found].tolist(), strict=True))
    for each in logged:
        places.pop(each, None)
    return StoredRows(
        database=database,
        segment=metadata,
        elements=elements,
        vector=slice(vector, label),
        places=places,
        ask=ask,
    )
