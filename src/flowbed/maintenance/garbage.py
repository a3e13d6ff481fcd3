"""Finds garbage: stored objects that nothing needs any more."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from flowbed.errors import NotFound, Rejected
from flowbed.index.commit import MICROSECOND, RETENTION
from flowbed.index.datasets import UNREADABLE
from flowbed.index.deltas import peek
from flowbed.lanes.batch.input import FOLDER
from flowbed.lanes.batch_files import parse_batch
from flowbed.lanes.precomputed_batches import decoded_batch_id
from flowbed.maintenance.compare import known_collections, run_of, waiting_runs
from flowbed.pipeline.staging import PLANS, expired_plans, read_plan
from flowbed.publish.chroma.garbage import unneeded_snapshots
from flowbed.records import Problem, Space, Status, batch_id, text_hash
from flowbed.records.precomputed import is_precomputed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from flowbed.lanes.contexts import Context, IndexContext
    from flowbed.ledger import Ledger, RunRow
    from flowbed.storage import Listed, Store

# A younger object may be in flight: written, but not recorded in the ledger yet. No step takes a day.
GRACE = timedelta(days=1)
# Batches to look up in the ledger at once.
BATCHES = 1_000
# Deltas without a run to compare with the ledger in one pass over it; a run has 8,192 rows at most.
ORPHANS = 32

DELTA, DATASET, BATCH, PLAN, SUBMISSION = "delta", "dataset", "batch file", "plan", "submission"
SNAPSHOT = "snapshot"

_BATCH = re.compile(r"batch_([0-9a-f]{64})\.(?:json(?:\.zst)?|arrow)")


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """An object, or everything below a prefix, that nothing needs; the ledger never knew of an `orphan`."""

    kind: str
    key: str
    bytes: int
    why: str
    objects: int = 1
    orphan: bool = False


async def find_garbage(
    context: IndexContext,
    collections: Collection[str] = (),
    *,
    grace: timedelta = GRACE,
    failures: dict[str, Problem] | None = None,
) -> AsyncIterator[Garbage]:
    """Find objects that nothing needs and that are older than `grace`.

    A collection whose index cannot be read is left out, and added to `failures`, or raises without them.
    """
    before = context.clock() - grace // MICROSECOND
    for name in collections or await known_collections(context):
        async for each in _of_collection(context, name, before, failures):
            yield each
    if collections:
        return
    async for each in _batch_files(context, before):
        yield each
    async for each in _submissions(context, before):
        yield each
    for name in await expired_plans(context.store, now=context.clock()):
        sizes = [listed.size async for listed in context.store.list(f"{PLANS}/{name}")]
        yield Garbage(
            kind=PLAN,
            key=f"{PLANS}/{name}",
            bytes=sum(sizes),
            objects=len(sizes),
            why="too old to be carried out",
        )


async def _of_collection(
    context: IndexContext, collection: str, before: int, failures: dict[str, Problem] | None
) -> AsyncIterator[Garbage]:
    try:
        for find in (_deltas, _datasets, _snapshots):
            async for each in find(context, collection, before):
                yield each
    except UNREADABLE as error:
        if failures is None:
            raise
        failures[collection] = Problem(subject=f"collection {collection}", reason=str(error))


async def _deltas(context: IndexContext, collection: str, before: int) -> AsyncIterator[Garbage]:
    """Find deltas that no commit, rollback or release will read again."""
    oldest = await _oldest_version(context, collection)
    letters = await _runs_with_letters(context.ledger)
    orphans: list[Listed] = []
    async for listed in context.store.list(f"{collection}/delta"):
        run = await context.ledger.runs.get(run_of(listed.key)) if listed.modified < before else None
        why = _why_unneeded(run, oldest, letters, now=context.clock()) if run is not None else ""
        if why:
            yield Garbage(kind=DELTA, key=listed.key, bytes=listed.size, why=why)
        # Only Flowbed's own deltas: another producer's may be registered later.
        elif run is None and listed.modified < before and listed.key.endswith("/delta.arrow"):
            orphans.append(listed)
        if len(orphans) >= ORPHANS:
            async for each in _orphans(context, collection, orphans):
                yield each
            orphans = []
    async for each in _orphans(context, collection, orphans):
        yield each


async def _runs_with_letters(ledger: Ledger) -> set[str]:
    """Return the ids of runs with a dead letter."""
    pages = ledger.dead_letters.pages()
    return {letter.subject async for page in pages for letter in page if letter.kind == "run"}


async def _oldest_version(context: IndexContext, collection: str) -> int:
    """Return the oldest version that a rollback could restore; 0 if unknown."""
    live = await context.collections.get(collection)
    return 0 if live is None else min(await context.datasets.kept(live), default=0)


def _why_unneeded(run: RunRow, oldest: int, letters: Collection[str], *, now: int) -> str:
    """Say why the delta of a run is not needed any more; an empty text if it may be."""
    if run.state == "refused":
        return "" if run.id in letters else "its run was refused, and its dead letter is gone"
    if run.state != "committed":
        return ""
    if run.version <= oldest:
        return "committed before every version that is kept"
    if run.created < now - RETENTION // MICROSECOND:
        return "committed, and too old to be merged again after a rollback"
    return ""


async def _orphans(context: Context, collection: str, orphans: Sequence[Listed]) -> AsyncIterator[Garbage]:
    """Of deltas without a run, find those whose run can never be recorded.

    A run id is computed from the versions of its chunks, and these only grow. While a chunk of the delta still waits at
    that version, the same run may be computed again and adopt the delta.
    """
    rows: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for listed in orphans:
        for name, version in await _rows(context.store, listed.key):
            rows[name].append((version, listed.key))
    needed: set[str] = set()
    if rows:
        async for marks in context.ledger.chunks.marks(collection):
            for mark in (each for each in marks if each.status is not Status.SUCCESS):
                needed.update(key for version, key in rows.get(mark.id, ()) if version == mark.version)
    for listed in orphans:
        # It may have been recorded, and even committed, while the chunks were read.
        if listed.key not in needed and await context.ledger.runs.get(run_of(listed.key)) is None:
            why = "written by a run that was killed, and whose chunks were embedded by another"
            yield Garbage(kind=DELTA, key=listed.key, bytes=listed.size, why=why, orphan=True)


async def _rows(store: Store, key: str) -> list[tuple[str, int]]:
    try:
        return peek((await store.get(key)).body)
    except (NotFound, Rejected):
        return []  # no run could adopt it


async def _datasets(context: Context, collection: str, before: int) -> AsyncIterator[Garbage]:
    """Find indexes of spaces that are not live and have no run to merge."""
    live = await context.collections.get(collection)
    if live is None:
        return
    wanted = {Space.from_json(run.space).space8 for run in await waiting_runs(context.ledger, collection)}
    for name in await context.store.folders(f"{collection}/index"):
        key = f"{collection}/index/{name}"
        if key == live.key or name.removesuffix(".lance") in wanted:
            continue
        found = [listed async for listed in context.store.list(key)]
        if found and max(listed.modified for listed in found) < before:
            yield Garbage(
                kind=DATASET,
                key=key,
                bytes=sum(listed.size for listed in found),
                why=f"an index of a space that is not live ({live.space.space8} is)",
                objects=len(found),
                orphan=True,
            )


async def _snapshots(context: Context, collection: str, before: int) -> AsyncIterator[Garbage]:
    """Find published snapshots that were replaced or never finished, and that no reader or publisher holds."""
    found = unneeded_snapshots(
        context.store, collection, now=context.clock(), before=before, dead=context.dead
    )
    async for each in found:
        yield Garbage(kind=SNAPSHOT, key=each.key, bytes=each.bytes, objects=each.objects, why=each.why)


async def _submissions(context: Context, before: int) -> AsyncIterator[Garbage]:
    """Find files of submissions that ended long ago, or were never recorded."""
    for name in await context.store.folders(FOLDER):
        row = await context.ledger.submissions.get(name)
        if row is None:
            # Its chunks were claimed again by another run, or will be.
            why = "written by a run that was killed, and never recorded"
        elif 0 < row.ended < context.clock() - RETENTION // MICROSECOND:
            why = "it ended long ago"
        else:
            continue
        found = [listed async for listed in context.store.list(f"{FOLDER}/{name}")]
        if found and max(listed.modified for listed in found) < before:
            yield Garbage(
                kind=SUBMISSION,
                key=f"{FOLDER}/{name}",
                bytes=sum(listed.size for listed in found),
                why=why,
                objects=len(found),
                orphan=row is None,
            )


async def _batch_files(context: Context, before: int) -> AsyncIterator[Garbage]:
    """Find batch files that no chunk and no staged plan refers to."""
    staged = await _staged(context)
    for source in await context.store.folders(""):
        page: dict[str, list[Listed]] = defaultdict(list)
        async for listed in context.store.list(f"{source}/chunked"):
            name = _BATCH.fullmatch(listed.key.rpartition("/")[2])
            if name is not None and listed.modified < before and name[1] not in staged:
                page[name[1]].append(listed)
            if len(page) >= BATCHES:
                async for each in _unused(context, source, page):
                    yield each
                page = defaultdict(list)
        async for each in _unused(context, source, page):
            yield each


async def _staged(context: Context) -> set[str]:
    """Return the batches of plans that can still be run."""
    found: set[str] = set()
    for name in await context.store.folders(PLANS):
        try:
            plan = await read_plan(context.store, name, now=context.clock())
        except (NotFound, Rejected):
            continue
        found.update(plan.waiting)
        found.update(part.batch.id for each in plan.sources.values() for part in each.parts if part.batch)
    return found


async def _unused(context: Context, source: str, page: dict[str, list[Listed]]) -> AsyncIterator[Garbage]:
    used = await context.ledger.chunks.used(page)
    known = await context.ledger.batches.get(page)
    for batch in sorted(set(page) - used):
        for listed in page[batch]:
            if batch in known:
                why = "all its chunks have a later text or are deleted"
            elif await _made_by_flowbed(context.store, source, batch, listed.key):
                why = "written for another ledger with the same sources"
            else:
                continue  # written by another program, and perhaps the only copy of its texts
            yield Garbage(kind=BATCH, key=listed.key, bytes=listed.size, why=why, orphan=batch not in known)


async def _made_by_flowbed(store: Store, source: str, batch: str, key: str) -> bool:
    """Return whether a batch file that the ledger does not know has the id that its content implies."""
    try:
        body = (await store.get(key)).body
        if is_precomputed(source):
            return decoded_batch_id(source, body) == batch
        chunks = parse_batch(body)["chunks"]
        rows = [(each["id"], text_hash(each.get("sent", each["text"])), each["version"]) for each in chunks]
    except (Rejected, ValueError, KeyError, TypeError):
        return False
    return batch_id(source, rows) == batch
