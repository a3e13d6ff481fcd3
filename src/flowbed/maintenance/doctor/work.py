"""Checks of the work that runs left: uncommitted, waiting, claimed and failed chunks."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from flowbed.lanes.claims import WAITING
from flowbed.ledger.rows import WITHHELD
from flowbed.ledger.workers import TASK
from flowbed.maintenance.compare import known_collections
from flowbed.maintenance.doctor.findings import Finding, check, named
from flowbed.maintenance.failed import REPEATED, failed_chunks, fails_repeatedly
from flowbed.maintenance.inspect import withheld_deletions
from flowbed.pipeline.delta_registry import registered
from flowbed.records import Status
from flowbed.records.external import is_external
from flowbed.records.precomputed import is_precomputed
from flowbed.records.values import count
from flowbed.records.written import is_documents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.lanes.contexts import Context
    from flowbed.ledger import DeadLetter, Ledger

# A run commits a delta within seconds and embeds what it fetched within minutes; later than this, it is not running.
COMMIT_WITHIN = timedelta(minutes=10)
EMBED_WITHIN = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
RUNS = 50_000  # read at once; a collection rarely has more than ten that are pending


@check("runs")
async def _runs(context: Context) -> AsyncIterator[Finding]:
    late = context.clock() - COMMIT_WITHIN // MICROSECOND
    for name in await context.ledger.runs.collections():
        pending = [run for run in await context.ledger.runs.pending(name, limit=RUNS) if run.created < late]
        if pending:
            yield Finding(
                severity="warning",
                subject=name,
                what=f"{count(len(pending), 'run')} with {count(sum(run.rows for run in pending), 'row')} embedded,"
                " but not committed",
                fix="flowbed run",
            )
    for name in await known_collections(context):
        if reverted := await context.ledger.runs.reverted(name):
            yield Finding(
                severity="note",
                subject=name,
                what=f"{count(len(reverted), 'run')} left out since a rollback",
                fix=f"flowbed rollback {name} --release",
            )


@check("waiting")
async def _waiting(context: Context) -> AsyncIterator[Finding]:
    if not all(map(context.dead, await context.ledger.chunks.workers())):
        return  # a run is working, and may be for hours
    now = context.clock()
    late = now - EMBED_WITHIN // MICROSECOND
    waiting, undeleted = 0, Counter[str]()
    async for batches in context.ledger.chunks.batches(WAITING, now=now, sources=()):
        for batch in batches:
            for row in await context.ledger.chunks.ready(batch, WAITING, now=now, sources=()):
                # A version is the time at which the chunk was last queued.
                known = (
                    row.source in context.sources
                    or is_precomputed(row.source)
                    or is_external(row.source)
                    or is_documents(row.source)
                )
                waiting += row.version < late and known
                undeleted[row.source] += row.deleted and not known
    for name, number in sorted((+undeleted).items()):
        yield Finding(
            severity="warning",
            subject=name,
            what=f"no source of this project has this name any more, but {count(number, 'chunk')} of it are not"
            " deleted yet",
            fix=f"flowbed run {name} --allow-deletes",
        )
    if waiting:
        hours = count(EMBED_WITHIN // timedelta(hours=1), "hour")
        yield Finding(
            severity="warning",
            subject="chunks",
            what=f"{count(waiting, 'chunk')} fetched more than {hours} ago, but not embedded",
            fix="flowbed run",
        )


@check("deltas")
async def _deltas(context: Context) -> AsyncIterator[Finding]:
    if waiting := await registered(context):
        yield Finding(
            severity="warning",
            subject=named(waiting),
            what=f"{count(len(waiting), 'delta')} of other producers registered, but not committed",
            fix="flowbed deltas add",
        )


@check("claims")
async def _claims(context: Context) -> AsyncIterator[Finding]:
    ended = sorted(worker for worker in await context.ledger.chunks.workers() if context.dead(worker))
    pages = context.ledger.chunks.batches({Status.PENDING}, now=context.clock(), sources=())
    if ended or [batch async for page in pages for batch in page]:
        worker = f"{named(ended)}, which has ended" if ended else "a worker that stopped renewing its claims"
        yield Finding(
            severity="warning", subject="chunks", what=f"chunks are claimed by {worker}", fix="flowbed run"
        )


@check("failed")
async def _failed(context: Context) -> AsyncIterator[Finding]:
    known = {(letter.owner, letter.subject) for letter in await _dead_letters(context.ledger)}
    forgotten, again = [], []
    async for rows in failed_chunks(context):
        forgotten += [
            row.id
            for row in rows
            if row.failure != "transient"
            and not {(row.collection, row.id), (row.collection, row.run)} & known
        ]
        again += list(filter(fails_repeatedly, rows))
    if forgotten:
        yield Finding(
            severity="error",
            subject="chunks",
            what=f"{count(len(forgotten), 'chunk')} failed without a dead letter: {named(forgotten)}",
            fix="flowbed run --status FAILED",
        )
    if again:
        last = max(again, key=lambda row: row.attempts)
        yield Finding(
            severity="warning",
            subject=named([row.id for row in again]),
            what=f"{count(len(again), 'chunk')} failed in {REPEATED} runs or more, for a reason that should have"
            f" passed; {last.id} in {last.attempts}: {last.error}",
            fix="flowbed run",
        )


@check("dead-letters")
async def _letters(context: Context) -> AsyncIterator[Finding]:
    letters = await _dead_letters(context.ledger)
    for kind, advice, fix in (
        ("chunk", "", "flowbed dead-letters retry; flowbed run"),
        ("run", "", "flowbed dead-letters retry; flowbed run"),
        ("source", "; once its document is fixed, a run reads it again", "flowbed run"),
        ("message", "; the message is in the queue's dead letters", "flowbed dead-letters retry"),
        ("record", "; the next compaction commits what it told of", "flowbed dead-letters retry"),
        ("delta", "; once its producer has written it again, add it again", "flowbed deltas add"),
        ("batch", "; once its producer has written it again, read it again", "flowbed dead-letters retry"),
        ("subscriber", "; once it answers again, send it again", "flowbed dead-letters retry"),
        (TASK, "; workers leave it alone until it is retried", "flowbed dead-letters retry"),
    ):
        if found := [letter for letter in letters if letter.kind == kind and letter.subject != WITHHELD]:
            names = [letter.subject for letter in found]
            yield Finding(
                severity="warning",
                subject=named(names),
                what=f"{count(len(found), 'dead letter')} of kind {kind}: {found[0].reason}{advice}",
                fix=" ".join([fix, *names]) if kind == "delta" else fix,
            )


@check("deletions")
async def _withheld(context: Context) -> AsyncIterator[Finding]:
    for name, reason in (await withheld_deletions(context)).items():
        yield Finding(
            severity="warning", subject=name, what=reason, fix=f"flowbed run {name} --allow-deletes"
        )


async def _dead_letters(ledger: Ledger) -> list[DeadLetter]:
    return [letter async for page in ledger.dead_letters.pages() for letter in page]
