"""Describes the state of a project, and explains that of a single chunk or document."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flowbed.errors import Damaged, NotFound
from flowbed.index.active_space import readable_collections
from flowbed.index.datasets import FileMissing
from flowbed.index.forgotten import read_blocked
from flowbed.index.versions import last_written, state
from flowbed.lanes.batch.in_flight import live_submissions
from flowbed.lanes.batch.submission_status import describe
from flowbed.ledger.rows import WITHHELD
from flowbed.maintenance.failed import failed_chunks, fails_repeatedly
from flowbed.maintenance.forget.request import RECEIPTS
from flowbed.maintenance.unlisted import why_unlisted
from flowbed.records import Status
from flowbed.records.precomputed import is_precomputed, precomputed_source

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from flowbed.lanes.contexts import Context, IndexContext
    from flowbed.ledger import BatchRow, ChunkRow, RunRow, SubmissionRow
    from flowbed.pipeline import ConfiguredSource


@dataclass(frozen=True, kw_only=True)
class CollectionStatus:
    """The state of one collection; `space` is the first 8 digits of its live space's fingerprint.

    `updated` is when its newest version was written (µs since 1970), 0 if that is unknown.
    """

    rows: int
    unindexed_rows: int
    version: int
    space: str
    updated: int = 0


@dataclass(frozen=True, kw_only=True)
class BedStatus:
    """The state of a project: `chunks` counts by status, `pending` lists collections with uncommitted runs.

    `submissions` are the live ones. `withheld` says, by source, why deletions were not carried out. `repeated` counts
    the chunks that failed in several runs for reasons that should have passed. `empty` names sources that were fetched
    and list no documents, and what says why. `unreadable` says, by collection, what is wrong with its index.
    """

    collections: Mapping[str, CollectionStatus]
    chunks: Mapping[str, int]
    dead_letters: int
    pending: tuple[str, ...]
    submissions: tuple[SubmissionRow, ...] = ()
    withheld: Mapping[str, str] = field(default_factory=dict)
    repeated: int = 0
    empty: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SourceStatus:
    """A source: its documents in the ledger, whether it was ever fetched, and whether a setting names it.

    `precomputed` rows came with their vectors, and no run fetches or deletes them.
    """

    name: str
    documents: int
    fetched: bool
    configured: bool
    precomputed: bool = False


@dataclass(frozen=True, kw_only=True)
class Reason:
    """What is recorded about one chunk, and what it means in a sentence.

    `lost` is the share of its characters that the model does not know, None where its text or the model is not at hand;
    `lost_advice` says what to do if that is much.
    """

    chunk: ChunkRow
    batch: BatchRow | None
    run: RunRow | None
    verdict: str
    submission: SubmissionRow | None = None
    lost: float | None = None
    lost_advice: str = ""


async def status(context: IndexContext) -> BedStatus:
    """Describe every collection with rows or work, and count chunks by status, dead letters and live submissions."""
    collections = {}
    counts = await context.ledger.chunks.counts()
    pending = await context.ledger.runs.collections()
    used = {name for name, _ in counts} | set(pending)
    lives, unreadable = await readable_collections(context.store)
    for live in lives:
        try:
            now = await state(live, datasets=context.datasets)
        except (Damaged, FileMissing) as error:
            unreadable[live.collection] = str(error)
            continue
        if not now.rows and live.collection not in used:
            continue  # all of it was deleted
        collections[live.collection] = CollectionStatus(
            rows=now.rows,
            unindexed_rows=now.unindexed_rows,
            version=now.version,
            space=live.space.space8,
            updated=await last_written(live, store=context.store),
        )
    chunks: dict[str, int] = {}
    for (_, each), number in counts.items():
        chunks[each.value] = chunks.get(each.value, 0) + number
    repeated = 0
    if chunks.get(Status.FAILED.value):
        async for rows in failed_chunks(context):
            repeated += sum(map(fails_repeatedly, rows))
    return BedStatus(
        collections=collections,
        chunks=chunks,
        dead_letters=await context.ledger.dead_letters.count(),
        pending=tuple(pending),
        submissions=tuple(await live_submissions(context.ledger)),
        withheld=await withheld_deletions(context),
        repeated=repeated,
        empty=await _empty(context),
        unreadable=unreadable,
    )


async def _empty(context: Context) -> dict[str, str]:
    """Return, by source, how to find out why it lists no documents; for those that were fetched."""
    progress = await context.ledger.documents.progress(tuple(sorted(context.sources)))
    return {
        name: f"lists no documents; `flowbed plan {name}` says why"
        for name, each in progress.items()
        if each.cursor.token and not each.documents
    }


async def sources(context: Context) -> list[SourceStatus]:
    """List the configured sources, removed ones of which something is still indexed, and those of precomputed rows."""
    configured = await context.ledger.documents.progress(tuple(context.sources))
    found = [
        SourceStatus(name=name, documents=each.documents, fetched=each.cursor.token > 0, configured=True)
        for name, each in sorted(configured.items())
    ]
    for name in sorted(await context.store.folders("")):
        if name in context.sources or "chunked" not in await context.store.folders(name):
            continue
        if number := await context.ledger.documents.count(name):
            given = is_precomputed(name)
            found.append(
                SourceStatus(
                    name=name, documents=number, fetched=not given, configured=False, precomputed=given
                )
            )
    return found


async def withheld_deletions(context: Context) -> dict[str, str]:
    """Return, by source, why its deletions were not carried out."""
    pages = context.ledger.dead_letters.pages()
    return {
        letter.owner: letter.reason
        async for page in pages
        for letter in page
        if (letter.kind, letter.subject) == ("source", WITHHELD)
    }


async def why(
    context: Context, subject: str, feeds: Callable[[], Awaitable[Mapping[str, ConfiguredSource]]]
) -> list[Reason]:
    """Explain the state of a chunk (by id), or of every chunk of a document (`DOCUMENT` or `SOURCE#DOCUMENT`).

    `feeds` opens the sources, which are asked about a document that the ledger does not know.

    Raises:
        NotFound: the ledger knows no such chunk or document; the message says why, as far as that is known.
    """
    rows = await context.ledger.chunks.find(subject)
    source, mark, document = subject.partition("#")
    if not rows and mark:  # an id without the ordinal: a document with its source
        rows = [row for row in await context.ledger.chunks.find(document) if row.source == source]
    if not rows:
        raise NotFound(
            await _unknown(context, subject) or await why_unlisted(context, subject, await feeds())
        )
    return await reasons(context, rows)


async def reasons(context: Context, rows: Sequence[ChunkRow]) -> list[Reason]:
    """Explain the state of chunks."""
    batches = await context.ledger.batches.get({row.batch for row in rows if row.batch})
    explained = []
    for row in rows:
        found = await context.ledger.runs.get(row.run) if row.run else None
        carries = await context.ledger.submissions.get(row.submission) if row.submission else None
        explained.append(
            Reason(
                chunk=row,
                batch=batches.get(row.batch),
                run=found,
                verdict=verdict(row, found, carries),
                submission=carries,
            )
        )
    return explained


async def _unknown(context: Context, subject: str) -> str:
    """Explain why a subject has no chunks, by what is recorded; empty if nothing is."""
    if forgotten := await _forgotten(context, subject):
        return forgotten
    async for letters in context.ledger.dead_letters.pages():
        for letter in letters:
            named = letter.subject, letter.subject.rpartition(":")[0]
            if subject in {*named, *(f"{letter.owner}#{each}" for each in named)}:
                return (
                    f"{subject!r} has no chunks: {letter.subject} of {letter.owner} failed: {letter.reason}"
                )
    for source in sorted(context.sources):
        document = subject.removeprefix(f"{source}#")
        if await context.ledger.documents.get(source, [document]):
            return f"{document!r} of source {source} has no chunks: it contains no text"
    return ""


async def _forgotten(context: Context, subject: str) -> str:
    """Say when a chunk or a document was forgotten, and by which request; an empty text if it was not."""
    blocked = await read_blocked(context.store)
    if not blocked:
        return ""
    lives, damaged = await context.collections.readable()
    collections = {*damaged, *(live.collection for live in lives)}
    sources = {*context.sources, *map(precomputed_source, collections)}
    source, _, document = subject.partition("#")
    digests = {
        *(blocked.of_chunk(name, subject) for name in collections),
        *(blocked.of_document(name, subject) for name in sources),
        blocked.of_document(source, document),
        blocked.of_document(source, document.rpartition("#")[0]),  # a chunk that the document got later
    }
    found = min(digests & blocked.owners.keys(), default="")
    if not found:
        return ""
    request = blocked.by.get(found, "")
    when = ""
    if request in blocked.at:
        moment = datetime.fromtimestamp(blocked.at[request] / 1e6, UTC)
        when = f" at {moment:%Y-%m-%d %H:%M:%S} UTC by request {request}"
    return (
        f"{subject!r} was forgotten{when}, and does not return until `flowbed forget --lift` lets it; the receipts are"
        f" in the store under {RECEIPTS}"
    )


def verdict(row: ChunkRow, found: RunRow | None, carries: SubmissionRow | None = None) -> str:
    """Explain in a sentence the state of a chunk, given its run and the submission that has its text."""
    what = "its deletion" if row.deleted else "it"
    place = _place(row, carries)
    retry = "the next `flowbed run`" if row.failure == "transient" else "`flowbed dead-letters retry`"
    deleted = (
        "deleted from the index"
        if is_precomputed(row.source)
        else "deleted from the index: its document no longer has it"
    )
    indexed = f"in the index of {row.collection} since version {found.version if found else '?'}"
    return {
        Status.NONE: f"{what} waits for the next `flowbed run`",
        Status.PENDING: f"{what} is {place}",
        Status.SUCCESS: deleted if row.deleted else indexed,
        Status.FAILED: f"failed; {retry} tries again: {row.error}",
        Status.SKIPPED: "it has nothing to embed",
        Status.REVERTED: "a rollback removed it from the index",
    }[row.status]


def _place(row: ChunkRow, carries: SubmissionRow | None) -> str:
    """Say where a pending chunk is."""
    if row.run:
        return "in a delta that the next `flowbed run` commits"
    if carries is None or carries.ended:
        return f"being worked on by {row.worker}"
    return f"in submission {carries.id}, {describe(carries)}"
