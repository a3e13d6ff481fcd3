"""Repair: fixes what index, ledger and store disagree on, and leaves doubtful cases alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowbed.errors import Damaged, Rejected
from flowbed.index import audit
from flowbed.index.active_space import ACTIVE, begin_space
from flowbed.index.datasets import DamagedIndex, FileMissing
from flowbed.index.repair import drop_index, keep_newest, rebuild, rebuild_full_text, remove_rows
from flowbed.lanes.batch_files import read_chunk_texts
from flowbed.lanes.claims import CLAIM, WAITING
from flowbed.lanes.failures import reset_documents
from flowbed.ledger import Failure
from flowbed.maintenance.compare import RUNS, compare_once, find
from flowbed.maintenance.inconsistencies import (
    DELTA_DAMAGED,
    DELTA_MISSING,
    DELTA_SPACE,
    FULL_TEXT_INDEX,
    SPACE,
    UNFIT,
    UNREADABLE,
    VECTOR_INDEX,
)
from flowbed.pipeline.comparing.deletions import GUARDED_COUNT, GUARDED_SHARE
from flowbed.records import Space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.index.active_space import Live
    from flowbed.lanes.contexts import Context, IndexContext
    from flowbed.maintenance.inconsistencies import Inconsistencies

# Faults that committing the chunk once more, at a later version, fixes.
REQUEUED = (
    audit.MISSING,
    audit.STALE,
    audit.AHEAD,
    audit.ALTERED,
    audit.VECTOR,
    audit.GONE,
    audit.DOUBLED,
)
# Rows that would win over committed ones, or whose vectors the next run would reuse.
UNWANTED = (audit.AHEAD, audit.VECTOR)


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """The result of a repair: the next run embeds `waiting` chunks; `withheld` says what was left alone, and why."""

    waiting: int = 0
    removed: int = 0
    deltas: int = 0
    notes: tuple[str, ...] = ()
    withheld: str = ""


async def repair(
    context: IndexContext, collection: str, found: Inconsistencies, *, allow_deletes: bool
) -> Repaired:
    """Fix the faults of a collection; rows unknown to the ledger are only removed if they are few."""
    notes: list[str] = []
    if {SPACE, UNFIT, UNREADABLE} & set(found.faults):
        withheld = await _make_readable(context, collection, notes, allow_deletes=allow_deletes)
        if withheld:
            return Repaired(withheld=withheld)
        # Now that the index can be read, check its rows.
        second_look = await find(context, collection)
        more = await repair(context, collection, second_look, allow_deletes=allow_deletes)
        return replace(more, notes=(*notes, *more.notes))
    live = await context.collections.get(collection)
    waiting, deltas = await _repair_deltas(context, collection, found)
    faults = {kind: list(dict.fromkeys(ids)) for kind, ids in found.faults.items()}
    requeued = list(dict.fromkeys(each for kind in REQUEUED for each in faults.get(kind, ())))
    # The ledger first: nothing would notice a removed row whose chunk still counts as indexed.
    waiting += await context.ledger.chunks.requeue(collection, requeued, now=context.clock())
    if faults.get(audit.ALTERED):
        # If it is the ledger that is wrong, only reading the document again corrects it.
        altered = [row for each in faults[audit.ALTERED] for row in await context.ledger.chunks.find(each)]
        await reset_documents(altered, context.ledger)
    if live is not None:
        notes += await _repair_indexes(context, live, faults)
    if live is not None and faults.get(audit.DOUBLED):
        await keep_newest(live, faults[audit.DOUBLED], datasets=context.datasets)
    gone = list(dict.fromkeys(each for kind in UNWANTED for each in faults.get(kind, ())))
    withheld = ""
    unknown = faults.get(audit.UNKNOWN, [])
    if unknown and (not found.chunks or doubtful(len(unknown), found.live)) and not allow_deletes:
        withheld = (
            f"{len(unknown):,} of {found.live:,} rows of {collection} are unknown to the ledger and are kept:"
            " `flowbed run` adopts those whose documents the sources still have; to remove the others, verify again"
            " with --repair --allow-deletes"
        )
    else:
        gone += unknown
    if live is not None and gone:
        await remove_rows(live, gone, datasets=context.datasets)
    await _restore_texts(context)
    return Repaired(waiting=waiting, removed=len(gone), deltas=deltas, notes=tuple(notes), withheld=withheld)


async def _repair_indexes(
    context: IndexContext, live: Live, faults: Mapping[str, Sequence[str]]
) -> list[str]:
    """Drop a damaged vector index, build a damaged full-text index again, and say so."""
    notes = []
    if faults.get(VECTOR_INDEX):
        await drop_index(live, datasets=context.datasets)
        notes.append(
            f"the vector index of {live.collection} was dropped: searches scan all rows until it is built again"
        )
    if faults.get(FULL_TEXT_INDEX):
        await rebuild_full_text(live, datasets=context.datasets)
        notes.append(f"the full-text index of {live.collection} was built again")
    return notes


def doubtful(unknown: int, live: int) -> bool:
    """Return whether removing this many rows is more likely a mistake."""
    return unknown >= GUARDED_COUNT and unknown > GUARDED_SHARE * live


async def _make_readable(
    context: IndexContext, collection: str, notes: list[str], *, allow_deletes: bool
) -> str:
    """Restore the live space of a collection and make its index readable; return why not, if that failed."""
    try:
        live = await context.collections.get(collection)
    except Damaged:
        live = None
    if live is None:
        space = await _space_of(context, collection)
        if space is None:
            return await _drop_unknown(context, collection, notes, allow_deletes=allow_deletes)
        await context.store.delete([f"{collection}/{ACTIVE}"])
        live = await begin_space(context.store, collection, space, now=context.clock())
        notes.append(f"{collection}/active.json was restored, with space {space.space8}")
    try:
        if await rebuild(live, datasets=context.datasets):
            notes.append(f"the index of {collection} was rebuilt")
        await compare_once(context, collection, live)
    except (DamagedIndex, FileMissing, Rejected) as error:
        if not allow_deletes:
            return (
                f"the index of {collection} cannot be read ({error}); if the error persists, verify with --repair"
                " --allow-deletes, which drops the index; the next run builds it again"
            )
        await context.store.delete([listed.key async for listed in context.store.list(live.key)])
        notes.append(f"the index of {collection} was dropped")
    return ""


async def _drop_unknown(
    context: IndexContext, collection: str, notes: list[str], *, allow_deletes: bool
) -> str:
    """Drop an index of which nobody knows the space, with its damaged pointer; return why not, if not allowed."""
    if not allow_deletes:
        return (
            f"no run of this ledger has the space of {collection}: restore its {ACTIVE}, or verify with --repair"
            " --allow-deletes, which drops the index; the next run builds it again"
        )
    index = [listed.key async for listed in context.store.list(f"{collection}/index")]
    await context.store.delete([*index, f"{collection}/{ACTIVE}"])
    notes.append(f"the index of {collection}, whose space is unknown, was dropped")
    return ""


async def _space_of(context: Context, collection: str) -> Space | None:
    """Return the space of a collection's newest run whose index exists; without any index, that of its newest run."""
    existing = set(await context.store.folders(f"{collection}/index"))
    spaces = [
        Space.from_json(run.space)
        for run in await context.ledger.runs.recent(limit=RUNS)
        if run.collection == collection
    ]
    indexed = [space for space in spaces if f"{space.space8}.lance" in existing]
    return next(iter(indexed), None if existing else next(iter(spaces), None))


async def _repair_deltas(context: Context, collection: str, found: Inconsistencies) -> tuple[int, int]:
    """Queue the chunks of runs whose delta cannot be merged; return the number of chunks and of deltas."""
    waiting, pending = 0, {run.id for run in await context.ledger.runs.pending(collection, limit=RUNS)}
    repaired = 0
    for kind in (DELTA_MISSING, DELTA_DAMAGED, DELTA_SPACE):
        for name in found.faults.get(kind, ()):
            run = await context.ledger.runs.get(name)
            if run is None or run.state == "reverted":
                continue  # releasing it finds the same fault and makes it a dead letter
            if name in pending:
                await context.ledger.runs.refuse(name, reason=f"repaired: its delta was {kind}")
                waiting += await context.ledger.chunks.retry([name], now=context.clock())
            if kind == DELTA_DAMAGED:
                await context.store.delete([run.key])
            repaired += 1
    return waiting, repaired


async def _restore_texts(context: Context) -> None:
    """Let the next run read again the documents of waiting chunks whose texts are lost."""
    now = context.clock()
    async for batches in context.ledger.chunks.batches(WAITING, now=now, sources=()):
        for batch in filter(None, batches):
            rows = await context.ledger.chunks.ready(batch, WAITING, now=now, sources=())
            _, lost = await read_chunk_texts(
                [row for row in rows if not row.deleted], store=context.store, ledger=context.ledger
            )
            if lost:
                await _fail(
                    context, batch, {(each.row.collection, each.row.id): each.reason for each in lost}
                )


async def _fail(context: Context, batch: str, reasons: Mapping[tuple[str, str], str]) -> None:
    """Make chunks FAILED, as a run does when it finds their texts lost; a fetch then writes the texts again."""
    now = context.clock()
    try:
        rows = await context.ledger.chunks.claim(
            [batch], WAITING, worker=context.worker, now=now, until=now + CLAIM, sources=(), limit=RUNS
        )
        lost = [row for row in rows if (row.collection, row.id) in reasons]
        await reset_documents(lost, context.ledger)
        await context.ledger.chunks.fail(
            [
                Failure(
                    collection=row.collection,
                    id=row.id,
                    version=row.version,
                    kind="transient",
                    reason=f"{reasons[row.collection, row.id]}; the next run reads its document again",
                )
                for row in lost
            ],
            worker=context.worker,
        )
    finally:
        await context.ledger.chunks.release(context.worker)
