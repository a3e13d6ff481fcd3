"""Inspect: where everything stands, and why one thing is or is not found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.errors import NotFound
from flowbed.index.active_space import live_collections
from flowbed.index.versions import state
from flowbed.lanes.batch.submission_status import stands
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.lanes.contexts import Context, IndexContext
    from flowbed.ledger import BatchRow, ChunkRow, RunRow, SubmissionRow


@dataclass(frozen=True, kw_only=True)
class CollectionStatus:
    """Where one collection stands; `space` is the first 8 digits of its live space's fingerprint."""

    rows: int
    unindexed_rows: int
    version: int
    space: str


@dataclass(frozen=True, kw_only=True)
class BedStatus:
    """Where everything stands: `chunks` counts by status, `pending` names collections with uncommitted runs.

    `submissions` are those that are live.
    """

    collections: Mapping[str, CollectionStatus]
    chunks: Mapping[str, int]
    dead_letters: int
    pending: tuple[str, ...]
    submissions: tuple[SubmissionRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reason:
    """What is known of one chunk, and in a sentence what that means."""

    chunk: ChunkRow
    batch: BatchRow | None
    run: RunRow | None
    verdict: str
    submission: SubmissionRow | None = None


async def status(context: IndexContext) -> BedStatus:
    """Describe every collection, the chunks by status, and what waits for someone to look."""
    collections = {}
    for live in await live_collections(context.store):
        now = await state(live, datasets=context.datasets)
        collections[live.collection] = CollectionStatus(
            rows=now.rows, unindexed_rows=now.unindexed_rows, version=now.version, space=live.space.space8
        )
    chunks: dict[str, int] = {}
    for (_, each), number in (await context.ledger.chunks.counts()).items():
        chunks[each.value] = chunks.get(each.value, 0) + number
    return BedStatus(
        collections=collections,
        chunks=chunks,
        dead_letters=await context.ledger.dead_letters.count(),
        pending=tuple(await context.ledger.runs.collections()),
        submissions=tuple(
            [row async for page in context.ledger.submissions.pages(live=True) for row in page]
        ),
    )


async def why(context: Context, subject: str) -> list[Reason]:
    """Say what is known of a chunk (by id) or of every chunk of a document.

    Raises:
        NotFound: the ledger knows neither a chunk nor a document of that name.
    """
    rows = await context.ledger.chunks.find(subject)
    if not rows:
        raise NotFound(await _unknown(context, subject))
    batches = await context.ledger.batches.get({row.batch for row in rows if row.batch})
    reasons = []
    for row in rows:
        found = await context.ledger.runs.get(row.run) if row.run else None
        carries = await context.ledger.submissions.get(row.submission) if row.submission else None
        reasons.append(
            Reason(
                chunk=row,
                batch=batches.get(row.batch),
                run=found,
                verdict=verdict(row, found, carries),
                submission=carries,
            )
        )
    return reasons


async def _unknown(context: Context, subject: str) -> str:
    """Say what is known of a subject that has no chunks."""
    async for letters in context.ledger.dead_letters.pages():
        for letter in letters:
            if subject in {letter.subject, letter.subject.rpartition(":")[0]}:
                return (
                    f"{subject!r} has no chunks: {letter.subject} of {letter.owner} failed, {letter.reason}"
                )
    for source in sorted(context.sources):
        if await context.ledger.documents.get(source, [subject]):
            return f"{subject!r} of source {source} has no chunks: there is no text in it"
    return (
        f"nothing is known of {subject!r}: no chunk has that id, and no source listed a document of that name"
        " with text; `flowbed run` names what it passed over, and ids look like NAME#DOCUMENT#00000"
    )


def verdict(row: ChunkRow, found: RunRow | None, carries: SubmissionRow | None = None) -> str:
    """Say in a sentence what a chunk's row means, and that of the submission that carries its text."""
    what = "its deletion" if row.deleted else "it"
    held = _held(row, carries)
    again = "the next `flowbed run`" if row.failure == "transient" else "`flowbed dead-letters retry`"
    indexed = f"in the index of {row.collection} since version {found.version if found else '?'}"
    return {
        Status.NONE: f"{what} waits for the next `flowbed run`",
        Status.PENDING: f"{what} is {held}",
        Status.SUCCESS: "its document no longer has it, and the index has dropped it"
        if row.deleted
        else indexed,
        Status.FAILED: f"failed, and {again} tries again: {row.error}",
        Status.SKIPPED: "there is nothing in it to embed",
        Status.REVERTED: "a rollback took it out of the index",
    }[row.status]


def _held(row: ChunkRow, carries: SubmissionRow | None) -> str:
    """Say where a chunk is that is on its way."""
    if row.run:
        return "in a delta that the next `flowbed run` commits"
    if carries is None or carries.ended:
        return f"being worked on by {row.worker}"
    return f"in submission {carries.id}, {stands(carries)}"
