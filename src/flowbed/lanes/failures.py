"""Record failures in the ledger with their reasons; a failure that needs a person becomes a dead letter."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowbed.errors import Conflict
from flowbed.ledger import DeadLetter, Failure, Swap
from flowbed.records import Problem
from flowbed.telemetry import DEAD_LETTER, reached

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.errors import Error
    from flowbed.lanes.contexts import Context
    from flowbed.ledger import ChunkRow, Ledger


@dataclass
class RunStats:
    """What a run did: chunks embedded or reused, chunks deleted, texts sent, and failures.

    `seconds` is the time spent looking up and computing vectors. `unreadable` are the collections whose index cannot be
    read, with the reason: they are left out, and their chunks wait.
    """

    chunks: int = 0
    sent: int = 0
    deleted: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    truncated: int = 0
    failures: list[Problem] = field(default_factory=list)
    failed: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    stopped: str = ""
    unreadable: dict[str, Error] = field(default_factory=dict)

    def leave_out(self, collection: str, error: Error) -> None:
        """Leave out a collection whose index cannot be read, and report it once."""
        if collection not in self.unreadable:
            self.unreadable[collection] = error
            self.failed += 1
            self.failures.append(Problem(subject=f"collection {collection}", reason=str(error)))

    def add(self, other: RunStats) -> None:
        """Add what another piece of the same run did; a failure that both report counts once."""
        self.chunks += other.chunks
        self.sent += other.sent
        self.deleted += other.deleted
        self.tokens += other.tokens
        self.cost_usd += other.cost_usd
        self.seconds += other.seconds
        self.truncated += other.truncated
        self.failed += other.failed
        reported = set(self.failures)
        self.failures += [each for each in other.failures if each not in reported]
        self.unreadable |= other.unreadable
        self.versions |= other.versions
        self.stopped = other.stopped or self.stopped


def failure(row: ChunkRow, kind: str, reason: str) -> Failure:
    """Make the failure of one chunk; `kind` is `transient` or `rejected`."""
    return Failure(collection=row.collection, id=row.id, version=row.version, kind=kind, reason=reason)


async def reset_documents(rows: Sequence[ChunkRow], ledger: Ledger) -> None:
    """Make the next fetch read the documents of chunks whose texts are lost, as if they had changed."""
    for source in sorted({row.source for row in rows}):
        names = {row.document for row in rows if row.source == source}
        known = await ledger.documents.get(source, names)
        forgotten = [replace(row, etag="", hash="") for row in known.values()]
        # While another run is fetching this fails; the next run finds the texts missing again, and repeats it.
        with contextlib.suppress(Conflict):
            cursor = await ledger.documents.cursor(source)
            await ledger.documents.swap(Swap(cursor=cursor, value="", documents=forgotten))


async def fail(failures: Sequence[Failure], context: Context, tally: RunStats) -> None:
    """Mark claimed chunks FAILED, and count them; a rejected one becomes a dead letter."""
    if not failures:
        return
    letters = [
        DeadLetter(
            kind="chunk", owner=each.collection, subject=each.id, reason=each.reason, at=context.clock()
        )
        for each in failures
        if each.kind == "rejected"
    ]
    # The letter first: nobody would notice a chunk that failed without one.
    if letters:
        await context.ledger.dead_letters.add(letters)
    await context.ledger.chunks.fail(failures, worker=context.worker)
    for each in failures:
        reached(DEAD_LETTER, kind=each.kind, subject=each.id, reason=each.reason)
    tally.failed += len(failures)
    tally.failures += [Problem(subject=each.id, reason=each.reason) for each in failures]
