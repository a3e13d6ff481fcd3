"""Ingest: rows that come with their vectors become rows of a collection, like those that a source was fetched for.

The ledger knows them as documents of one chunk each, under a source that no fetch touches. Their batch file holds the
vectors too, so that whatever is lost later is written again from there: a vector that came from elsewhere cannot be
computed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from flowbed.errors import Conflict, Rejected, Transient
from flowbed.index.forgotten import read_blocked
from flowbed.lanes.batch_files import batch_key
from flowbed.lanes.claims import CLAIM, release_dead_workers, renewed
from flowbed.lanes.failures import RunStats
from flowbed.lanes.precomputed import finish_precomputed, write_run
from flowbed.lanes.precomputed_batches import (
    CheckedRows,
    check_rows,
    decoded_batch_id,
    deletions_table,
    encode_rows,
    rows_batch_id,
    rows_table,
)
from flowbed.lanes.write_deltas import commit_pending
from flowbed.ledger import BatchRow, Swap
from flowbed.pipeline.comparing.stretches import UNSETTLED
from flowbed.pipeline.ingest_rows import chunk_rows, deletion_rows, document_rows
from flowbed.records import Problem, Status
from flowbed.records.precomputed import Ingested, precomputed_source
from flowbed.telemetry import BATCH_REGISTERED, BATCH_WRITTEN, FETCH_SWAPPED, reached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.lanes.contexts import Context, IndexContext
    from flowbed.ledger import ChunkRow, Overview
    from flowbed.records import Space
    from flowbed.records.precomputed import PrecomputedRows

    # Keeps vectors for texts, as the vector cache does.
    Keep = Callable[[Sequence[str], NDArray[np.float32]], Awaitable[None]]

# Writers of one collection make each other's swaps fail, and one of them succeeds each time; see `BACKOFF`.
TRIES = 64
# Seconds before the next try: doubled each time, and at most this many.
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5


@dataclass(frozen=True, kw_only=True)
class _Difference:
    """What differs from the ledger: the places of rows to write with their versions, and the deletions."""

    writes: Sequence[int]
    versions: Sequence[int]
    deletes: Sequence[tuple[str, int]]
    refused: Sequence[Problem]
    unchanged: int
    unknown: int


async def ingest(
    rows: PrecomputedRows,
    context: IndexContext,
    *,
    collection: str,
    space: Space,
    strict: bool = False,
    commit: bool = True,
    keep: Keep | None = None,
) -> Ingested:
    """Write precomputed rows of `space` into a collection; safe to repeat: rows that are there already are skipped.

    All rows are held in memory. When this returns they are durable, and with `commit` they can be searched; otherwise
    the next commit of the collection merges them. `keep` gets the texts of the rows written, with their vectors.
    A row that cannot be stored, or that belongs to a source of the settings, is refused; with `strict` nothing is
    written then.

    Raises:
        Rejected: the columns differ in length or in dimensions; with `strict`, also if a row is refused.
        Misconfigured: the collection lives in another space.
        Transient: other writers kept changing the collection.
    """
    both = set(rows.ids).intersection(rows.deleted)
    if both:
        raise Rejected(
            f"row {min(both)!r} is to be written and to be deleted at once: do one after the other"
        )
    checked = await asyncio.to_thread(check_rows, rows, space)
    _raise_if(checked[1], strict=strict)
    overview = await begin_ingest(collection, context)
    async with renewed(context):
        claimed = await claim_rows(
            checked,
            context,
            deleted=rows.deleted,
            collection=collection,
            space=space,
            overview=overview,
            strict=strict,
        )
        done = await claimed.write(context, keep)
    if not commit:
        return done
    stats = RunStats()
    await commit_pending(collection, context, stats)
    return replace(done, version=stats.versions.get(collection), refused=(*done.refused, *stats.failures))


@dataclass(frozen=True, kw_only=True, eq=False)
class ClaimedRows:
    """Rows that a batch file and the ledger have, claimed `since` then (µs): their delta is still to be written.

    Without a `table` there is nothing to write.
    """

    live: Live
    done: Ingested
    rows: CheckedRows
    table: pa.Table | None = None
    since: int = 0

    async def write(self, context: IndexContext, keep: Keep | None) -> Ingested:
        """Write the delta, record its run, and let `keep` have the texts of the rows with their vectors."""
        done = self.done
        if self.table is not None:
            run = await write_run(
                self.live, self.table, since=self.since, context=context, worker=context.worker
            )
            done = replace(done, run=run)
        if keep is not None and done.written:
            named = [place for place, text in enumerate(self.rows.texts) if text]
            if named:
                await keep([self.rows.texts[place] for place in named], self.rows.vectors[named])
        return done


async def begin_ingest(collection: str, context: IndexContext) -> Overview:
    """Finish what dead writers have left of a collection, and return the overview of the ledger before."""
    overview = await context.ledger.overview()
    await release_dead_workers(context, overview)
    if overview.unfinished.get((collection, Status.NONE)) or overview.workers:
        await finish_precomputed(context, [collection], RunStats())
    return overview


async def claim_rows(
    rows: tuple[CheckedRows, list[Problem]],
    context: IndexContext,
    *,
    deleted: Sequence[str] = (),
    collection: str,
    space: Space,
    overview: Overview,
    strict: bool = False,
) -> ClaimedRows:
    """Do the first half of `ingest`, with rows that `check_rows` has checked.

    The claims have to be renewed until the second half, `ClaimedRows.write`, is done.
    """
    checked, problems = rows
    live = await context.collections.begin(collection, space, now=context.clock(), datasets=context.datasets)
    claimed = await _claim(checked, deleted, live, context, overview, strict=strict)
    return replace(claimed, done=replace(claimed.done, refused=(*problems, *claimed.done.refused)))


def _raise_if(problems: Sequence[Problem], *, strict: bool) -> None:
    if strict and problems:
        first, more = problems[0], len(problems) - 1
        others = f" (and {more:,} more rows were refused)" if more else ""
        raise Rejected(f"row {first.subject[:200]!r}: {first.reason}{others}; nothing was written")


async def _claim(
    rows: CheckedRows,
    deleted: Sequence[str],
    live: Live,
    context: IndexContext,
    overview: Overview,
    *,
    strict: bool,
) -> ClaimedRows:
    """Make rows durable: a batch file, and the ledger's rows in one conditional step."""
    source, now = precomputed_source(live.collection), context.clock()
    unsettled = any(overview.unfinished.get((live.collection, status)) for status in UNSETTLED)
    for attempt in range(TRIES):
        cursor = await context.ledger.documents.cursor(source)
        found = await _compare(rows, deleted, live.collection, context, now=now, unsettled=unsettled)
        _raise_if(found.refused, strict=strict)
        done = Ingested(
            written=len(found.writes),
            deleted=len(found.deletes),
            unchanged=found.unchanged,
            unknown=found.unknown,
            refused=tuple(found.refused),
        )
        if not found.writes and not found.deletes:
            return ClaimedRows(live=live, done=done, rows=rows)
        chosen = rows.take(found.writes)
        batch, table = await _write_batch(chosen, found.versions, source, live.space, context, now=now)
        since = context.clock()
        claimed = {"status": Status.PENDING, "worker": context.worker, "until": since + CLAIM}
        swap = Swap(
            cursor=cursor,
            value="",
            documents=document_rows(chosen, found.versions, source),
            removed=[key for key, _ in found.deletes],
            chunks=[
                *chunk_rows(chosen, found.versions, batch, live.collection, source, claimed),
                *deletion_rows(found.deletes, live.collection, source, claimed),
            ],
        )
        try:
            await context.ledger.documents.swap(swap)
        except Conflict:
            await asyncio.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt))
            continue
        reached(FETCH_SWAPPED, source=source, chunks=len(swap.chunks))
        if found.deletes:
            ids, versions = zip(*found.deletes, strict=True)
            table = pa.concat_tables([table, deletions_table(ids, versions, live.space)])
        return ClaimedRows(live=live, done=done, rows=rows, table=table, since=since)
    raise Transient(
        f"others kept writing rows of collection {live.collection} at the same time: write these rows again"
    )


async def find_owned(ids: Sequence[str], collection: str, context: Context) -> list[Problem]:
    """Find the rows of a collection that belong to a configured source, which alone may change them."""
    return [
        Problem(
            subject=key,
            reason=f"it belongs to source {owner}, which a run keeps in step: change it there, or use another id",
            document=key,
        )
        # What a source left that is no longer configured may be taken over.
        for key, owner in (await context.ledger.chunks.owners(collection, ids)).items()
        if owner in context.sources
    ]


async def _compare(
    rows: CheckedRows,
    deleted: Sequence[str],
    collection: str,
    context: IndexContext,
    *,
    now: int,
    unsettled: bool,
) -> _Difference:
    """Compare rows with those that the ledger knows; `unsettled` says that some of them may not be in the index."""
    source, ledger = precomputed_source(collection), context.ledger
    subjects = [*rows.ids, *dict.fromkeys(deleted)]
    refused = await find_owned(subjects, collection, context)
    blocked = await read_blocked(context.store)
    refused += [
        Problem(
            subject=key,
            reason="it was forgotten: `flowbed forget --lift ID` lets it return",
            document=key,
        )
        for key in (rows.ids if blocked else ())
        if blocked.document(source, key) or blocked.chunk(collection, key)
    ]
    owners = {each.subject for each in refused}
    digests = await ledger.documents.etags(source, rows.ids) if rows.ids else {}
    changed = [
        place
        for place, (key, digest) in enumerate(zip(rows.ids, rows.digests, strict=True))
        if digests.get(key) != digest
    ]
    asked = [*(rows.ids if unsettled else [rows.ids[place] for place in changed]), *deleted]
    before = {
        row.id: row
        for row in (await ledger.chunks.of(source, asked) if asked else [])
        if row.collection == collection
    }
    if unsettled:
        same = set(changed)
        changed += [
            place
            for place, key in enumerate(rows.ids)
            if place not in same and (row := before.get(key)) is not None and row.status in UNSETTLED
        ]
    writes = [place for place in changed if rows.ids[place] not in owners]
    gone = [
        key
        for key in dict.fromkeys(deleted)
        if (row := before.get(key)) is not None and (not row.deleted or row.status in UNSETTLED)
    ]
    return _Difference(
        writes=writes,
        versions=[_next(before.get(rows.ids[place]), now) for place in writes],
        deletes=[(key, _next(before[key], now)) for key in gone],
        refused=refused,
        unchanged=len(rows.ids) - len(writes) - sum(1 for key in rows.ids if key in owners),
        unknown=sum(1 for key in dict.fromkeys(deleted) if key not in owners) - len(gone),
    )


def _next(row: ChunkRow | None, now: int) -> int:
    return now if row is None else max(row.version + 1, now)


async def _write_batch(
    rows: CheckedRows,
    versions: Sequence[int],
    source: str,
    space: Space,
    context: IndexContext,
    *,
    now: int,
) -> tuple[str, pa.Table]:
    """Write the batch file of rows, with their vectors; safe to repeat. Return its id, and the rows as a table.

    Its name covers everything in it, so one that exists holds these rows, unless another program damaged it.
    """
    table = await asyncio.to_thread(rows_table, rows, versions)
    if not rows.ids:
        return "", table
    name = await asyncio.to_thread(rows_batch_id, source, rows, versions)
    batch = await context.ledger.batches.register(
        BatchRow(
            id=name, source=source, key=batch_key(source, name, at=now), timestamp=now, chunks=len(rows.ids)
        )
    )
    reached(BATCH_REGISTERED, batch=name)
    body = await asyncio.to_thread(encode_rows, table, name, source, space)
    try:
        await context.store.create(batch.key, body)
    except Conflict:
        existing = (await context.store.get(batch.key)).body
        if existing != body and await asyncio.to_thread(decoded_batch_id, source, existing) != name:
            raise Conflict(f"{batch.key} exists and holds other rows; remove it and write again") from None
    reached(BATCH_WRITTEN, batch=name)
    return name, table
