"""A delta: the immutable result of one run for one collection, as an Arrow IPC file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowbed.errors import Conflict, NotFound, Rejected
from flowbed.index.schema import METADATA, schema
from flowbed.records import Space, canonical, run_id
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from flowbed.ledger import RunRow
    from flowbed.records import Scalar
    from flowbed.storage import Store

PRODUCER = "flowbed"


@dataclass(frozen=True, kw_only=True)
class Upsert:
    """One row to insert or replace; `vector` is float32 of the space's dimensions."""

    id: str
    version: int
    document: str
    metadata: Mapping[str, Scalar]
    text_hash: str
    vector: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Delete:
    """One row to delete."""

    id: str
    version: int


@dataclass(frozen=True, kw_only=True)
class Delta:
    """A delta in the store: its run, its key, and the sha256 of its bytes."""

    run: str
    key: str
    sha256: str
    rows: int


async def write_delta(
    store: Store,
    collection: str,
    space: Space,
    upserts: Sequence[Upsert],
    deletes: Sequence[Delete],
    *,
    now: int,
) -> Delta:
    """Write the delta of these rows under its run's key, or adopt an existing one with the same rows.

    Raises:
        Conflict: the key holds other rows.
    """
    rows = [(row.id, row.version, False, row.text_hash) for row in upserts]
    rows += [(row.id, row.version, True, "") for row in deletes]
    run = run_id(collection, space, rows)
    return await _create(store, collection, space, table(run, space, upserts, deletes), run, now=now)


async def write_rows_delta(store: Store, collection: str, space: Space, rows: pa.Table, *, now: int) -> Delta:
    """Write the delta of the rows of a table, whose `run_id` does not count; otherwise like `write_delta`.

    Raises:
        Conflict: the key holds other rows.
    """
    run = run_id(collection, space, row_set(rows))
    place = rows.schema.get_field_index("run_id")
    stamped = rows.set_column(place, rows.schema.field(place), pa.array([run] * rows.num_rows, pa.string()))
    return await _create(store, collection, space, stamped, run, now=now)


async def _create(
    store: Store, collection: str, space: Space, rows: pa.Table, run: str, *, now: int
) -> Delta:
    key = f"{collection}/delta/{run}/delta.arrow"
    body = encode(rows, run, space, now=now)
    try:
        await store.create(key, body)
    except Conflict:
        body = (await store.get(key)).body
        try:
            existing = decode(body, run=run, space=space, rows=rows.num_rows)
        except Rejected as error:
            raise Conflict(
                f"{key} exists and is not the delta of this run ({error}); remove it and run again"
            ) from error
        if run_id(collection, space, row_set(existing)) != run:
            raise Conflict(
                f"{key} exists and holds other rows than this run; remove it and run again"
            ) from None
    return Delta(run=run, key=key, sha256=hashlib.sha256(body).hexdigest(), rows=rows.num_rows)


async def read_delta(store: Store, run: RunRow) -> pa.Table:
    """Read and verify the delta of a recorded run.

    Raises:
        Rejected: it is missing, truncated, malformed, of another space, or has other bytes than the run recorded.
    """
    try:
        body = (await store.get(run.key)).body
    except NotFound as error:
        raise Rejected(f"the delta {run.key} is missing") from error
    digest = hashlib.sha256(body).hexdigest()
    if digest != run.sha256:
        raise Rejected(f"the delta {run.key} has sha256 {digest[:12]}..., recorded was {run.sha256[:12]}...")
    return decode(body, run=run.id, space=Space.from_json(run.space), rows=run.rows)


def table(run: str, space: Space, upserts: Sequence[Upsert], deletes: Sequence[Delete]) -> pa.Table:
    """Build a table of the delta's schema, upserts first."""
    count, gone = len(upserts), len(deletes)
    values = np.zeros((count + gone, space.dimensions), np.float32)
    if upserts:
        np.stack([row.vector for row in upserts], out=values[:count])
    absent = np.arange(count + gone) >= count
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(values.ravel()), space.dimensions, mask=pa.array(absent)
    )
    metadata = [canonical(dict(row.metadata)).decode() for row in upserts]
    nothing = [None] * gone
    columns = [
        pa.array([*(row.id for row in upserts), *(row.id for row in deletes)], pa.string()),
        pa.array([*(row.version for row in upserts), *(row.version for row in deletes)], pa.int64()),
        pa.array(absent, pa.bool_()),
        vectors,
        pa.array([row.document for row in upserts] + nothing, pa.string()),
        pa.ExtensionArray.from_storage(METADATA, pa.array(metadata + nothing, pa.utf8())),
        pa.array([row.text_hash for row in upserts] + nothing, pa.string()),
        pa.array([run] * (count + gone), pa.string()),
    ]
    return pa.table(columns, schema=schema(space.dimensions))


def encode(rows: pa.Table, run: str, space: Space, *, now: int) -> bytes:
    """Serialize a delta with its run, space, producer, time (µs) and number of rows."""
    stamp = {
        "run_id": run,
        "space": space.to_json(),
        "fingerprint": space.fingerprint,
        "producer": PRODUCER,
        "created_at": str(now),
        "rows": str(rows.num_rows),
    }
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema.with_metadata(stamp)) as writer:
        writer.write_table(rows.replace_schema_metadata(stamp))
    body: bytes = sink.getvalue().to_pybytes()
    return body


def decode(body: bytes, *, run: str, space: Space, rows: int) -> pa.Table:
    """Parse a delta and verify that it matches its run.

    Raises:
        Rejected: it does not; the message names the first difference.
    """
    try:
        with pa.ipc.open_file(pa.BufferReader(body)) as reader:
            found = reader.read_all()
        found.validate(full=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise Rejected(f"it is truncated or not an Arrow file: {error}") from error
    stamp = {key.decode(): value.decode() for key, value in (found.schema.metadata or {}).items()}
    if stamp.get("fingerprint") != space.fingerprint:
        raise Rejected(
            f"it is of space {stamp.get('fingerprint', 'unknown')[:8]}, its run is of {space.space8}"
        )
    if stamp.get("run_id") != run:
        raise Rejected(f"it is of run {stamp.get('run_id', 'unknown')[:12]}, not of {run[:12]}")
    expected = schema(space.dimensions)
    if not found.schema.remove_metadata().equals(expected.remove_metadata()):
        raise Rejected(f"its columns {found.schema.names} do not have the types of a delta of {space.space8}")
    if found.num_rows != rows:
        raise Rejected(f"it has {count(found.num_rows, 'row')}, but its run {rows}")
    if pc.count_distinct(found["id"]).as_py() != rows:
        raise Rejected("it has a duplicate id")
    _check_vectors(found)
    return found.replace_schema_metadata(None).cast(expected)


def peek(body: bytes) -> list[tuple[str, int]]:
    """List the (id, version) of every row of a delta of any run.

    Raises:
        Rejected: it is not a delta.
    """
    try:
        with pa.ipc.open_file(pa.BufferReader(body)) as reader:
            found = reader.read_all()
        return list(zip(found["id"].to_pylist(), found["version"].to_pylist(), strict=True))
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise Rejected(f"it is truncated or not a delta: {error}") from error


def _check_vectors(found: pa.Table) -> None:
    deleted = found["deleted"]
    if not pc.all(pc.equal(pc.is_null(found["vector"]), deleted)).as_py():
        raise Rejected("a row has a vector and is deleted, or has none and is not")
    alive = found.filter(pc.invert(deleted)) if pc.any(deleted).as_py() else found
    values = alive["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if not np.isfinite(values).all():
        raise Rejected("a vector has a value that is not a number")


def row_set(rows: pa.Table) -> list[tuple[str, int, bool, str]]:
    """List what a run's id is computed from: (id, version, deleted, text_hash) of every row."""
    names = ("id", "version", "deleted", "text_hash")
    columns = [rows[name].to_pylist() for name in names]
    return [(key, version, gone, text or "") for key, version, gone, text in zip(*columns, strict=True)]


def newest(tables: Sequence[pa.Table]) -> pa.Table:
    """Keep the last row of each id by (version, run_id), as merging the tables in any order does."""
    rows = pa.concat_tables(tables)
    order = rows.select(["id", "version", "run_id"]).append_column("at", pa.array(np.arange(rows.num_rows)))
    order = order.sort_by([("id", "ascending"), ("version", "descending"), ("run_id", "descending")])
    ids = order["id"].combine_chunks()
    if not len(ids):
        return rows
    first = np.ones(len(ids), bool)
    first[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    if first.all():
        return rows  # unchanged: `take` would copy every vector
    return rows.take(order["at"].filter(pa.array(first)))
