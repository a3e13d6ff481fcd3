"""Garbage: objects of the store that nothing needs any more, looked at twice before they are deleted."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import NotFound, Rejected
from flowbed.index.active_space import live_collection
from flowbed.index.commit import MICROSECOND, RETENTION
from flowbed.index.deltas import peek
from flowbed.index.versions import versions
from flowbed.lanes.batch.input import FOLDER
from flowbed.maintenance.compare import known_collections, require_known, run_of, waiting_runs
from flowbed.pipeline.staging import PLANS, drop_plans, expired_plans, read_plan
from flowbed.records import Space, Status, batch_id, text_hash
from flowbed.telemetry import GARBAGE_DELETED, GARBAGE_MARKED, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from flowbed.lanes.contexts import Context, IndexContext
    from flowbed.ledger import Ledger, RunRow
    from flowbed.storage import Listed, Store

# What is younger may be in flight: written already, and not yet told to the ledger. No step takes as long as a day.
GRACE = timedelta(days=1)
# Objects that are looked at, and deleted, at a time: what S3 takes in one request.
AT_ONCE = 1_000
# Deltas without a run whose rows are held against the ledger in one pass over it: a run has 8,192 rows at most.
ORPHANS = 32

DELTA, DATASET, BATCH, PLAN, SUBMISSION = "delta", "dataset", "batch file", "plan", "submission"

_BATCH = re.compile(r"batch_([0-9a-f]{64})\.json(?:\.zst)?")


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """One thing that nothing needs: an object, or all below a prefix; what is an `orphan` the ledger never knew of."""

    kind: str
    key: str
    bytes: int
    why: str
    objects: int = 1
    orphan: bool = False


@dataclass
class Collected:
    """What was deleted, or would be: objects and bytes by kind."""

    dry_run: bool
    objects: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def add(self, garbage: Garbage) -> None:
        """Count one thing."""
        self.objects[garbage.kind] = self.objects.get(garbage.kind, 0) + garbage.objects
        self.bytes[garbage.kind] = self.bytes.get(garbage.kind, 0) + garbage.bytes


async def collect(
    context: IndexContext,
    collections: Collection[str] = (),
    *,
    dry_run: bool = False,
    grace: timedelta = GRACE,
) -> Collected:
    """Delete what nothing needs: of the collections named, or of everything, batch files and plans among it.

    Safe beside runs: what is younger than `grace` is left alone, and what was marked is looked at once more before it
    is deleted. Repeatable, and may be ended at any moment.

    Raises:
        NotFound: there is no collection of that name.
    """
    await require_known(context, collections)
    done = Collected(dry_run=dry_run)
    marked = [each async for each in garbage(context, collections, grace=grace)]
    reached(GARBAGE_MARKED, things=len(marked))
    if dry_run:
        for each in marked:
            done.add(each)
        return done
    # Whatever happened since, what is deleted was needed by nothing twice.
    again = {each.key: each async for each in garbage(context, collections, grace=grace)} if marked else {}
    sure = [again[each.key] for each in marked if each.key in again]
    for start in range(0, len(sure), AT_ONCE):
        page = sure[start : start + AT_ONCE]
        await _delete(context.store, page)
        for each in page:
            done.add(each)
    return done


async def garbage(
    context: IndexContext, collections: Collection[str] = (), *, grace: timedelta = GRACE
) -> AsyncIterator[Garbage]:
    """Find what nothing needs and is older than `grace`."""
    before = context.clock() - grace // MICROSECOND
    for name in collections or await known_collections(context):
        async for each in _deltas(context, name, before):
            yield each
        async for each in _datasets(context, name, before):
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
            kind=PLAN, key=f"{PLANS}/{name}", bytes=sum(sizes), objects=len(sizes), why="too old to be run"
        )


async def _delete(store: Store, page: Sequence[Garbage]) -> None:
    for each in page:
        if each.kind == PLAN:
            await drop_plans(store, [each.key.removeprefix(f"{PLANS}/")])
        elif each.kind in {DATASET, SUBMISSION}:
            await _delete_below(store, each.key)
    keys = [each.key for each in page if each.kind in {DELTA, BATCH}]
    if keys:
        await store.delete(keys)
    if page:
        reached(GARBAGE_DELETED, things=len(page))


async def _delete_below(store: Store, prefix: str) -> None:
    keys = [listed.key async for listed in store.list(prefix)]
    for start in range(0, len(keys), AT_ONCE):
        await store.delete(keys[start : start + AT_ONCE])


async def _deltas(context: IndexContext, collection: str, before: int) -> AsyncIterator[Garbage]:
    """Find deltas that no commit, rollback or release will read again."""
    oldest = await _oldest_version(context, collection)
    letters = await _runs_with_letters(context.ledger)
    orphans: list[Listed] = []
    async for listed in context.store.list(f"{collection}/delta"):
        run = await context.ledger.runs.get(run_of(listed.key)) if listed.modified < before else None
        why = _done_with(run, oldest, letters, now=context.clock()) if run is not None else ""
        if why:
            yield Garbage(kind=DELTA, key=listed.key, bytes=listed.size, why=why)
        # Only what Flowbed itself writes is judged: another producer's delta may yet be taken in.
        elif run is None and listed.modified < before and listed.key.endswith("/delta.arrow"):
            orphans.append(listed)
        if len(orphans) >= ORPHANS:
            async for each in _never_to_be_recorded(context, collection, orphans):
                yield each
            orphans = []
    async for each in _never_to_be_recorded(context, collection, orphans):
        yield each


async def _runs_with_letters(ledger: Ledger) -> set[str]:
    """Name the runs that somebody has yet to look at."""
    pages = ledger.dead_letters.pages()
    return {letter.subject async for page in pages for letter in page if letter.kind == "run"}


async def _oldest_version(context: IndexContext, collection: str) -> int:
    """Tell the oldest version that a rollback could go back to; 0 where that is not known."""
    live = await live_collection(context.store, collection)
    kept = [] if live is None else await versions(live, datasets=context.datasets)
    return min((each.version for each in kept), default=0)


def _done_with(run: RunRow, oldest: int, letters: Collection[str], *, now: int) -> str:
    """Say why the delta of a run is needed no more; nothing, where it may be."""
    if run.state == "refused":
        return "" if run.id in letters else "its run was refused, and nobody has to look at it any more"
    if run.state != "committed":
        return ""
    if run.version <= oldest:
        return "committed, and no version that is kept is older"
    if run.created < now - RETENTION // MICROSECOND:
        return "committed, and too old to be merged again after a rollback"
    return ""


async def _never_to_be_recorded(
    context: Context, collection: str, orphans: Sequence[Listed]
) -> AsyncIterator[Garbage]:
    """Of deltas without a run, find those whose run can never be made again.

    A run is named by the versions of its chunks, and these only grow. While a chunk that is in the delta still waits at
    that version, the same run may be made again, and adopt the delta.
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
            why = "laid down by a run that was killed, and whose chunks have moved on"
            yield Garbage(kind=DELTA, key=listed.key, bytes=listed.size, why=why, orphan=True)


async def _rows(store: Store, key: str) -> list[tuple[str, int]]:
    try:
        return peek((await store.get(key)).body)
    except (NotFound, Rejected):
        return []  # no run could adopt it either


async def _datasets(context: Context, collection: str, before: int) -> AsyncIterator[Garbage]:
    """Find indexes of spaces that are not live, and that no run waits to be merged into."""
    live = await live_collection(context.store, collection)
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
                why=f"an index of another space than the live one, {live.space.space8}",
                objects=len(found),
                orphan=True,
            )


async def _submissions(context: Context, before: int) -> AsyncIterator[Garbage]:
    """Find what was sent to a provider and answered by it, once nobody will look at it any more."""
    for name in await context.store.folders(FOLDER):
        row = await context.ledger.submissions.get(name)
        if row is None:
            # Laid down by a finder that was killed: its chunks were claimed by another, or will be.
            why = "gathered by a run that was killed, and never recorded"
        elif 0 < row.ended < context.clock() - RETENTION // MICROSECOND:
            why = "its answers were laid down long ago"
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
    """Find batch files that no chunk and no staged plan names any more."""
    staged = await _staged(context)
    for source in await context.store.folders(""):
        page: dict[str, list[Listed]] = defaultdict(list)
        async for listed in context.store.list(f"{source}/chunked"):
            name = _BATCH.fullmatch(listed.key.rpartition("/")[2])
            if name is not None and listed.modified < before and name[1] not in staged:
                page[name[1]].append(listed)
            if len(page) >= AT_ONCE:
                async for each in _unused(context, source, page):
                    yield each
                page = defaultdict(list)
        async for each in _unused(context, source, page):
            yield each


async def _staged(context: Context) -> set[str]:
    """Name the batches of plans that may yet be run."""
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
                why = "every chunk in it has a later text, or is deleted"
            elif await _made_by_flowbed(context.store, source, batch, listed.key):
                why = "written under another ledger, which read the same sources"
            else:
                continue  # another program's, whose texts are nowhere else
            yield Garbage(kind=BATCH, key=listed.key, bytes=listed.size, why=why, orphan=batch not in known)


async def _made_by_flowbed(store: Store, source: str, batch: str, key: str) -> bool:
    """Tell whether a batch file that the ledger does not know is named by its own content."""
    try:
        chunks = orjson.loads((await store.get(key)).body)["chunks"]
        rows = [(each["id"], text_hash(each.get("sent", each["text"])), each["version"]) for each in chunks]
    except (NotFound, ValueError, KeyError, TypeError):
        return False
    return batch_id(source, rows) == batch
