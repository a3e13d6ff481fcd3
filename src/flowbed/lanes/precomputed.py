"""Precomputed rows to deltas: their vectors come from their batch files, and no model is called."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from flowbed.errors import NotFound, Rejected
from flowbed.index.deltas import write_rows_delta
from flowbed.lanes.claims import CLAIM, WAITING, Claims, renewed
from flowbed.lanes.failures import RunStats, fail, failure, reset_documents
from flowbed.lanes.precomputed_batches import decode_rows, deletions_table
from flowbed.lanes.write_deltas import commit_readable
from flowbed.ledger import RunRow
from flowbed.records.precomputed import precomputed_source
from flowbed.telemetry import DELTA_WRITTEN, RUN_RECORDED, reached

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from flowbed.index.active_space import Live
    from flowbed.lanes.contexts import IndexContext
    from flowbed.ledger import BatchRow, ChunkRow
    from flowbed.records import Space

# The lane of a run of precomputed rows.
LANE = "precomputed"


@dataclass
class _Sorted:
    """Claimed chunks of one collection, sorted by what becomes of them, with the rows to write as a table."""

    tables: list[pa.Table] = field(default_factory=list)
    written: list[ChunkRow] = field(default_factory=list)
    deleted: list[ChunkRow] = field(default_factory=list)
    to_embed: list[ChunkRow] = field(default_factory=list)
    lost: list[tuple[ChunkRow, str]] = field(default_factory=list)


async def write_run(live: Live, rows: pa.Table, *, since: int, context: IndexContext, worker: str) -> str:
    """Write the delta of rows whose chunks `worker` has claimed since then (µs), record its run and return its id.

    Raises:
        Conflict: other bytes are under the key of this delta.
    """
    delta = await write_rows_delta(context.store, live.collection, live.space, rows, now=context.clock())
    reached(DELTA_WRITTEN, run=delta.run)
    if context.also_write is not None:
        await context.also_write(live.collection, delta.run, rows)
    await context.ledger.runs.record(
        RunRow(
            id=delta.run,
            collection=live.collection,
            space=live.space.to_json(),
            key=delta.key,
            sha256=delta.sha256,
            rows=delta.rows,
            lane=LANE,
            worker=worker,
            # Not the present time: a process may have been suspended for longer than tombstones are kept.
            created=since,
        ),
        list(zip(rows["id"].to_pylist(), rows["version"].to_pylist(), strict=True)),
        worker=worker,
    )
    reached(RUN_RECORDED, run=delta.run)
    return delta.run


async def finish_precomputed(
    context: IndexContext, collections: Collection[str], stats: RunStats
) -> list[str]:
    """Write and commit the precomputed rows that wait, such as those of a killed process or of a repair.

    A row whose vector is lost fails. Where the collection lives in another space by now, a row with a text is left
    waiting to be embedded, and its source is among those returned; one without a text fails.
    """
    to_embed = []
    for collection in sorted(collections):
        source = precomputed_source(collection)
        if await _finish(context, collection, source, stats):
            to_embed.append(source)
    return to_embed


async def _finish(context: IndexContext, collection: str, source: str, stats: RunStats) -> bool:
    claims = Claims(context=context, sources=(source,), statuses=WAITING, limit=None, only=None)
    left: list[ChunkRow] = []
    async with renewed(context):
        async for group in claims.groups(None):
            done = await _sort(group, context)
            live = await context.collections.get(collection)
            if live is not None and done.tables:
                rows = pa.concat_tables(done.tables)
                since = min(row.until for row in group) - CLAIM
                await write_run(live, rows, since=since, context=context, worker=context.worker)
                await commit_readable(collection, context, stats)
            stats.chunks += len(done.written)
            stats.deleted += len(done.deleted)
            await reset_documents([row for row, _ in done.lost], context.ledger)
            await fail([failure(row, "rejected", why) for row, why in done.lost], context, stats)
            left += done.to_embed
        await context.ledger.chunks.give_back(left, worker=context.worker)
    return bool(left)


async def _sort(group: Sequence[ChunkRow], context: IndexContext) -> _Sorted:
    """Read the rows of claimed chunks from their batch files, at the versions of the claims."""
    done = _Sorted()
    by_batch: dict[str, list[ChunkRow]] = {}
    for row in group:
        if not row.deleted:
            by_batch.setdefault(row.batch, []).append(row)
    known = await context.ledger.batches.get(by_batch)
    for batch, rows in by_batch.items():
        found = await _read(known.get(batch), context)
        if isinstance(found, str):
            done.lost += [
                (row, f"{found}, and its vector came with it: write or import the row again") for row in rows
            ]
            continue
        table, space = found
        # The first rows of a collection whose index was lost make their space live again.
        live = await context.collections.get(rows[0].collection) or await context.collections.begin(
            rows[0].collection, space, now=context.clock(), datasets=context.datasets
        )
        if live.space.fingerprint != space.fingerprint:
            why = (
                f"it came with a vector of space {space.space8} ({space.model}), and has no text to embed for space"
                f" {live.space.space8} ({live.space.model}), in which the collection lives now"
            )
            done.to_embed += [row for row in rows if row.text_hash]
            done.lost += [(row, why) for row in rows if not row.text_hash]
            continue
        _take(table, rows, done)
    gone = [row for row in group if row.deleted]
    done.deleted += gone
    if gone and (target := await context.collections.get(gone[0].collection)) is not None:
        done.tables.append(
            deletions_table([row.id for row in gone], [row.version for row in gone], target.space)
        )
    return done


def _take(table: pa.Table, rows: Sequence[ChunkRow], done: _Sorted) -> None:
    places = {key: place for place, key in enumerate(table["id"].to_pylist())}
    there = [row for row in rows if row.id in places]
    done.lost += [
        (row, "its batch file does not hold its row: write or import it again")
        for row in rows
        if row.id not in places
    ]
    if there:
        chosen = table.take(pa.array([places[row.id] for row in there]))
        place = table.schema.get_field_index("version")
        versions = pa.array(np.fromiter((row.version for row in there), np.int64, len(there)))
        done.tables.append(chosen.set_column(place, table.schema.field(place), versions))
        done.written += there


async def _read(row: BatchRow | None, context: IndexContext) -> tuple[pa.Table, Space] | str:
    """Read a batch file; return why it cannot be read as a text."""
    if row is None:
        return "its batch file is not known to this ledger"
    try:
        body = (await context.store.get(row.key)).body
        return await asyncio.to_thread(decode_rows, body)
    except NotFound:
        return f"its batch file {row.key} is missing"
    except Rejected as error:
        return f"its batch file {row.key} is damaged ({error})"
