"""Doctor: what is wrong or about to be, each with the command that mends it. It writes nothing but a probe."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from flowbed.errors import Error, Misconfigured, NotFound
from flowbed.index.active_space import live_collections
from flowbed.index.compaction import INDEX_ROWS, UNINDEXED, outgrown
from flowbed.index.lease import TTL
from flowbed.index.versions import state
from flowbed.lanes.batch.submission_status import overdue
from flowbed.lanes.claims import WAITING
from flowbed.maintenance.compare import known_collections
from flowbed.maintenance.gc import garbage
from flowbed.maintenance.inconsistencies import UNREADABLE
from flowbed.maintenance.verify import look_through
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from flowbed.lanes.contexts import Context, IndexContext, ModelContext, RunContext
    from flowbed.ledger import DeadLetter, Ledger

Severity = Literal["error", "warning", "note"]

# A run commits what it lays down within seconds, and embeds what it fetched within minutes; past this nobody is at it.
COMMIT_WITHIN = timedelta(minutes=10)
EMBED_WITHIN = timedelta(hours=1)
# A lease is renewed three times in its time to live; past so many of these no difference of clocks explains it.
SILENT = 10 * timedelta(seconds=TTL)
MICROSECOND = timedelta(microseconds=1)
# Up to so many chunks a collection is proved whole, in a second or so; of larger ones the ids are read, and counted.
PROVED = 50_000
# One compaction of a million rows writes about as much.
FREE_BYTES = 2**30
PROBE = "doctor-probe"
NAMED = 3  # subjects that a sentence names; the rest is counted


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong: what it is about, what it means, and the very command that mends it.

    `error` spoils searches or stops runs now, `warning` will, and `note` is for whoever did it to know.
    """

    check: str
    severity: Severity
    subject: str
    what: str
    mend: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What so many checks have found."""

    findings: tuple[Finding, ...]
    checks: int


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a project stands on, beside its parts.

    `store` is the path of a store in a folder, otherwise its address; `free` counts bytes; `cache` says why the vector
    cache cannot be read, and nothing where it can.
    """

    store: str
    free: Callable[[], int]
    cache: Callable[[], str]


async def examine(context: RunContext, place: Place) -> Diagnosis:
    """Carry out every check; one that fails is a finding of its own, and does not stop the others."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            findings += [found async for found in check(context, place)]
        except Error as error:
            what = f"it could not be checked: {error}"
            findings.append(
                Finding(check=name, severity="warning", subject=name, what=what, mend="flowbed doctor")
            )
    return Diagnosis(findings=tuple(findings), checks=len(CHECKS))


def untied(error: Misconfigured) -> Diagnosis:
    """Say what is wrong with a store that cannot be opened under its ledger."""
    found = Finding(
        check="tie",
        severity="error",
        subject="flowbed.json",
        what=str(error),
        mend="flowbed verify --repair; flowbed run",
    )
    return Diagnosis(findings=(found,), checks=1)


async def _store(context: Context, place: Place) -> AsyncIterator[Finding]:
    try:
        await context.store.put(PROBE, b"")
        await context.store.delete([PROBE])
    except Misconfigured as error:
        yield Finding(
            check="store",
            severity="error",
            subject=place.store,
            what=f"nothing can be written: {error}",
            mend="flowbed doctor" if "://" in place.store else f"chmod -R u+rwX '{place.store}'",
        )


async def _disk(context: Context, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001 - every check is called alike
    if (free := place.free()) < FREE_BYTES:
        yield Finding(
            check="disk",
            severity="warning",
            subject=place.store,
            what=f"{free / 1e9:,.2f} GB are free; a run that finds none ends, and loses nothing",
            mend="flowbed gc",
        )


async def _cache(context: Context, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    if fault := place.cache():
        yield Finding(
            check="cache",
            severity="warning",
            subject="vector cache",
            what=f"it cannot be read ({fault}): vectors that were paid for may be paid for again",
            mend="flowbed gc",
        )


async def _index(context: IndexContext, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    counts = await context.ledger.chunks.counts()
    for name in await known_collections(context):
        chunks = sum(number for (collection, _), number in counts.items() if collection == name)
        for fault in await look_through(context, name, rows=chunks <= PROVED):
            # An index that cannot be read is dropped, which is only done when that is said.
            how = "--repair --allow-deletes" if fault.kind == UNREADABLE else "--repair"
            yield Finding(
                check="index",
                severity="error",
                subject=name,
                what=f"{fault.what}: {fault.examples[0]}",
                mend=f"flowbed verify {name} {how}; flowbed run",
            )


async def _counts(context: IndexContext, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    """Count what is too much to be proved here: an index holds every chunk that is done, and at most all of them."""
    counts = await context.ledger.chunks.counts()
    for live in await live_collections(context.store):
        mine = {status: n for (collection, status), n in counts.items() if collection == live.collection}
        if sum(mine.values()) <= PROVED:
            continue
        rows = (await state(live, datasets=context.datasets)).rows
        done = mine.get(Status.SUCCESS, 0)
        if not done <= rows <= sum(mine.values()):
            yield Finding(
                check="counts",
                severity="error",
                subject=live.collection,
                what=f"the index has {rows:,} live rows, and the ledger {done:,} chunks that are in it",
                mend=f"flowbed verify {live.collection} --repair; flowbed run",
            )


async def _vector_index(context: IndexContext, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    for live in await live_collections(context.store):
        now = await state(live, datasets=context.datasets)
        if now.rows >= INDEX_ROWS and now.unindexed_rows > 2 * UNINDEXED:
            yield Finding(
                check="vector-index",
                severity="warning",
                subject=live.collection,
                what=f"{now.unindexed_rows:,} of {now.rows:,} rows are in no vector index: every search scans them",
                mend=f"flowbed compact {live.collection}",
            )
        if (there := await outgrown(live, datasets=context.datasets)) is not None:
            yield Finding(
                check="vector-index",
                severity="warning",
                subject=live.collection,
                what=f"the vector index was made for {there.settled:,} of the {there.rows:,} rows, and one of its"
                f" {there.partitions:,} partitions holds {there.largest:.0%} of them: searches may miss some",
                mend=f"flowbed compact {live.collection}",
            )


async def _runs(context: Context, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    late = context.clock() - COMMIT_WITHIN // MICROSECOND
    for name in await context.ledger.runs.collections():
        pending = [run for run in await context.ledger.runs.pending(name, limit=PROVED) if run.created < late]
        if pending:
            yield Finding(
                check="runs",
                severity="warning",
                subject=name,
                what=f"{_count(len(pending), 'run')} with {sum(run.rows for run in pending):,} rows embedded, and"
                " in no version yet",
                mend="flowbed run",
            )
    for name in await known_collections(context):
        if reverted := await context.ledger.runs.reverted(name):
            yield Finding(
                check="runs",
                severity="note",
                subject=name,
                what=f"{_count(len(reverted), 'run')} left out since a rollback",
                mend=f"flowbed rollback {name} --release",
            )


async def _waiting(context: Context, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    if not all(map(context.dead, await context.ledger.chunks.workers())):
        return  # a run is at it, and may be for hours
    now = context.clock()
    late = now - EMBED_WITHIN // MICROSECOND
    number = 0
    left: dict[str, int] = {}
    async for batches in context.ledger.chunks.batches(WAITING, now=now, sources=()):
        for batch in batches:
            rows = await context.ledger.chunks.ready(batch, WAITING, now=now, sources=())
            # A version is the time at which the chunk was last sent on its way.
            number += sum(1 for row in rows if row.version < late and row.source in context.sources)
            for row in rows:
                if row.deleted and row.source not in context.sources:
                    left[row.source] = left.get(row.source, 0) + 1
    for name, gone in sorted(left.items()):
        yield Finding(
            check="waiting",
            severity="warning",
            subject=name,
            what=f"no source of this project any more, and {_count(gone, 'chunk')} of it not deleted yet",
            mend=f"flowbed run {name} --allow-deletes",
        )
    if number:
        yield Finding(
            check="waiting",
            severity="warning",
            subject="chunks",
            what=f"{_count(number, 'chunk')} fetched more than {_hours(EMBED_WITHIN)} ago, and not embedded",
            mend="flowbed run",
        )


async def _claims(context: Context, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    ended = sorted(worker for worker in await context.ledger.chunks.workers() if context.dead(worker))
    expired = [
        batch
        async for page in context.ledger.chunks.batches({Status.PENDING}, now=context.clock(), sources=())
        for batch in page
    ]
    if ended or expired:
        whose = f"{_some(ended)}, which has ended" if ended else "a worker that has not been heard of since"
        yield Finding(
            check="claims",
            severity="warning",
            subject="chunks",
            what=f"chunks are held by {whose}",
            mend="flowbed run",
        )


async def _failed(context: Context, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    letters = await _letters(context.ledger)
    known = {(letter.owner, letter.subject) for letter in letters}
    forgotten = []
    async for page in context.ledger.chunks.batches({Status.FAILED}, now=context.clock(), sources=()):
        for batch in page:
            rows = await context.ledger.chunks.ready(batch, {Status.FAILED}, now=context.clock(), sources=())
            forgotten += [
                row.id
                for row in rows
                if row.failure != "transient"
                and not {(row.collection, row.id), (row.collection, row.run)} & known
            ]
    if forgotten:
        yield Finding(
            check="failed",
            severity="error",
            subject="chunks",
            what=f"{_count(len(forgotten), 'chunk')} failed, of which no dead letter tells: {_some(forgotten)}",
            mend="flowbed run --status FAILED",
        )


async def _dead_letters(context: Context, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    letters = await _letters(context.ledger)
    for kind, advice, mend in (
        ("chunk", "", "flowbed dead-letters retry; flowbed run"),
        ("run", "", "flowbed dead-letters retry; flowbed run"),
        ("source", "; once its document is mended, a run reads it again", "flowbed run"),
    ):
        if mine := [letter for letter in letters if letter.kind == kind]:
            yield Finding(
                check="dead-letters",
                severity="warning",
                subject=_some([letter.subject for letter in mine]),
                what=f"{_count(len(mine), 'dead letter')} of kind {kind}: {mine[0].reason}{advice}",
                mend=mend,
            )


async def _leases(context: Context, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    for name in await known_collections(context):
        if stuck := await _stuck(context, name, f"{name}/lease.json"):
            yield Finding(
                check="lease",
                severity="warning",
                subject=f"{name}/lease.json",
                what=f"the lease of {name} was never given back: {stuck}",
                mend=f"flowbed compact {name}",
            )


async def _stuck(context: Context, collection: str, key: str) -> str:
    """Say why a lease will not be given back any more; nothing, where it may be, or was."""
    try:
        said = json.loads((await context.store.get(key)).body)
        owner, released = str(said["owner"]), bool(said["released"])
    except NotFound:
        return ""
    except (ValueError, KeyError, TypeError):
        return "it cannot be read"
    if released:
        return ""
    if context.dead(owner):
        return f"{owner} has ended"
    # Of another host nothing is known but when it was last heard of. A store lists folders, not single objects.
    renewed = [listed.modified async for listed in context.store.list(collection) if listed.key == key]
    silent = (context.clock() - max(renewed, default=context.clock())) * MICROSECOND
    if silent < SILENT:
        return ""
    return f"{owner} has not been heard of for {_count(silent // timedelta(minutes=1), 'minute')}"


async def _sources(context: Context, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    for name in await context.store.folders(""):
        if name in context.sources or "chunked" not in await context.store.folders(name):
            continue
        if number := await context.ledger.documents.count(name):
            yield Finding(
                check="sources",
                severity="warning",
                subject=name,
                what=f"no source of this project any more, and {_count(number, 'document')} of it found by searches",
                mend=f"flowbed run {name} --allow-deletes",
            )


async def _submissions(context: ModelContext, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    rows = [row async for page in context.ledger.submissions.pages(live=True) for row in page]
    if not rows:
        return
    embedder, api = await asyncio.to_thread(context.embedder), await asyncio.to_thread(context.batch_api)
    for each in overdue(
        rows,
        space=embedder.space.to_json(),
        terms=None if api is None else api.terms,
        now=context.clock(),
        dead=context.dead,
    ):
        yield Finding(
            check="submissions",
            severity="warning",
            subject=f"submission {each.submission}",
            what=each.what,
            mend=each.mend,
        )


async def _batch_api(context: ModelContext, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    rows = [row async for page in context.ledger.submissions.pages(live=True) for row in page]
    if not rows:
        return  # nobody is asked for anything that nothing waits for
    try:
        api = await asyncio.to_thread(context.batch_api)
        if api is not None:
            mine = [row for row in rows if row.account == api.terms.account]
            known = next((row.job for row in mine if row.job), "")
            if known:
                await api.look(known)
            elif mine:
                await api.find(mine[0].id)
    except NotFound:
        return  # the provider answers; a poll says what is to be done about the job
    except Misconfigured as error:
        yield Finding(
            check="batch-api",
            severity="error",
            subject=f"{_count(len(rows), 'submission')}",
            what=f"the provider's Batch API refuses: {error}",
            mend="flowbed run",
        )


async def _orphans(context: IndexContext, place: Place) -> AsyncIterator[Finding]:  # noqa: ARG001
    found = [each async for each in garbage(context) if each.orphan]
    if found:
        size = sum(each.bytes for each in found)
        yield Finding(
            check="orphans",
            severity="warning",
            subject=_some([each.key for each in found]),
            what=f"{size / 1e6:,.1f} MB in the store that belong to nothing: {found[0].why}",
            mend="flowbed gc",
        )


CHECKS: dict[str, Callable[[RunContext, Place], AsyncIterator[Finding]]] = {
    "store": _store,
    "disk": _disk,
    "cache": _cache,
    "index": _index,
    "counts": _counts,
    "vector-index": _vector_index,
    "runs": _runs,
    "waiting": _waiting,
    "claims": _claims,
    "failed": _failed,
    "dead-letters": _dead_letters,
    "lease": _leases,
    "sources": _sources,
    "submissions": _submissions,
    "batch-api": _batch_api,
    "orphans": _orphans,
}


async def _letters(ledger: Ledger) -> list[DeadLetter]:
    return [letter async for page in ledger.dead_letters.pages() for letter in page]


def _some(subjects: Sequence[str]) -> str:
    rest = len(subjects) - NAMED
    return ", ".join(subjects[:NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _hours(span: timedelta) -> str:
    return _count(span // timedelta(hours=1), "hour")
