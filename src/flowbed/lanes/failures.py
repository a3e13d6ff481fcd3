"""Failing: what could not be embedded gets its reason in the ledger, and where someone has to look, a dead letter."""

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

    from flowbed.lanes.contexts import Context
    from flowbed.ledger import ChunkRow, Ledger


@dataclass
class RunStats:
    """What embedding did: chunks embedded or reused and deleted, texts sent, and what failed.

    `seconds` went by while vectors were found or made.
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
        self.versions |= other.versions
        self.stopped = other.stopped or self.stopped


def failure(row: ChunkRow, kind: str, reason: str) -> Failure:
    """Tell why one chunk failed; `kind` is `transient` or `rejected`."""
    return Failure(collection=row.collection, id=row.id, version=row.version, kind=kind, reason=reason)


async def reset_documents(rows: Sequence[ChunkRow], ledger: Ledger) -> None:
    """Make the next fetch take the documents of chunks whose texts are lost for changed."""
    for source in sorted({row.source for row in rows}):
        names = {row.document for row in rows if row.source == source}
        known = await ledger.documents.get(source, names)
        forgotten = [replace(row, etag="", hash="") for row in known.values()]
        # Where another run is fetching just now, the next one will find the texts missing again, and do this then.
        with contextlib.suppress(Conflict):
            cursor = await ledger.documents.cursor(source)
            await ledger.documents.swap(Swap(cursor=cursor, value="", documents=forgotten))


async def fail(failures: Sequence[Failure], context: Context, tally: RunStats) -> None:
    """Make claimed chunks FAILED, and tally them; what only a person can mend becomes a dead letter."""
    if not failures:
        return
    letters = [
        DeadLetter(
            kind="chunk", owner=each.collection, subject=each.id, reason=each.reason, at=context.clock()
        )
        for each in failures
        if each.kind == "rejected"
    ]
    # The letter first: a chunk that has failed without one would be looked at by nobody.
    if letters:
        await context.ledger.dead_letters.add(letters)
    await context.ledger.chunks.fail(failures, worker=context.worker)
    for each in failures:
        reached(DEAD_LETTER, kind=each.kind, subject=each.id, reason=each.reason)
    tally.failed += len(failures)
    tally.failures += [Problem(subject=each.id, reason=each.reason) for each in failures]
