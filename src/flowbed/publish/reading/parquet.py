"""Reads rows with their vectors from Parquet files, page by page."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.publish.reading import PAGE
from flowbed.records.precomputed import PrecomputedRows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

# The names that exporters of vectors give to the columns.
IDS = ("id", "ids", "_id")
VECTORS = ("vector", "embedding", "embeddings", "values")
TEXTS = ("document", "text", "documents", "content")
METADATA = ("metadata", "metadatas")


@dataclass(frozen=True, kw_only=True)
class ParquetFiles:
    """The rows of Parquet files, in the order given.

    The columns are an id, a vector (a list of numbers), and optionally a text and metadata (JSON, a struct or a map).
    Without a column of metadata, all other columns are the metadata.
    """

    files: Sequence[Path]

    async def count(self) -> int | None:
        """Return how many rows there are.

        Raises:
            Rejected: a file cannot be read.
        """
        return await asyncio.to_thread(lambda: sum(_open(file).metadata.num_rows for file in self.files))

    async def pages(self) -> AsyncIterator[PrecomputedRows]:
        """Iterate over the rows in pages.

        Raises:
            Rejected: a file cannot be read, or has no column of ids or vectors.
        """
        for file in self.files:
            batches = await asyncio.to_thread(_batches, file)
            while (rows := await asyncio.to_thread(_next, batches, file)) is not None:
                yield rows


def _open(file: Path) -> Any:  # pyarrow.parquet has no types
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise Rejected(f"{file} cannot be read as Parquet: {error}") from error


def _batches(file: Path) -> Iterator[pa.RecordBatch]:
    batches: Iterator[pa.RecordBatch] = _open(file).iter_batches(batch_size=PAGE)
    return batches


def _next(batches: Iterator[pa.RecordBatch], file: Path) -> PrecomputedRows | None:
    import pyarrow as pa

    try:
        batch = next(batches, None)
        return None if batch is None else _rows(batch, file)
    except (pa.ArrowInvalid, OSError) as error:
        raise Rejected(f"{file} cannot be read as Parquet: {error}") from error


def _rows(batch: pa.RecordBatch, file: Path) -> PrecomputedRows:
    names = batch.schema.names
    ids, vectors = _column(names, IDS, file), _column(names, VECTORS, file)
    text = next((name for name in TEXTS if name in names), None)
    said = next((name for name in METADATA if name in names), None)
    others = [name for name in names if name not in {ids, vectors, text}]
    if said is None:
        metadata = batch.select(others).to_pylist() if others else [{}] * batch.num_rows
    else:
        metadata = [_metadata(value) for value in batch[said].to_pylist()]
    return PrecomputedRows(
        ids=batch[ids].to_pylist(),
        vectors=_matrix(batch[vectors], file),
        texts=batch[text].to_pylist() if text else (),
        metadata=metadata,
    )


def _column(names: Sequence[str], known: Sequence[str], file: Path) -> str:
    for name in known:
        if name in names:
            return name
    raise Rejected(f"{file} has no column {' or '.join(known)}; it has: {', '.join(names)}")


def _metadata(value: Any) -> Any:  # JSON, a struct, or a map as a list of pairs
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise Rejected(f"its metadata {value[:100]!r} are not JSON: {error}") from error
    if isinstance(value, list):
        return dict(value)
    return value


def _matrix(column: pa.Array, file: Path) -> Any:  # float32 of shape (rows, dimensions)
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise Rejected(f"the vectors of {file} are {kind}; they have to be lists of numbers")
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or lengths[0] is None:
        raise Rejected(f"the vectors of {file} are not all of one length: {sorted(map(str, lengths))[:5]}")
    values = column.flatten()
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise Rejected(f"the vectors of {file} are lists of {values.type}; they have to be lists of numbers")
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return numbers.reshape(len(column), lengths[0])
