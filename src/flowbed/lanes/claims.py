"""Claim waiting chunks for this worker, in groups; no other worker processes them until they are done."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.errors import Error
from flowbed.records import Status
from flowbed.telemetry import CHUNKS_CLAIMED, STAGE, log, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from flowbed.lanes.contexts import Context
    from flowbed.ledger import BatchRow, ChunkRow, Overview

# Chunks of one run: their vectors stay in memory until its deltas are written (25 MB at 384 dimensions).
RUN_CHUNKS = 16_384
# Enough for a run while the fetch is idle: each run ends in a commit, and adds a fragment to the index.
WORTHWHILE = RUN_CHUNKS // 4
# A claim lasts this long unless renewed; claims of a process known to be dead are released at once.
CLAIM = 60_000_000  # µs
WAITING = frozenset({Status.NONE, Status.FAILED})


async def release_dead_workers(context: Context, overview: Overview | None = None) -> None:
    """Release the claims of dead workers; chunks that a live submission carries stay with it."""
    overview = overview or await context.ledger.overview()
    for worker in sorted(overview.workers - {context.worker}):
        if context.dead(worker):
            await context.ledger.chunks.release(worker)
    for worker in sorted({row.worker for row in overview.submissions} - {"", context.worker}):
        if context.dead(worker):
            await context.ledger.submissions.release(worker)


def is_left(overview: Overview, statuses: Collection[Status], *, mine: int = 0, worker: str = "") -> bool:
    """Whether any chunk may be claimed: one of these statuses, or one whose claim may have run out.

    `mine` chunks are claimed by `worker` itself.
    """
    # An overview does not count finished chunks.
    if Status.SUCCESS in statuses or any(status in statuses for _, status in overview.unfinished):
        return True
    claimed = sum(number for (_, status), number in overview.unfinished.items() if status is Status.PENDING)
    return claimed > mine or not overview.workers <= {worker}


@asynccontextmanager
async def renewed(context: Context, *, submissions: bool = False) -> AsyncIterator[None]:
    """Renew this worker's claims while the context is open, and release those left at its end.

    With `submissions`, do the same for the submissions that it holds.
    """

    async def beat() -> None:
        while True:
            await asyncio.sleep(CLAIM / 1e6 / 3)
            try:
                until = context.clock() + CLAIM
                await context.ledger.chunks.renew(context.worker, until=until)
                if submissions:
                    await context.ledger.submissions.renew(context.worker, until=until)
            except Error as error:  # there is time for two more tries before the claims run out
                log.warning("claims could not be renewed: %s", error)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await context.ledger.chunks.release(context.worker)
        if submissions:
            await context.ledger.submissions.release(context.worker)


class BatchQueue:
    """The batches of a fetch under way, as it writes them."""

    def __init__(self) -> None:
        """Start empty."""
        self.rows: dict[str, BatchRow] = {}  # those that were added, by id
        self._first: str | None = None
        self._batches: asyncio.Queue[str | None] = asyncio.Queue()
        self._ended = False
        self._error: BaseException | None = None

    def add(self, batch: BatchRow) -> None:
        """Add a batch that can be claimed."""
        self.rows[batch.id] = batch
        self._batches.put_nowait(batch.id)

    def end(self, error: BaseException | None = None) -> None:
        """End the queue, with the error of the fetch if it failed."""
        self._error = error
        self._batches.put_nowait(None)

    @property
    def idle(self) -> bool:
        """Whether the next batch is still to be written."""
        return self._first is None and self._batches.empty() and not self._ended

    async def any(self) -> bool:
        """Wait for the first batch; False where the fetch ends without any. An error of the fetch is raised here."""
        self._first = await self.next()
        return self._first is not None

    async def next(self) -> str | None:
        """Wait for the next batch; None at the end. An error of the fetch is raised here."""
        first, self._first = self._first, None
        if first is not None:
            return first
        batch = None if self._ended else await self._batches.get()
        self._ended = batch is None
        if self._ended and self._error is not None:
            raise self._error
        return batch


@dataclass(kw_only=True)
class Claims:
    """The claims of one worker, group by group: chunks of these sources with these statuses, up to `limit`.

    `only`, where given, restricts them to those batches, each with its sources ("" is deletions). `submission` is the
    one that will carry the texts claimed next; without `deletions` none is claimed. A group has about `enough` chunks;
    `together` batches are claimed in one step.
    """

    context: Context
    sources: Collection[str]
    statuses: Collection[Status]
    limit: int | None
    only: Mapping[str, Collection[str]] | None
    submission: str = ""
    deletions: bool = True
    enough: int = RUN_CHUNKS
    together: int = 1
    claimed: int = 0
    _group: list[ChunkRow] = field(default_factory=list)
    _rest: list[ChunkRow] = field(default_factory=list)

    @property
    def held(self) -> list[ChunkRow]:
        """The claimed chunks that are in no group yet."""
        return [*self._group, *self._rest]

    async def groups(self, fresh: BatchQueue | None) -> AsyncIterator[list[ChunkRow]]:
        """Claim the fresh batches as they come, then other waiting chunks, oldest first."""
        async for batches, statuses in self._batches(fresh):
            async for _ in self._claim(batches, statuses):
                enough = WORTHWHILE if fresh is not None and fresh.idle else self.enough
                if len(self._group) >= enough:
                    yield self._taken()
        if self._group:
            yield self._taken()

    async def _batches(self, fresh: BatchQueue | None) -> AsyncIterator[tuple[list[str], Collection[Status]]]:
        begun: set[str] = set()
        if fresh is not None:
            while (batch := await fresh.next()) is not None:
                begun.add(batch)
                yield [batch], self.statuses
            overview = await self.context.ledger.overview()
            self._announce(overview)
            mine = len({(row.collection, row.id) for row in self.held})
            if not is_left(overview, self.statuses, mine=mine, worker=self.context.worker):
                return
        # What failed in this run is left to the next one.
        again = frozenset(self.statuses) - {Status.FAILED}
        chunks, now = self.context.ledger.chunks, self.context.clock()
        async for batches in chunks.batches(self.statuses, now=now, sources=self.sources):
            named = [batch for batch in batches if batch]
            for start in range(0, len(named), self.together):
                some = named[start : start + self.together]
                yield some, again if begun.intersection(some) else self.statuses
            if self.deletions and "" in batches:
                yield [""], self.statuses

    async def _claim(self, batches: list[str], statuses: Collection[Status]) -> AsyncIterator[None]:
        """Claim the chunks of batches into the group, pausing at every RUN_CHUNKS or fewer.

        A batch is claimed whole before the first pause: chunks of its beginning that fail would otherwise be claimed
        again with its end. Deletions do not fail, and there may be more of them than fit into memory.
        """
        whose = self.sources if self.only is None else self.only.get(batches[0], ())
        if not whose and self.only is not None:
            return
        whole: list[ChunkRow] = []
        while self.limit is None or self.claimed < self.limit:
            now = self.context.clock()
            most = RUN_CHUNKS if self.limit is None else min(RUN_CHUNKS, self.limit - self.claimed)
            rows = await self.context.ledger.chunks.claim(
                batches,
                statuses,
                worker=self.context.worker,
                now=now,
                until=now + CLAIM,
                sources=whose,
                limit=most,
                submission=self.submission,
            )
            self.claimed += len(rows)
            if batches != [""]:
                whole += rows
            else:
                self._group += rows
                yield
            if len(rows) < most:
                break
        for start in range(0, len(whole), RUN_CHUNKS):
            self._group += whole[start : start + RUN_CHUNKS]
            self._rest = whole[start + RUN_CHUNKS :]
            yield

    def _taken(self) -> list[ChunkRow]:
        # A chunk that was changed and claimed again meanwhile is there twice: the later row is the newer.
        group = list({(row.collection, row.id): row for row in self._group}.values())
        self._group = []
        reached(CHUNKS_CLAIMED, chunks=len(group))
        return group

    def _announce(self, overview: Overview) -> None:
        """Report how much there is to embed, now that the fetch has ended."""
        left = overview.unfinished.items()
        waiting = sum(number for (_, status), number in left if status in self.statuses)
        reached(STAGE, stage="embed", total=self.claimed + waiting)
