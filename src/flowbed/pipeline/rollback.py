"""Restore a collection to an older version, and record in the ledger which runs that undid.

The index alone is authoritative: its history is a line of versions, and a restore is one of them. Versions between the
target of a restore and the restore are undone; versions after it count. The ledger follows this history, so a rollback
may be interrupted anywhere: the next process finds the restore there and records it.

    a commit merged before the restore and marked before it is recorded    its run is reverted
    ... and marked only afterwards                                         the mark is void: it is merged again
    a commit begun before the restore that would merge after it            Lance refuses it, and it starts over
    a commit merged after the restore                                      counts
    a document fetched before it and partly merged after it                is read again, and written whole
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowbed.errors import Conflict, NotFound
from flowbed.index.datasets import UNREADABLE
from flowbed.index.lease import held
from flowbed.index.versions import newest_version
from flowbed.index.versions.history import restore, restored_since, rollback_tag, runs_in, tag, untag
from flowbed.lanes.failures import RunStats
from flowbed.ledger import Rollback, Swap
from flowbed.pipeline.changes import RELEASING
from flowbed.records import Status
from flowbed.telemetry import ROLLBACK_RECORDED, ROLLBACK_RESTORED, ROLLBACK_TAGGED, reached

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.index.active_space import Live
    from flowbed.lanes.contexts import Context, IndexContext
    from flowbed.ledger import ChunkRow, Cursor, DocumentRow, Ledger
    from flowbed.records import Problem

MANY = 1_000  # pending runs, or documents, read at a time


@dataclass(frozen=True, kw_only=True)
class Released:
    """What a release restored: the number of reverted runs, and the version that holds them again, None without any.

    `refused` deltas could not be merged any more; `again` counts the runs that were too old to be merged: their chunks
    wait for the next run.
    """

    collection: str
    runs: int
    version: int | None
    again: int = 0
    refused: tuple[Problem, ...] = ()


async def roll_back(context: IndexContext, live: Live, target: int) -> Rollback:
    """Restore a collection to the contents of version `target`, as a new version; safe to repeat.

    Runs committed since are reverted, and their chunks become REVERTED: no run merges or embeds them until they are
    released, or their documents change.

    Raises:
        NotFound: there is no such version (any more).
    """
    collection = live.collection
    await context.datasets.open(live, version=target)  # raises NotFound where there is none
    async with held(
        context.store,
        collection,
        owner=context.worker,
        dead=context.dead,
        monotonic=context.monotonic,
        times=context.lease,
        wait=True,
    ):
        await catch_up(context, live)
        newest = (await context.datasets.kept(live))[-1]
        for done in await context.ledger.rollbacks.of(collection):
            if (done.target, done.version) == (target, newest):
                return done  # repeated, or interrupted at the very end
        if target == newest:
            return Rollback(collection=collection, target=target, version=newest, at=context.clock())
        await tag(live, rollback_tag(target), target, datasets=context.datasets)
        reached(ROLLBACK_TAGGED, collection=collection, target=target)
        await _mark_merged(context, live, newest)
        version = await restore(live, target, datasets=context.datasets)
        reached(ROLLBACK_RESTORED, collection=collection, target=target, version=version)
        done = await _record(context, live, target=target, version=version)
        await untag(live, rollback_tag(target), datasets=context.datasets)
        await catch_up(context, live)  # the last time, so that plans made from now on are not disturbed
        return done


async def release(context: IndexContext, live: Live) -> Released:
    """Make the reverted runs pending again, and commit them; nothing is embedded."""
    from flowbed.lanes.write_deltas import commit_pending  # loads numpy and pyarrow

    collection = live.collection
    await catch_up(context, live)
    names = await context.ledger.runs.reverted(collection)
    await context.ledger.runs.release(collection)
    tally = RunStats()
    await commit_pending(collection, context, tally)
    back = [run for name in names if (run := await context.ledger.runs.get(name)) is not None]
    committed = sum(1 for run in back if run.state != "refused")
    told = {each.subject for each in tally.failures}
    return Released(
        collection=collection,
        runs=committed,
        version=tally.versions.get(collection),
        again=sum(1 for run in back if run.state == "refused" and run.key not in told),
        refused=tuple(tally.failures),
    )


async def catch_up_all(context: IndexContext, seen: Mapping[str, int], stats: RunStats) -> dict[str, int]:
    """Make the ledger follow the history of every collection; return the newest version of each.

    `seen` are the versions up to which the histories are known. A collection that cannot be read is left out, and
    added to `stats`.
    """
    newest: dict[str, int] = {}
    lives, damaged = await context.collections.readable()
    for collection, why in damaged.items():
        stats.leave_out(collection, why)
    for live in lives:
        version = await newest_version(live, store=context.store)
        if version is None or version > seen.get(live.collection, 0):
            try:
                version = await catch_up(context, live)
            except UNREADABLE as error:
                stats.leave_out(live.collection, error)
                continue
        newest[live.collection] = version
    return newest


async def catch_up(context: IndexContext, live: Live) -> int:
    """Make the ledger follow a collection's history, where a rollback was interrupted before it did.

    Return the newest version, 0 where the collection has no dataset yet.
    """
    seen = await context.ledger.rollbacks.seen(live.collection)
    newest, restored = await restored_since(live, seen, datasets=context.datasets)
    for each in restored:
        await _record(context, live, target=each.target, version=each.version)
        await untag(live, rollback_tag(each.target), datasets=context.datasets)
    if newest <= seen:
        return newest
    # A commit may have merged a run while it was being reverted, and died before it marked the run.
    if reverted := await context.ledger.runs.reverted(live.collection):
        with contextlib.suppress(NotFound):  # dropped meanwhile: the next call sees a newer one
            there = await runs_in(live, newest, datasets=context.datasets)
            await context.ledger.runs.commit(sorted(there.intersection(reverted)), version=newest)
    await context.ledger.rollbacks.see(live.collection, newest)
    return newest


async def _record(context: IndexContext, live: Live, *, target: int, version: int) -> Rollback:
    kept: set[str] = set()
    for each in (version, target):  # the same contents; either may have been dropped
        with contextlib.suppress(NotFound):
            kept = await runs_in(live, each, datasets=context.datasets)
            break
    done = await context.ledger.rollbacks.record(
        Rollback(collection=live.collection, target=target, version=version, at=context.clock()), kept=kept
    )
    reached(ROLLBACK_RECORDED, collection=live.collection, version=version, runs=done.runs)
    await _restart_fetches(context, live.collection)
    return done


async def _restart_fetches(context: Context, collection: str) -> None:
    """Make every fetch under way start over, and the next one read the documents of which a part is still to be merged.

    Such a fetch compared documents with rows that are reverted now: a chunk that it left unchanged may be missing in
    the index.
    """
    reverted: dict[str, set[str]] = {}
    now, wanted = context.clock(), {Status.REVERTED}
    async for batches in context.ledger.chunks.batches(wanted, now=now, sources=()):
        for batch in batches:
            for row in await context.ledger.chunks.ready(batch, wanted, now=now, sources=()):
                if row.status is Status.REVERTED and row.collection == collection:
                    reverted.setdefault(row.source, set()).add(row.document)
    for source, documents in sorted(reverted.items()):
        moved = False
        while not moved:
            cursor = await context.ledger.documents.cursor(source)
            again = await _partly_pending(context.ledger, collection, source, sorted(documents))
            with contextlib.suppress(Conflict):  # with a fetch that has ended meanwhile
                await context.ledger.documents.swap(_moved(again, cursor))
                moved = True


async def _partly_pending(
    ledger: Ledger, collection: str, source: str, documents: Sequence[str]
) -> list[DocumentRow]:
    """Return those of the documents that have a chunk in the collection which waits to be embedded or committed."""
    found: list[DocumentRow] = []
    for start in range(0, len(documents), MANY):
        rows = await ledger.chunks.of(source, documents[start : start + MANY])
        waiting = {row.document for row in rows if row.collection == collection and _waits(row)}
        found += (await ledger.documents.get(source, waiting)).values()
    return found


def _waits(row: ChunkRow) -> bool:
    return row.status in {Status.NONE, Status.PENDING} or row.failure == "transient"


def _moved(again: Sequence[DocumentRow], cursor: Cursor) -> Swap:
    """Move a cursor; reset it where unchanged documents have to be read again."""
    whole = again or cursor.value.startswith(RELEASING)
    forgotten = [replace(row, etag="", hash="") for row in again]
    return Swap(cursor=cursor, value="" if whole else cursor.value, documents=forgotten)


async def _mark_merged(context: IndexContext, live: Live, newest: int) -> None:
    """Mark pending runs that the newest version holds: the process that merged them died before it did."""
    pending = {run.id for run in await context.ledger.runs.pending(live.collection, limit=MANY)}
    if pending:
        there = await runs_in(live, newest, datasets=context.datasets)
        await context.ledger.runs.commit(sorted(pending & there), version=newest)
