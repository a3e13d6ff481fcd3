"""Verify: the proof that index, ledger and store agree, and the repair of what does not."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, NotFound, Rejected, Transient
from flowbed.index import agreement
from flowbed.index.agreement import Expected, compare, opened
from flowbed.index.live import ACTIVE, begin_space, live_collection
from flowbed.index.repair import keep_newest, rebuild, remove_rows
from flowbed.ledger import Failure
from flowbed.pipeline.batches import read_passages
from flowbed.pipeline.changes import GUARDED_COUNT, GUARDED_SHARE
from flowbed.pipeline.claims import CLAIM, WAITING
from flowbed.pipeline.landing import read_again
from flowbed.pipeline.rollback import catch_up
from flowbed.records import Space
from flowbed.telemetry import PROGRESS, STAGE, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from flowbed.index.live import Live
    from flowbed.ledger import RunRow
    from flowbed.pipeline import Parts

# What may be wrong with a whole collection, with a delta, or with what waits; agreement.py has what may be with rows.
SPACE = "space"
UNFIT = "unfit"
UNREADABLE = "unreadable"
DELTA_MISSING = "delta-missing"
DELTA_DAMAGED = "delta-damaged"
DELTA_SPACE = "delta-space"
TEXT_LOST = "text-lost"

MEANINGS = {
    **agreement.MEANINGS,
    SPACE: "without a word on which space is live",
    UNFIT: "that cannot be committed to",
    UNREADABLE: "that cannot be read",
    DELTA_MISSING: "needed by a run, and not in the store",
    DELTA_DAMAGED: "with other bytes than its run recorded",
    DELTA_SPACE: "of another space than the collection",
    TEXT_LOST: "waiting to be embedded, whose text its batch file no longer holds",
}
THINGS = {
    agreement.MISSING: "chunk",
    SPACE: "collection",
    UNFIT: "index",
    UNREADABLE: "index",
    DELTA_MISSING: "delta",
    DELTA_DAMAGED: "delta",
    DELTA_SPACE: "delta",
    TEXT_LOST: "chunk",
}
# Faults that end when the chunk is committed once more, at a later version.
AGAIN = (
    agreement.MISSING,
    agreement.STALE,
    agreement.AHEAD,
    agreement.ALTERED,
    agreement.VECTOR,
    agreement.GONE,
    agreement.DOUBLED,
)
# Rows that would win over what is committed, or that the next run would take a vector from.
REMOVED = (agreement.AHEAD, agreement.VECTOR)

EXAMPLES = 20  # subjects of a fault that are named; the rest is counted
PASSES = 3  # over a collection that others are committing to: what all of them find is no work in progress
RUNS = 100_000  # read at once: all there are, but for a bed that was never committed


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of disagreement: how many rows, chunks or deltas have it, and some of them by name."""

    kind: str
    count: int
    what: str
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Mended:
    """What a repair did: `waiting` chunks are embedded by the next run; `withheld` says what it left, and why."""

    waiting: int = 0
    removed: int = 0
    deltas: int = 0
    notes: tuple[str, ...] = ()
    withheld: str = ""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What the proof of one collection came to: `rows` and `chunks` were held against each other in `seconds`."""

    rows: int
    chunks: int
    deltas: int
    seconds: float
    faults: tuple[Fault, ...]
    mended: Mended | None = None

    @property
    def rows_per_second(self) -> float:
        """How fast it went."""
        return self.rows / self.seconds if self.seconds else 0.0


@dataclass
class _Found:
    """Everything that was found wrong with a collection, by kind: as large as what is wrong, not as what there is."""

    rows: int = 0
    live: int = 0
    chunks: int = 0
    deltas: int = 0
    faults: dict[str, list[str]] = field(default_factory=dict)

    def add(self, faults: Mapping[str, Sequence[str]]) -> None:
        for kind, subjects in faults.items():
            if subjects:
                self.faults.setdefault(kind, []).extend(subjects)

    @property
    def told(self) -> tuple[Fault, ...]:
        return tuple(
            Fault(kind=kind, count=len(each), what=describe(kind, len(each)), examples=tuple(each[:EXAMPLES]))
            for kind, each in sorted(self.faults.items())
        )

    def keep(self, other: _Found) -> None:
        """Keep what the other pass has found as well."""
        for kind in list(self.faults):
            again = set(other.faults.get(kind, ()))
            self.faults[kind] = [each for each in self.faults[kind] if each in again]
            if not self.faults[kind]:
                del self.faults[kind]


async def verify(
    parts: Parts, collections: Collection[str] = (), *, repair: bool = False, allow_deletes: bool = False
) -> dict[str, Verified]:
    """Hold index, ledger and store against each other, in the collections named or in all.

    With `repair`, what can be mended is: chunks whose rows are missing or wrong wait for the next run, and rows that no
    chunk stands behind are taken out, unless they are so many that this is doubtful and `allow_deletes` is not given.

    Raises:
        NotFound: there is no collection of that name.

    """
    await require_known(parts, collections)
    done = {}
    for name in collections or await known_collections(parts):
        began = parts.monotonic()
        found = await _find(parts, name)
        mended = None
        if repair and found.faults:
            mended = await _repair(parts, name, found, allow_deletes=allow_deletes)
        done[name] = Verified(
            rows=found.rows,
            chunks=found.chunks,
            deltas=found.deltas,
            seconds=parts.monotonic() - began,
            faults=tuple(
                Fault(
                    kind=kind,
                    count=len(each),
                    what=describe(kind, len(each)),
                    examples=tuple(each[:EXAMPLES]),
                )
                for kind, each in sorted(found.faults.items())
            ),
            mended=mended,
        )
    return done


async def look_through(parts: Parts, collection: str, *, rows: bool) -> tuple[Fault, ...]:
    """Look for what is wrong with a collection; without `rows`, only for what can be seen without reading them."""
    return (await _find(parts, collection, rows=rows)).told


async def known_collections(parts: Parts) -> list[str]:
    """Name every collection that the store or the ledger knows of."""
    names = {collection for collection, _ in await parts.ledger.chunks.counts()}
    for folder in await parts.store.folders(""):
        if {"index", "delta"} & set(await parts.store.folders(folder)):
            names.add(folder)
    return sorted(names)


async def require_known(parts: Parts, collections: Collection[str]) -> None:
    """Refuse a name that is no collection's.

    Raises:
        NotFound: there is no collection of that name.

    """
    known = await known_collections(parts)
    for name in collections:
        if name not in known:
            there = (
                f"there are: {', '.join(known)}"
                if known
                else "nothing was indexed yet; `flowbed run` does it"
            )
            message = f"no collection is called {name!r}; {there}"
            raise NotFound(message)


def describe(kind: str, count: int) -> str:
    """Say in words what a number of faults of a kind means."""
    thing = THINGS.get(kind, "row")
    plural = {"index": "indexes"}.get(thing, f"{thing}s")
    return f"{count:,} {thing if count == 1 else plural} {MEANINGS[kind]}"


async def _find(parts: Parts, collection: str, *, rows: bool = True) -> _Found:
    """Look for everything that is wrong with a collection, or for all that needs no look at its rows."""
    found = _Found()
    try:
        live = await live_collection(parts.store, collection)
    except Misconfigured:
        found.add({SPACE: [collection]})
        return found
    with contextlib.suppress(Misconfigured, Rejected, Transient):  # what cannot be opened is told below
        if live is not None:
            await catch_up(parts, live)  # rows that a rollback has put back are no fault
    if live is None and await parts.store.folders(f"{collection}/index"):
        found.add({SPACE: [collection]})
        return found
    try:
        found = await _compare(parts, collection, live) if rows else found
        await opened(live, datasets=parts.datasets)
    except Misconfigured as error:
        found.add({UNFIT: [str(error)]})
    except (Rejected, Transient) as error:
        found.add({UNREADABLE: [str(error)]})
    await _deltas(parts, collection, live, found, read=rows)
    found.add({TEXT_LOST: [name async for name in _lost(parts, collection)]})
    return found


async def _compare(parts: Parts, collection: str, live: Live | None) -> _Found:
    """Compare the index with the ledger, as often as it takes to tell what is wrong from what is being committed."""
    found, quiet = await _compared(parts, collection, live)
    for _ in range(PASSES - 1):
        if quiet or not found.faults:
            break
        again, quiet = await _compared(parts, collection, live)
        found.keep(again)
    return found


async def _compared(parts: Parts, collection: str, live: Live | None) -> tuple[_Found, bool]:
    """Compare one version of the index with the ledger; tell also whether that is still the newest afterwards."""
    found = _Found()
    # The index first: what is committed after this is told from what is wrong by looking once more.
    dataset = await opened(live, datasets=parts.datasets)
    expected = Expected()
    async for marks in parts.ledger.chunks.marks(collection):
        expected.add(marks)
        found.chunks += len(marks)
    expected.sort()
    if live is not None and dataset is not None:
        reached(STAGE, stage="verify", source=collection, total=dataset.count_rows())
        async for some in compare(dataset, live, expected):
            found.rows += some.rows
            found.live += some.live
            found.add(some.faults)
            reached(PROGRESS, stage="verify", done=some.rows)
    if ((expected.kinds == agreement.MUST) & ~expected.present).any():
        async for marks in parts.ledger.chunks.marks(collection):
            found.add({agreement.MISSING: expected.missing(marks)})
    now = await opened(live, datasets=parts.datasets)
    if dataset is None or now is None:
        return found, dataset is now
    return found, bool(dataset.version == now.version)


async def _deltas(
    parts: Parts, collection: str, live: Live | None, found: _Found, *, read: bool = True
) -> None:
    """Hold every delta that lies in the store against its run, and every run that waits against its delta."""
    there = set()
    async for listed in parts.store.list(f"{collection}/delta"):
        there.add(listed.key)
        run = await parts.ledger.runs.get(run_of(listed.key))
        if run is None or run.key != listed.key:
            continue  # laid down by a run that was killed before it was recorded: `flowbed gc` looks after it
        found.deltas += 1
        if read and await _digest(parts, listed.key) != run.sha256:
            found.add({DELTA_DAMAGED: [run.id]})
    for run in await waiting_runs(parts, collection):
        # It may have been laid down since the store was listed.
        if run.key not in there and not await _digest(parts, run.key):
            found.add({DELTA_MISSING: [run.id]})
        elif live is not None and Space.from_json(run.space).fingerprint != live.space.fingerprint:
            found.add({DELTA_SPACE: [run.id]})


async def waiting_runs(parts: Parts, collection: str) -> list[RunRow]:
    """Read the runs of a collection whose deltas will be needed: pending and reverted ones."""
    runs = await parts.ledger.runs.pending(collection, limit=RUNS)
    for name in await parts.ledger.runs.reverted(collection):
        run = await parts.ledger.runs.get(name)
        if run is not None:
            runs.append(run)
    return runs


def run_of(key: str) -> str:
    """Name the run that a delta's key stands for."""
    return key.split("/")[2]


async def _digest(parts: Parts, key: str) -> str:
    digest = hashlib.sha256()
    try:
        async for piece in parts.store.stream(key):
            digest.update(piece)
    except NotFound:
        return ""
    return digest.hexdigest()


async def _lost(parts: Parts, collection: str) -> AsyncIterator[str]:
    """Name the chunks of a collection that wait, and whose texts are lost."""
    now = parts.clock()
    async for batches in parts.ledger.chunks.batches(WAITING, now=now, sources=()):
        for batch in batches:
            if batch:
                rows = await parts.ledger.chunks.ready(batch, WAITING, now=now, sources=())
                mine = [row for row in rows if row.collection == collection and not row.deleted]
                _, lost = await read_passages(mine, store=parts.store, ledger=parts.ledger)
                for each in lost:
                    yield each.row.id


async def _repair(parts: Parts, collection: str, found: _Found, *, allow_deletes: bool) -> Mended:
    notes: list[str] = []
    if {SPACE, UNFIT, UNREADABLE} & set(found.faults):
        withheld = await _readable(parts, collection, notes, allow_deletes=allow_deletes)
        if withheld:
            return Mended(withheld=withheld)
        # Only now can its rows be looked at.
        once_more = await _find(parts, collection)
        more = await _repair(parts, collection, once_more, allow_deletes=allow_deletes)
        return replace(more, notes=(*notes, *more.notes))
    live = await live_collection(parts.store, collection)
    waiting, deltas = await _mend_deltas(parts, collection, found)
    faults = {kind: list(dict.fromkeys(ids)) for kind, ids in found.faults.items()}
    again = list(dict.fromkeys(each for kind in AGAIN for each in faults.get(kind, ())))
    # The ledger first: a row that is gone while its chunk counts as indexed would be looked for by nobody.
    waiting += await parts.ledger.chunks.requeue(collection, again, now=parts.clock())
    if live is not None and faults.get(agreement.DOUBLED):
        await keep_newest(live, faults[agreement.DOUBLED], datasets=parts.datasets)
    gone = list(dict.fromkeys(each for kind in REMOVED for each in faults.get(kind, ())))
    withheld = ""
    unknown = faults.get(agreement.UNKNOWN, [])
    if unknown and (not found.chunks or doubtful(len(unknown), found.live)) and not allow_deletes:
        withheld = (
            f"{len(unknown):,} of {found.live:,} rows of {collection} are of no chunk that the ledger knows, and are"
            " kept: `flowbed run` takes over those whose documents the sources still have; if the others are to go,"
            " verify again with --repair --allow-deletes"
        )
    else:
        gone += unknown
    if live is not None and gone:
        await remove_rows(live, gone, datasets=parts.datasets)
    await _restore_texts(parts)
    return Mended(waiting=waiting, removed=len(gone), deltas=deltas, notes=tuple(notes), withheld=withheld)


def doubtful(unknown: int, live: int) -> bool:
    """Tell whether so many rows would go that this is more often a mistake than a wish."""
    return unknown >= GUARDED_COUNT and unknown > GUARDED_SHARE * live


async def _readable(parts: Parts, collection: str, notes: list[str], *, allow_deletes: bool) -> str:
    """Make a collection's space known and its index one that can be read and committed to; say why not, if not."""
    try:
        live = await live_collection(parts.store, collection)
    except Misconfigured:
        live = None
    if live is None:
        space = await _space_of(parts, collection)
        if space is None:
            return (
                f"no run of this ledger tells which space {collection} lives in: put its active.json back, or remove"
                f" {collection}/index from the store and verify again"
            )
        await parts.store.delete([f"{collection}/{ACTIVE}"])
        live = await begin_space(parts.store, collection, space, now=parts.clock())
        notes.append(f"{collection}/active.json was written anew, for space {space.space8}")
    try:
        if await rebuild(live, datasets=parts.datasets):
            notes.append(f"the index of {collection} was written anew")
        await _compared(parts, collection, live)
    except (Rejected, Transient) as error:
        if not allow_deletes:
            return (
                f"the index of {collection} cannot be read ({error}); if that does not pass, verify with --repair"
                " --allow-deletes, which drops it for the next run to make anew"
            )
        await parts.store.delete([listed.key async for listed in parts.store.list(live.key)])
        notes.append(f"the index of {collection} was dropped")
    return ""


async def _space_of(parts: Parts, collection: str) -> Space | None:
    """Find the space of a collection: that of its newest run whose index is there, or of its newest run at all."""
    there = set(await parts.store.folders(f"{collection}/index"))
    spaces = [
        Space.from_json(run.space)
        for run in await parts.ledger.runs.recent(limit=RUNS)
        if run.collection == collection
    ]
    held = [space for space in spaces if f"{space.space8}.lance" in there]
    return next(iter(held), None if there else next(iter(spaces), None))


async def _mend_deltas(parts: Parts, collection: str, found: _Found) -> tuple[int, int]:
    """Send the chunks of runs round again whose delta cannot be merged; count these, and the deltas."""
    waiting, pending = 0, {run.id for run in await parts.ledger.runs.pending(collection, limit=RUNS)}
    mended = 0
    for kind in (DELTA_MISSING, DELTA_DAMAGED, DELTA_SPACE):
        for name in found.faults.get(kind, ()):
            run = await parts.ledger.runs.get(name)
            if run is None or run.state == "reverted":
                continue  # its release finds out the same, and makes it a dead letter
            if name in pending:
                await parts.ledger.runs.refuse(name, reason=f"repaired: its delta was {kind}")
                waiting += await parts.ledger.chunks.retry([name], now=parts.clock())
            if kind == DELTA_DAMAGED:
                await parts.store.delete([run.key])
            mended += 1
    return waiting, mended


async def _restore_texts(parts: Parts) -> None:
    """Let the documents of chunks that wait, and whose texts are lost, be read again by the next run."""
    now = parts.clock()
    async for batches in parts.ledger.chunks.batches(WAITING, now=now, sources=()):
        for batch in filter(None, batches):
            rows = await parts.ledger.chunks.ready(batch, WAITING, now=now, sources=())
            _, lost = await read_passages(
                [row for row in rows if not row.deleted], store=parts.store, ledger=parts.ledger
            )
            if lost:
                await _fail(parts, batch, {(each.row.collection, each.row.id): each.reason for each in lost})


async def _fail(parts: Parts, batch: str, reasons: Mapping[tuple[str, str], str]) -> None:
    """Make chunks FAILED, as a run does that finds their texts lost: a fetch then writes them anew."""
    now = parts.clock()
    try:
        rows = await parts.ledger.chunks.claim(
            batch, WAITING, worker=parts.worker, now=now, until=now + CLAIM, sources=(), limit=RUNS
        )
        lost = [row for row in rows if (row.collection, row.id) in reasons]
        await read_again(lost, parts)
        await parts.ledger.chunks.fail(
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
            worker=parts.worker,
        )
    finally:
        await parts.ledger.chunks.release(parts.worker)
