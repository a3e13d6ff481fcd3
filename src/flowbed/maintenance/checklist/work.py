"""The stages of the work: sources, batch files, embedding, deltas, and the commit of runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from flowbed.index.commit import is_stale
from flowbed.lanes.batch.in_flight import live_submissions
from flowbed.lanes.batch_files import read_chunk_texts
from flowbed.lanes.claims import WAITING
from flowbed.ledger.rows import WITHHELD
from flowbed.maintenance.checklist.items import Item, findings, stage
from flowbed.maintenance.compare import known_collections, run_of, waiting_runs
from flowbed.maintenance.doctor.findings import named
from flowbed.maintenance.doctor.work import COMMIT_WITHIN, MICROSECOND
from flowbed.maintenance.inspect import sources
from flowbed.pipeline.delta_registry import SOURCE, registered
from flowbed.records import Status
from flowbed.records.precomputed import is_precomputed
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.ledger import ChunkRow, DeadLetter, RunRow
    from flowbed.maintenance.checklist.items import ChecklistContext

# Batch files with waiting chunks that are read: some hundred megabytes.
BATCHES = 200
RETRY = "flowbed dead-letters retry; flowbed run"


@stage(
    "sources",
    how="the ledger's record of each source: its last complete fetch, its documents, its dead letters",
    unused="flowbed.toml names no source",
)
async def _sources(context: ChecklistContext) -> AsyncIterator[Item]:
    letters = await _letters(context, "source")
    found_by_doctor = await findings(context, "sources")
    faulty = {item.subject for item in found_by_doctor}
    for each in await sources(context):
        if is_precomputed(each.name) or not each.configured or each.name in faulty:
            continue
        found = f"{count(each.documents, 'document')} fetched"
        figures = {"documents": each.documents, "dead_letters": len(letters[each.name])}
        withheld = [letter for letter in letters[each.name] if letter.subject == WITHHELD]
        if withheld:
            yield Item(
                subject=each.name,
                state="failed",
                found=f"{found}; deletions are withheld: {withheld[0].reason}",
                figures=figures,
                fix=f"flowbed run {each.name} --allow-deletes",
            )
        elif letters[each.name]:
            first = letters[each.name][0]
            yield Item(
                subject=each.name,
                state="failed",
                found=f"{found}, {count(len(letters[each.name]), 'dead letter')}: {first.subject}: {first.reason}",
                figures=figures,
                fix=f"flowbed run {each.name}",
            )
        elif not each.fetched:
            yield Item(
                subject=each.name,
                state="waiting",
                found="it was not fetched yet",
                figures=figures,
                fix=f"flowbed run {each.name}",
            )
        else:
            yield Item(subject=each.name, state="ok", found=found, figures=figures)
    for item in found_by_doctor:
        yield item


@stage(
    "batch files",
    how=f"the batch files of waiting chunks, at most {BATCHES}, are read and compared with the chunks' hashes",
    unused="no chunk waits to be embedded, so no batch file is needed",
)
async def _batch_files(context: ChecklistContext) -> AsyncIterator[Item]:
    now = context.clock()
    files, waiting = Counter[str](), Counter[str]()
    lost = defaultdict[str, list["ChunkRow"]](list)
    async for batches in context.ledger.chunks.batches(WAITING, now=now, sources=()):
        for batch in filter(None, batches):
            if files.total() >= BATCHES:
                break
            rows = await context.ledger.chunks.ready(batch, WAITING, now=now, sources=())
            live = [row for row in rows if not row.deleted]
            _, gone = await read_chunk_texts(live, store=context.store, ledger=context.ledger)
            for name in {row.collection for row in live}:
                files[name] += 1
            waiting.update(row.collection for row in live)
            for each in gone:
                lost[each.row.collection].append(each.row)
    for name in sorted(files):
        figures = {"files": files[name], "chunks": waiting[name], "lost": len(lost[name])}
        found = f"{count(waiting[name], 'waiting chunk')} in {count(files[name], 'batch file')}"
        if not lost[name]:
            yield Item(subject=name, state="ok", found=found, figures=figures)
            continue
        yield Item(
            subject=name,
            state="failed",
            found=f"{found}; the texts of {count(len(lost[name]), 'chunk')} are lost with their batch file:"
            f" {named([row.id for row in lost[name]])}",
            figures=figures,
            fix=f"flowbed verify {name} --repair; flowbed run",
        )


@stage(
    "embedded",
    how="the ledger's chunks are counted by state",
    unused="no chunk is known: nothing was fetched",
)
async def _embedded(context: ChecklistContext) -> AsyncIterator[Item]:
    letters = await _letters(context, "chunk")
    counts = defaultdict[str, Counter[Status]](Counter)
    for (name, status), number in (await context.ledger.chunks.counts()).items():
        counts[name][status] += number
    for name, states in sorted(counts.items()):
        figures = {status.value.lower(): number for status, number in sorted(states.items())}
        indexed = states[Status.SUCCESS] + states[Status.REVERTED] + states[Status.SKIPPED]
        found = f"{indexed:,} of {count(states.total(), 'chunk')} embedded and committed"
        left = states.total() - indexed
        if letters[name]:
            yield Item(
                subject=name,
                state="failed",
                found=f"{found}, {count(len(letters[name]), 'dead letter')}: {letters[name][0].reason}",
                figures=figures,
                fix=RETRY,
            )
        elif left:
            yield Item(
                subject=name,
                state="waiting",
                found=f"{found}; {states[Status.NONE]:,} wait to be embedded, {states[Status.PENDING]:,} are under"
                f" way, {states[Status.FAILED]:,} are tried again",
                figures=figures,
                fix="flowbed run",
            )
        else:
            yield Item(subject=name, state="ok", found=found, figures=figures)
    for item in await findings(context, "waiting", "failed"):
        yield item


@stage(
    "submissions",
    how="the ledger's submissions are compared with their deadlines; the provider is not asked",
    unused="nothing is at a provider's Batch API",
)
async def _submissions(context: ChecklistContext) -> AsyncIterator[Item]:
    overdue = await findings(context, "submissions")
    for item in overdue:
        yield item
    if not overdue and (rows := await live_submissions(context.ledger)):
        texts = sum(row.texts for row in rows)
        yield Item(
            subject=named([row.id for row in rows]),
            state="waiting",
            found=f"{count(len(rows), 'submission')} with {count(texts, 'text')} at the provider",
            figures={"submissions": len(rows), "texts": texts},
            fix="flowbed submissions poll",
        )


@stage(
    "deltas",
    how="workers that hold chunks are checked for being alive; the store lists the delta of every run to be committed",
    unused="nothing was embedded since the last commit",
)
async def _deltas(context: ChecklistContext) -> AsyncIterator[Item]:
    ended = await findings(context, "claims")
    for item in ended:
        yield Item(
            subject=item.subject,
            state="failed",
            found=f"{item.found}, and no delta has their vectors",
            fix=item.fix,
        )
    if not ended and (workers := await context.ledger.chunks.workers()):
        yield Item(
            subject="chunks",
            state="waiting",
            found=f"{count(len(workers), 'worker')} at work on chunks without a delta: {named(sorted(workers))}",
            figures={"workers": len(workers)},
        )
    for name in await known_collections(context):
        runs = [
            run for run in await waiting_runs(context.ledger, name) if not is_stale(run, now=context.clock())
        ]
        if not runs:
            continue
        stored = {run_of(each.key) async for each in context.store.list(f"{name}/delta")}
        missing = [run.id for run in runs if run.id not in stored]
        figures = {"runs": len(runs), "missing": len(missing), "rows": sum(run.rows for run in runs)}
        if missing:
            yield Item(
                subject=name,
                state="failed",
                found=f"the store lacks {count(len(missing), 'delta')} of {count(len(runs), 'run')} to be committed:"
                f" {named(missing)}",
                figures=figures,
                fix=f"flowbed verify {name} --repair; flowbed run",
            )
        else:
            yield Item(
                subject=name,
                state="ok",
                found=f"{count(len(runs), 'delta')} with {count(figures['rows'], 'row')}",
                figures=figures,
            )


@stage(
    "deltas of others",
    how="the ledger's registered deltas of other producers, and the dead letters of those that were refused",
    unused="no delta of another producer was ever added",
)
async def _producer_deltas(context: ChecklistContext) -> AsyncIterator[Item]:
    waiting = await registered(context)
    letters = await _letters(context, "delta")
    known = await context.ledger.documents.count(SOURCE)
    for name, refused in sorted(letters.items()):
        keys = " ".join(letter.subject for letter in refused)
        yield Item(
            subject=name,
            state="failed",
            found=f"{count(len(refused), 'delta')} refused, {refused[0].subject}: {refused[0].reason}; once its"
            " producer has written it again, add it again",
            figures={"refused": len(refused)},
            fix=f"flowbed deltas add {keys}",
        )
    if waiting:
        yield Item(
            subject=named(waiting),
            state="waiting",
            found=f"{count(len(waiting), 'delta')} registered, but not committed",
            figures={"registered": len(waiting)},
            fix="flowbed deltas add",
        )
    elif known and not letters:
        found = f"{count(known, 'delta')} converted"
        yield Item(subject="deltas", state="ok", found=found, figures={"converted": known})


@stage(
    "commit",
    how=f"the ledger's runs that no version of the index holds; later than {COMMIT_WITHIN.seconds // 60} minutes, or if"
    " its worker has ended, a run is late",
    unused="no run has written a delta",
)
async def _commit(context: ChecklistContext) -> AsyncIterator[Item]:
    late = context.clock() - COMMIT_WITHIN // MICROSECOND
    refused = await _letters(context, "run")
    for name in await known_collections(context):
        runs = await waiting_runs(context.ledger, name)
        pending = [run for run in runs if run.state == "pending"]
        reverted = len(runs) - len(pending)
        stuck = [run for run in pending if run.created < late or context.dead(run.worker)]
        rows = sum(run.rows for run in pending)
        figures = {"pending": len(pending), "rows": rows, "late": len(stuck), "reverted": reverted}
        if refused[name]:
            yield Item(
                subject=name,
                state="failed",
                found=f"{count(len(refused[name]), 'run')} refused: {refused[name][0].reason}",
                figures=figures,
                fix=RETRY,
            )
        elif pending:
            yield _pending(name, stuck=stuck, figures=figures)
        else:
            aside = f"; a rollback left {count(reverted, 'run')} out" if reverted else ""
            yield Item(subject=name, state="ok", found=f"no run is left to commit{aside}", figures=figures)


def _pending(name: str, *, stuck: list[RunRow], figures: dict[str, int]) -> Item:
    what = (
        f"{count(figures['pending'], 'run')} with {count(figures['rows'], 'row')} embedded, but not committed"
    )
    if not stuck:
        return Item(subject=name, state="waiting", found=what, figures=figures, fix="flowbed run")
    return Item(
        subject=name,
        state="failed",
        found=f"{what}; nobody is committing {named([run.id for run in stuck])}",
        figures=figures,
        fix="flowbed run",
    )


async def _letters(context: ChecklistContext, kind: str) -> defaultdict[str, list[DeadLetter]]:
    """Return the dead letters of a kind, by source or collection."""
    found = defaultdict[str, list["DeadLetter"]](list)
    async for page in context.ledger.dead_letters.pages():
        for letter in page:
            if letter.kind == kind:
                found[letter.owner].append(letter)
    return found
