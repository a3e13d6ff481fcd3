"""Precomputed rows as Arrow tables: checked, stored as batch files with their vectors, and made into deltas."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa

from flowbed.errors import Rejected
from flowbed.index.schema import METADATA, schema
from flowbed.ledger.text import require_storable
from flowbed.records import Problem, Space, batch_id, canonical, text_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowbed.records.precomputed import PrecomputedRows

# A vector whose length is nearer to 1 than this is stored as it came: providers round normalized vectors, and dividing
# them again and again would change their last digits each time.
LENGTH_TOLERANCE = 1e-4
INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedRows:
    """Rows that can be stored, column by column; `metadata` is canonical JSON, and a row without text has "".

    `digests` are 32 hex digits over everything of a row, its vector included.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    metadata: Sequence[bytes]
    text_hashes: Sequence[str]
    row_hashes: Sequence[str]
    digests: Sequence[str]
    vectors: NDArray[np.float32]

    def take(self, places: Sequence[int]) -> CheckedRows:
        """Return the rows at these places."""
        if len(places) == len(self.ids):
            return self
        columns = {
            name: [column[place] for place in places]
            for name, column in vars(self).items()
            if name != "vectors"
        }
        return replace(self, **columns, vectors=self.vectors[list(places)])


def check_rows(rows: PrecomputedRows, space: Space) -> tuple[CheckedRows, list[Problem]]:
    """Check rows against a space; return those that can be stored, and why the others cannot.

    The vectors of a normalized space are brought to length 1.

    Raises:
        Rejected: the columns differ in length, or the vectors have other dimensions than the space.
    """
    count = len(rows.ids)
    vectors = _matrix(rows, space)
    texts = rows.texts or [None] * count
    metadata = rows.metadata or [None] * count
    if not len(vectors) == len(texts) == len(metadata) == count:
        raise Rejected(
            f"{count} ids came with {len(vectors)} vectors, {len(texts)} texts and {len(metadata)} metadata: each row"
            " needs one of each"
        )
    vectors, faults = _usable(vectors, space)
    last = {key: place for place, key in enumerate(rows.ids)} if count else {}
    sound = _are_sound(rows.ids, texts)
    problems: list[Problem] = []
    places: list[int] = []
    kept_texts: list[str] = []
    kept_metadata: list[bytes] = []
    for key, place in last.items():
        try:
            reason = ("" if sound else _check_id(key) or _check_text(texts[place])) or faults.get(place)
            encoded = b"" if reason else _encode_metadata(metadata[place])
        except Rejected as error:
            reason = str(error)
        if reason:
            problems.append(Problem(subject=str(key), reason=reason, document=str(key)))
            continue
        places.append(place)
        kept_texts.append(texts[place] or "")
        kept_metadata.append(encoded)
    kept = vectors if len(places) == count else vectors[places]
    return _hashed([rows.ids[place] for place in places], kept_texts, kept_metadata, kept), problems


def _matrix(rows: PrecomputedRows, space: Space) -> NDArray[np.float32]:
    if not len(rows.ids):
        return np.empty((0, space.dimensions), np.float32)
    try:
        vectors = np.ascontiguousarray(rows.vectors, np.float32)
    except (TypeError, ValueError) as error:
        raise Rejected(
            f"the vectors are not {len(rows.ids)} lists of numbers of one length: {error}"
        ) from error
    if vectors.ndim != 2 or vectors.shape[1] != space.dimensions:  # noqa: PLR2004 - rows and dimensions
        found = vectors.shape[1] if vectors.ndim == 2 else 0  # noqa: PLR2004
        raise Rejected(
            f"the vectors have {found} dimensions, but space {space.space8} ({space.model}) has {space.dimensions}"
        )
    return vectors


def _usable(vectors: NDArray[np.float32], space: Space) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Normalize vectors where the space is normalized; say which ones cannot be used."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    faults = {
        int(place): "its vector has a value that is not a finite number"
        for place in np.flatnonzero(~np.isfinite(lengths))
    }
    faults |= {
        int(place): "its vector has only zeros, so it has no direction to compare"
        for place in np.flatnonzero(lengths == 0)
    }
    if space.normalized:
        off = np.isfinite(lengths) & (lengths > 0) & (np.abs(lengths - 1) > LENGTH_TOLERANCE)
        if off.any():
            vectors = vectors.copy()
            vectors[off] = (vectors[off] / lengths[off, None]).astype(np.float32)
    return vectors, faults


def _are_sound(ids: Sequence[object], texts: Sequence[object]) -> bool:
    """Return whether all ids and texts can be stored: looking at all at once takes a tenth of the time."""
    try:
        require_storable(ids)  # type: ignore[arg-type]  # what is no text raises
        "".join([text for text in texts if text is not None]).encode()  # type: ignore[misc]
    except (Rejected, TypeError, UnicodeEncodeError):
        return False
    return all(ids)


def _check_id(key: object) -> str:
    if not isinstance(key, str) or not key:
        return "its id is not a text of at least one character"
    require_storable([key])
    return ""


def _check_text(text: object) -> str:
    if text is None:
        return ""
    if not isinstance(text, str):
        return f"its text is a {type(text).__name__}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "its text holds half of a character, so it is not valid Unicode"
    return ""


def _encode_metadata(metadata: Mapping[Any, object] | None) -> bytes:
    """Return metadata as canonical JSON, without keys whose value is None.

    Raises:
        Rejected: a key or a value cannot be stored; the message names it.
    """
    if not metadata:
        return b"{}"
    if not isinstance(metadata, Mapping):
        raise Rejected(
            f"its metadata are {str(metadata)[:100]!r}: they have to be an object with names and values"
        )
    kept = {}
    for key, value in metadata.items():
        if value is None:
            continue
        if not isinstance(key, str) or not _is_scalar(value):
            raise Rejected(
                f"its metadata {str(key)[:100]!r} is {str(value)[:100]!r}: values have to be texts, booleans, finite"
                " numbers, or whole numbers of 64 bits"
            )
        kept[key] = value
    try:
        return canonical(kept)
    except UnicodeEncodeError as error:
        raise Rejected("its metadata hold half of a character, so they are not valid Unicode") from error


def _is_scalar(value: object) -> bool:
    kind = type(value)
    if kind is float:
        return math.isfinite(value)  # type: ignore[arg-type]  # a float
    return kind is str or kind is bool or (kind is int and value in INT64)


def _hashed(
    ids: Sequence[str], texts: Sequence[str], metadata: Sequence[bytes], vectors: NDArray[np.float32]
) -> CheckedRows:
    hashes = [text_hash(text) if text else "" for text in texts]
    row_hashes, digests = [], []
    for place, (digest, text, encoded) in enumerate(zip(hashes, texts, metadata, strict=True)):
        # Equal to `records.row_hash` of the same values.
        whole = hashlib.sha256(canonical([digest, text, orjson.Fragment(encoded)]))
        row_hashes.append(whole.hexdigest()[:32])
        whole.update(vectors[place].data)
        digests.append(whole.hexdigest()[:32])
    return CheckedRows(
        ids=ids,
        texts=texts,
        metadata=metadata,
        text_hashes=hashes,
        row_hashes=row_hashes,
        digests=digests,
        vectors=vectors,
    )


def rows_batch_id(source: str, rows: CheckedRows, versions: Sequence[int]) -> str:
    """Derive the id of a batch file from its source and everything of its rows: equal ids mean equal rows."""
    return batch_id(source, list(zip(rows.ids, rows.digests, versions, strict=True)))


def rows_table(rows: CheckedRows, versions: Sequence[int]) -> pa.Table:
    """Build a table of the index's schema; its rows are in no run yet."""
    count, dimensions = rows.vectors.shape
    columns = [
        pa.array(rows.ids, pa.string()),
        pa.array(versions, pa.int64()),
        pa.array(np.zeros(count, np.bool_)),
        pa.FixedSizeListArray.from_arrays(pa.array(rows.vectors.ravel()), dimensions),
        pa.array(rows.texts, pa.string()),
        pa.ExtensionArray.from_storage(
            METADATA, pa.array([each.decode() for each in rows.metadata], pa.utf8())
        ),
        pa.array(rows.text_hashes, pa.string()),
        pa.array([""] * count, pa.string()),
    ]
    return pa.table(columns, schema=schema(dimensions))


def deletions_table(ids: Sequence[str], versions: Sequence[int], space: Space) -> pa.Table:
    """Build a table of the index's schema that deletes rows."""
    count, wanted = len(ids), schema(space.dimensions)
    columns = [
        pa.array(ids, pa.string()),
        pa.array(versions, pa.int64()),
        pa.array(np.ones(count, np.bool_)),
        *(
            pa.nulls(count, wanted.field(name).type)
            for name in ("vector", "document", "metadata", "text_hash")
        ),
        pa.array([""] * count, pa.string()),
    ]
    return pa.table(columns, schema=wanted)


def encode_rows(table: pa.Table, batch: str, source: str, space: Space) -> bytes:
    """Serialize the batch file of precomputed rows: an Arrow file, since it holds their vectors."""
    stamp = {"batch_id": batch, "source": source, "space": space.to_json(), "fingerprint": space.fingerprint}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema.with_metadata(stamp)) as writer:
        writer.write_table(table.replace_schema_metadata(stamp))
    body: bytes = sink.getvalue().to_pybytes()
    return body


def decode_rows(body: bytes) -> tuple[pa.Table, Space]:
    """Parse the batch file of precomputed rows.

    Raises:
        Rejected: it is truncated, or not such a file.
    """
    try:
        with pa.ipc.open_file(pa.BufferReader(body)) as reader:
            found = reader.read_all()
        found.validate(full=True)
        space = Space.from_json(found.schema.metadata[b"space"].decode())
        wanted = schema(space.dimensions)
        if not found.schema.remove_metadata().equals(wanted.remove_metadata()):
            raise Rejected(f"its columns {found.schema.names} are not those of rows of {space.space8}")
        return found.replace_schema_metadata(None).cast(wanted), space
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise Rejected(f"it is truncated or not an Arrow file of rows: {error}") from error


def decoded_batch_id(source: str, body: bytes) -> str:
    """Derive the id of a batch file from its contents.

    Raises:
        Rejected: it is truncated, or not such a file.
    """
    table, space = decode_rows(body)
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, space.dimensions)
    metadata = [each.encode() for each in table["metadata"].combine_chunks().storage.to_pylist()]
    rows = _hashed(table["id"].to_pylist(), table["document"].to_pylist(), metadata, vectors)
    return rows_batch_id(source, rows, table["version"].to_pylist())


def texts_of(body: bytes) -> dict[str, tuple[str, dict[str, object]]]:
    """Return the text and the metadata of each row of a batch file, by id.

    Raises:
        Rejected: it is truncated, or not such a file.
    """
    table, _ = decode_rows(body)
    metadata = map(orjson.loads, table["metadata"].combine_chunks().storage.to_pylist())
    columns = zip(table["id"].to_pylist(), table["document"].to_pylist(), metadata, strict=True)
    return {key: (text, values) for key, text, values in columns}
