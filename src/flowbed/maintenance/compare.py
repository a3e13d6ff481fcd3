"""Compares index, ledger and store of a collection, and finds every inconsistency."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

from flowbed.errors import Damaged, Misconfigured, NotFound, Rejected, Transient
from flowbed.index import audit
from flowbed.index.audit import Expected, compare, open_newest
from flowbed.index.commit import is_stale
from flowbed.index.datasets import DamagedIndex, FileMissing, Unexplained, UnfitIndex
from flowbed.index.repair import damage_of_full_text, damage_of_index, faulty_ids
from flowbed.lanes.batch_files import read_chunk_texts
from flowbed.lanes.claims import WAITING
from flowbed.maintenance.inconsistencies import (
    DELTA_DAMAGED,
    DELTA_MISSING,
    DELTA_SPACE,
    FULL_TEXT_INDEX,
    SPACE,
    TEXT_LOST,
    UNFIT,
    UNREADABLE,
    VECTOR_INDEX,
    Inconsistencies,
)
from flowbed.pipeline.rollback import catch_up
from flowbed.records import Space
from flowbed.records.precomputed import precomputed_source
from flowbed.records.values import suggestion
from flowbed.telemetry import PROGRESS, STAGE, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from flowbed.index.active_space import Live
    from flowbed.lanes.contexts import Context, IndexContext
    from flowbed.ledger import Ledger, RunRow
    from flowbed.storage import Store

PASSES = 3  # over a collection that is being committed to: only what every pass finds is a fault
RUNS = 100_000  # read at once, which is all of them unless commits have failed for years


async def known_collections(context: Context) -> list[str]:
    """List every collection in the store or the ledger."""
    names = {collection for collection, _ in await context.ledger.chunks.counts()}
    for folder in await context.store.folders(""):
        if {"index", "delta"} & set(await context.store.folders(folder)):
            names.add(folder)
    return sorted(names)


async def require_known(context: Context, collections: Collection[str]) -> None:
    """Refuse names of unknown collections.

    Raises:
        NotFound: there is no collection of that name.
    """
    known = await known_collections(context)
    for name in collections:
        if name not in known:
            existing = (
                f"there are: {', '.join(known)}"
                if known
                else "nothing is indexed yet; start with `flowbed run`"
            )
            raise NotFound(f"no collection is called {name!r}{suggestion(name, known)}; {existing}")


async def find(context: IndexContext, collection: str, *, rows: bool = True) -> Inconsistencies:
    """Find every fault of a collection; without `rows`, read only the ids of rows and no deltas."""
    live, damaged = await _live(context, collection)
    if damaged:
        return _without_space(collection)
    # An index that cannot be opened is reported below.
    with contextlib.suppress(Misconfigured, Rejected, Transient):
        if live is not None:
            await catch_up(context, live)  # rows that a rollback restored are not faults
    found = await _index_faults(context, collection, live, rows=rows)
    await _deltas(context, collection, live, found, read=rows)
    found.add({TEXT_LOST: [name async for name in _lost(context, collection)]})
    return found


async def index_faults(context: IndexContext, collection: str, *, rows: bool) -> Inconsistencies:
    """Find the faults of a collection's index, and change nothing; without `rows`, read only the ids of rows.

    Where a rollback was interrupted before it was recorded, the rows that it restored are faults.
    """
    live, damaged = await _live(context, collection)
    if damaged:
        return _without_space(collection)
    return await _index_faults(context, collection, live, rows=rows)


async def _live(context: Context, collection: str) -> tuple[Live | None, bool]:
    """Return the live space of a collection, and whether it is unknown although there is an index."""
    try:
        live = await context.collections.get(collection)
    except Damaged:
        return None, True
    return live, live is None and bool(await context.store.folders(f"{collection}/index"))


def _without_space(collection: str) -> Inconsistencies:
    found = Inconsistencies()
    found.add({SPACE: [collection]})
    return found


async def _index_faults(
    context: IndexContext, collection: str, live: Live | None, *, rows: bool
) -> Inconsistencies:
    """Find the faults of an index and its rows. Errors of the ledger or a network are raised: they prove nothing."""
    found = Inconsistencies()
    try:
        if rows:
            found = await _compare(context, collection, live)
        elif live is not None:
            written = await context.ledger.documents.cursor(precomputed_source(collection))
            found.add(await faulty_ids(live, datasets=context.datasets, any_id=written.token > 0))
        await open_newest(live, datasets=context.datasets)
        if live is not None and rows:
            found.add(await _damaged_indexes(context, live))
    except (DamagedIndex, FileMissing, Unexplained, Rejected) as error:
        found.add({UNREADABLE: [str(error)]})
    except UnfitIndex as error:
        found.add({UNFIT: [str(error)]})
    return found


async def _damaged_indexes(context: IndexContext, live: Live) -> dict[str, list[str]]:
    """Return why the vector index or the full-text index cannot be read."""
    damages = {
        VECTOR_INDEX: await damage_of_index(live, datasets=context.datasets),
        FULL_TEXT_INDEX: await damage_of_full_text(live, datasets=context.datasets),
    }
    return {kind: [damage] for kind, damage in damages.items() if damage}


async def _compare(context: IndexContext, collection: str, live: Live | None) -> Inconsistencies:
    """Compare the index with the ledger, repeatedly while commits go on, so that only real faults remain."""
    found, quiet = await compare_once(context, collection, live)
    for _ in range(PASSES - 1):
        if quiet or not found.faults:
            break
        second, quiet = await compare_once(context, collection, live)
        found.keep(second)
    return found


async def compare_once(
    context: IndexContext, collection: str, live: Live | None
) -> tuple[Inconsistencies, bool]:
    """Compare one version of the index with the ledger; also return whether it is still the newest afterwards."""
    found = Inconsistencies()
    # The index first: rows committed after this look wrong, and a second pass clears them.
    dataset = await open_newest(live, datasets=context.datasets)
    expected = Expected()
    async for marks in context.ledger.chunks.marks(collection):
        expected.add(marks)
        found.chunks += sum(not mark.deleted for mark in marks)
    expected.sort()
    if live is not None and dataset is not None:
        reached(STAGE, stage="verify", source=collection, total=dataset.count_rows())
        async for some in compare(dataset, live, expected):
            found.rows += some.rows
            found.live += some.live
            found.add(some.faults)
            reached(PROGRESS, stage="verify", done=some.rows)
    if ((expected.kinds == audit.MUST) & ~expected.present).any():
        async for marks in context.ledger.chunks.marks(collection):
            found.add({audit.MISSING: expected.missing(marks)})
    now = await open_newest(live, datasets=context.datasets)
    if dataset is None or now is None:
        return found, dataset is now
    return found, bool(dataset.version == now.version)


async def _deltas(
    context: Context, collection: str, live: Live | None, found: Inconsistencies, *, read: bool = True
) -> None:
    """Compare every stored delta with its run, and every waiting run with its delta."""
    stored = set()
    async for listed in context.store.list(f"{collection}/delta"):
        stored.add(listed.key)
        run = await context.ledger.runs.get(run_of(listed.key))
        if run is None or run.key != listed.key:
            continue  # written by a run that was killed before it was recorded; `flowbed gc` deletes it
        found.deltas += 1
        if read and await _digest(context.store, listed.key) != run.sha256:
            found.add({DELTA_DAMAGED: [run.id]})
    for run in await waiting_runs(context.ledger, collection):
        if is_stale(run, now=context.clock()):
            continue
        # It may have been written since the store was listed.
        if run.key not in stored and not await _digest(context.store, run.key):
            found.add({DELTA_MISSING: [run.id]})
        elif live is not None and Space.from_json(run.space).fingerprint != live.space.fingerprint:
            found.add({DELTA_SPACE: [run.id]})


async def waiting_runs(ledger: Ledger, collection: str) -> list[RunRow]:
    """Read the runs of a collection whose deltas are still needed: pending and reverted ones."""
    runs = await ledger.runs.pending(collection, limit=RUNS)
    for name in await ledger.runs.reverted(collection):
        run = await ledger.runs.get(name)
        if run is not None:
            runs.append(run)
    return runs


def run_of(key: str) -> str:
    """Return the run id in a delta's key."""
    return key.split("/")[2]


async def _digest(store: Store, key: str) -> str:
    digest = hashlib.sha256()
    try:
        async for piece in store.stream(key):
            digest.update(piece)
    except NotFound:
        return ""
    return digest.hexdigest()


async def _lost(context: Context, collection: str) -> AsyncIterator[str]:
    """Yield the waiting chunks of a collection whose texts are lost."""
    now = context.clock()
    async for batches in context.ledger.chunks.batches(WAITING, now=now, sources=()):
        for batch in batches:
            if batch:
                rows = await context.ledger.chunks.ready(batch, WAITING, now=now, sources=())
                own = [row for row in rows if row.collection == collection and not row.deleted]
                _, lost = await read_chunk_texts(own, store=context.store, ledger=context.ledger)
                for each in lost:
                    yield each.row.id
