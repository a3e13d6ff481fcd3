"""Reads rows with their vectors from Parquet files, page by page."""

from __future__ import annotations

import asyncio
import contextlib
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
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        OverflowError,
    ) as error:  # the last two of times beyond Python's
        raise Rejected(f"{file} cannot be read as Parquet: {error}") from error


def _rows(batch: pa.RecordBatch, file: Path) -> PrecomputedRows:
    names = batch.schema.names
    ids, vectors = _column(names, IDS, file), _column(names, VECTORS, file)
    text = next((name for name in TEXTS if name in names), None)
    said = next((name for name in METADATA if name in names), None)
    others = [name for name in names if name not in {ids, vectors, text}]
    if said is None:
        metadata = _named(batch.select(others)) if others else [{}] * batch.num_rows
    else:
        metadata = [_metadata(value) for value in batch[said].to_pylist()]
    return PrecomputedRows(
        ids=_ids(batch[ids]),
        vectors=_matrix(batch[vectors], file),
        texts=batch[text].to_pylist() if text else (),
        metadata=metadata,
    )


def _column(names: Sequence[str], known: Sequence[str], file: Path) -> str:
    for name in known:
        if name in names:
            return name
    raise Rejected(f"{file} has no column {' or '.join(known)}; it has: {', '.join(names)}")


def _ids(column: pa.Array) -> list[Any]:
    import pyarrow as pa

    ids: list[Any] = (column.cast(pa.string()) if pa.types.is_integer(column.type) else column).to_pylist()
    return ids


def _named(batch: pa.RecordBatch) -> list[Any]:
    """Return the columns as metadata; dates and times are texts, with nanoseconds, which Python's do not have."""
    import pyarrow as pa

    def plain(column: pa.Array) -> pa.Array:
        kind = column.type
        dated = pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind)
        return column.cast(pa.string()) if dated else column

    rows: list[Any] = pa.RecordBatch.from_arrays(
        [plain(column) for column in batch.columns], names=batch.schema.names
    ).to_pylist()
    return rows


def _metadata(value: Any) -> Any:  # JSON, a struct, or a map as a list of pairs
    """Return the metadata of a row; what cannot be metadata as it is, for which its row alone is refused."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "null")
        except ValueError:
            return value
    if isinstance(value, list):
        with contextlib.suppress(TypeError, ValueError):
            return dict(value)
    return value


def _matrix(column: pa.Array, file: Path) -> Any:  # float32 of shape (rows, dimensions)
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise Rejected(f"the vectors of {file} are {kind}; they have to be lists of numbers")
    lengths = pc.unique(pc.list_value_length(column.drop_null())).to_pylist()
    if not lengths:  # no row has one, and each is refused alone
        return np.empty((len(column), 0), np.float32)
    if len(lengths) > 1:
        raise Rejected(f"the vectors of {file} are not all of one length: {sorted(lengths)[:5]}")
    values = column.flatten()
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise Rejected(f"the vectors of {file} are lists of {values.type}; they have to be lists of numbers")
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    if not column.null_count:
        return numbers.reshape(len(column), *lengths)
    # Without a vector a row alone is refused.
    rows = np.full((len(column), *lengths), np.nan, np.float32)
    rows[column.is_valid().to_numpy(zero_copy_only=False)] = numbers.reshape(-1, *lengths)
    return rows
