"""Rows that tests put into a ledger, and common steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from flowbed.errors import Conflict, Rejected
from flowbed.ledger import (
    BatchRow,
    ChunkRow,
    Cursor,
    DeadLetter,
    DocumentRow,
    Failure,
    FileRow,
    JobRow,
    KeyRow,
    Rollback,
    RunRow,
    SpendRow,
    SubmissionRow,
    Swap,
)
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flowbed.ledger import Ledger


WAITING = (Status.NONE, Status.FAILED)  # what a plain run claims
LATE = 10**18  # a claim's end that no test reaches
SPACE = '{"model":"m"}'


def document(id: str = "d", **changes: Any) -> DocumentRow:  # noqa: A002 - the record's own fields
    """Make a document of source `s`."""
    row = DocumentRow(source="s", id=id, etag="e1", hash="h1", chunks=1, generation=1)
    return replace(row, **changes)


def chunk(id: str = "s#d#00000", **changes: Any) -> ChunkRow:  # noqa: A002 - the record's own fields
    """Make a chunk of document `d` of source `s`, in batch `b`."""
    row = ChunkRow(
        collection="c", id=id, source="s", document="d", ordinal=0, tokens=7, text_hash="t", row_hash="r",
        version=100, batch="b",
    )  # fmt: skip
    return row._replace(**changes)


def batch(id: str, **changes: Any) -> BatchRow:  # noqa: A002 - the record's own fields
    """Make a batch file of source `s`."""
    return replace(BatchRow(id=id, source="s", key=f"k/{id}", timestamp=1, chunks=1), **changes)


def run(id: str = "r1", **changes: Any) -> RunRow:  # noqa: A002 - the record's own fields
    """Make a run of collection `c`."""
    row = RunRow(
        id=id, collection="c", space="{}", key=f"c/delta/{id}/delta.arrow", sha256="0a", rows=1, lane="realtime",
        worker="w", created=1, texts=1, tokens=7, cost_usd=0.5, seconds=0.25,
    )  # fmt: skip
    return replace(row, **changes)


def letter(subject: str = "s#d#00000", **changes: Any) -> DeadLetter:  # the record's own fields
    """Make a letter about a chunk of collection `c`."""
    return replace(DeadLetter(kind="chunk", owner="c", subject=subject, reason="too long", at=1), **changes)


def key(id: str = "k1", **changes: Any) -> KeyRow:  # noqa: A002 - the record's own fields
    """Make a key with a unique hash."""
    row = KeyRow(id=id, name="app", prefix="fb-abcde", hash=f"hash of {id}", tier="default", created=1)
    return replace(row, **changes)


def rollback(**changes: Any) -> Rollback:  # the record's own fields
    """Make a rollback of collection `c`."""
    return replace(Rollback(collection="c", target=1, version=2, at=1), **changes)


def failure(**changes: Any) -> Failure:  # the record's own fields
    """Make a failure of the chunk that `chunk` makes."""
    reason = Failure(collection="c", id="s#d#00000", version=100, kind="transient", reason="no answer")
    return replace(reason, **changes)


def submission(id: str = "x", **changes: Any) -> SubmissionRow:  # noqa: A002 - the record's own fields
    """Make a submission that is ready to be submitted."""
    row = SubmissionRow(
        id=id, space=SPACE, account="a", key=f"submissions/{id}/input.jsonl", bytes=5_000_000_000, texts=2, chunks=3,
        tokens=3_000_000_000, created=1_764_000_000_000_000,
    )  # fmt: skip
    return replace(row, **changes)


def spend(document: str = "d", **changes: Any) -> SpendRow:  # the record's own fields
    """Make a row of what run `r1` spent on a document of source `s`."""
    row = SpendRow(
        run="r1", lane="batch", source="s", document=document, texts=2, planned=10, billed=12, cost_usd=0.25, at=100
    )  # fmt: skip
    return replace(row, **changes)


def file(id: str = "file-1", **changes: Any) -> FileRow:  # noqa: A002 - the record's own fields
    """Make a file of owner `o`."""
    row = FileRow(
        id=id, owner="o", purpose="batch", filename="in.jsonl", bytes=5_000_000_000, key=f"files/{id}/content",
        created=1_764_000_000_000_000,
    )  # fmt: skip
    return replace(row, **changes)


def job(id: str = "batch_1", **changes: Any) -> JobRow:  # noqa: A002 - the record's own fields
    """Make a job of owner `o`."""
    row = JobRow(
        id=id, owner="o", tier="default", input="file-1", endpoint="/v1/embeddings", window="24h",
        created=1_764_000_000_000_000, expires=1_764_086_400_000_000, metadata='{"a":"b"}',
    )  # fmt: skip
    return replace(row, **changes)


async def put(ledger: Ledger, chunks: Sequence[ChunkRow], source: str = "s") -> Cursor:
    """Swap rows in at the source's current cursor."""
    return await ledger.documents.swap(
        Swap(cursor=await ledger.documents.cursor(source), value="", chunks=chunks)
    )


@runtime_checkable
class Settles(Protocol):
    """A ledger whose listings lag: those of batches, claims, workers, marks, counts, failures and runs may.

    Listings of unfinished jobs and of expired files may lag too; what a submission carries is always current.
    """

    async def settle(self) -> None:
        """Wait until listings are current."""
        ...


async def settle(ledger: Ledger) -> None:
    """Wait until the listings of a ledger are current, if they lag."""
    if isinstance(ledger, Settles):
        await ledger.settle()


async def claim(
    ledger: Ledger, batch: str = "b", worker: str = "w", **changes: Any
) -> list[ChunkRow]:  # the call's own arguments
    """Claim the waiting chunks of a batch."""
    await settle(ledger)
    asked = {"statuses": WAITING, "now": 10, "until": LATE, "sources": (), "limit": 100, **changes}
    return await ledger.chunks.claim([batch], worker=worker, **asked)


async def waiting(ledger: Ledger, *statuses: Status, now: int = 10, sources: Sequence[str] = ()) -> list[str]:
    """List the batches with something to work on."""
    await settle(ledger)
    return await flat(ledger.chunks.batches(statuses or WAITING, now=now, sources=sources))


async def end(ledger: Ledger, submission: str, **changes: Any) -> None:  # the record's own fields
    """End a submission."""
    row = await ledger.submissions.hold(submission, worker="ender", now=LATE, until=LATE + 1)
    assert row is not None
    ended = replace(row, **{"state": "completed", "ended": 5, "worker": "", **changes})
    assert await ledger.submissions.save(ended, worker="ender")


async def take(
    ledger: Ledger,
    submission: str,
    *,
    worker: str = "p",
    now: int = 10,
    until: int = LATE,
    limit: int = 100,
) -> list[ChunkRow]:
    """Take chunks of a live submission."""
    return await ledger.chunks.take(submission, worker=worker, now=now, until=until, limit=limit)


async def carried(
    ledger: Ledger,
    *chunks: ChunkRow,
    submission: SubmissionRow,
) -> None:
    """Swap chunks of batch `b` in, and hand them over to a live submission."""
    await put(ledger, chunks)
    await claim(ledger, worker="finder", submission=submission.id)
    await ledger.submissions.create(submission)
    await ledger.chunks.hand_over(submission.id, worker="finder")


async def recorded(ledger: Ledger, id: str, into: str) -> None:  # noqa: A002 - the record's own field
    """Swap a chunk in, claim it and record it in a run."""
    await put(ledger, [chunk(id)])
    await claim(ledger)
    await ledger.runs.record(run(into), [(id, 100)], worker="w")


async def states(ledger: Ledger) -> dict[str, str]:
    """Return the state of each run."""
    await settle(ledger)
    return {row.id: row.state for row in await ledger.runs.recent(limit=100)}


async def flat(pages: AsyncIterator[Sequence[Any]]) -> list[Any]:
    """Read pages to their end."""
    return [row async for page in pages for row in page]


async def only(ledger: Ledger, id: str = "s#d#00000") -> ChunkRow:  # noqa: A002 - the record's own field
    """Read the one chunk of an id."""
    (row,) = await ledger.chunks.find(id)
    return row


async def raises_conflict(ledger: Ledger, swap: Swap) -> None:
    """Apply a swap that must be refused."""
    try:
        await ledger.documents.swap(swap)
    except Conflict:
        return
    raise AssertionError("a swap from an old cursor was applied")


async def raises_rejected(ledger: Ledger, swap: Swap) -> None:
    """Apply a swap with an id that cannot be stored."""
    try:
        await ledger.documents.swap(swap)
    except Rejected:
        return
    raise AssertionError("a swap with an id that no ledger can hold was applied")
