"""Write the outcome of a group of chunks as deltas, record and commit them, and record its failures."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from flowbed.errors import Conflict
from flowbed.index.commit import commit
from flowbed.index.datasets import UNREADABLE
from flowbed.index.deltas import Delete, Upsert, table, write_delta
from flowbed.lanes.claims import CLAIM
from flowbed.lanes.failures import RunStats, fail, failure, reset_documents
from flowbed.ledger import RunRow, SpendRow
from flowbed.records import Problem
from flowbed.telemetry import DELTA_WRITTEN, RUN_RECORDED, reached

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.lanes.batch_files import ChunkText, LostText
    from flowbed.lanes.contexts import IndexContext, RunContext
    from flowbed.lanes.outcome import Outcome, Paid
    from flowbed.ledger import ChunkRow


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a provider was sent for one run, on which lane, and the seconds it took."""

    lane: str = "realtime"
    texts: int = 0
    planned: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EmbeddedGroup:
    """A group of claimed chunks, the passages that could be read, and their outcome."""

    rows: Sequence[ChunkRow]
    passages: Sequence[ChunkText]
    lost: Sequence[LostText]
    outcome: Outcome
    spent: Spent

    @property
    def since(self) -> int:
        """When the first of its chunks was claimed (µs since 1970)."""
        return min(row.until for row in self.rows) - CLAIM


class BackgroundWrite:
    """Writes one group in the background; starting the next waits for it."""

    def __init__(self) -> None:
        """Start with none."""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Enter the context."""
        return self

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start `work` once the write before it has succeeded; raise what that raised."""
        try:
            if self._task is not None:
                await self._task
        except BaseException:
            work.close()
            raise
        self._task = asyncio.create_task(work)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Await the pending write: vectors that were paid for are written even if the body raised, unless cancelled."""
        if self._task is None:
            return
        if kind is None:
            await self._task
            return
        if issubclass(kind, asyncio.CancelledError):
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def write_and_commit(group: EmbeddedGroup, context: RunContext, tally: RunStats) -> None:
    """Write a delta for each collection of a group, commit it if the context does, and record the failures."""
    spent = group.spent
    for collection in sorted({row.collection for row in group.rows}):
        upserts, deletes = _changes(collection, group)
        if not upserts and not deletes:
            continue
        try:
            await _write(collection, upserts, deletes, spent, group, context)
        except Conflict as error:  # other bytes are under the key of this delta: the other collections go on
            tally.failed += 1
            tally.failures.append(Problem(subject=f"collection {collection}", reason=str(error)))
            continue
        spent = Spent(lane=spent.lane)  # counted once, with the first collection
        if context.commits:
            await commit_readable(collection, context, tally)
        if collection in tally.unreadable:
            continue  # the delta is kept, and committed by the run that can
        tally.chunks += len(upserts)
        tally.deleted += len(deletes)
    await _record_failures(group, context, tally)


def _changes(collection: str, group: EmbeddedGroup) -> tuple[list[Upsert], list[Delete]]:
    vectors = group.outcome.vectors
    upserts = [
        _upsert(each, vectors[each.row.text_hash])
        for each in group.passages
        if each.row.collection == collection and each.row.text_hash in vectors
    ]
    rows = [row for row in group.rows if row.deleted and row.collection == collection]
    return upserts, [Delete(id=row.id, version=row.version) for row in rows]


async def _record_failures(group: EmbeddedGroup, context: RunContext, tally: RunStats) -> None:
    outcome = group.outcome
    tally.truncated += sum(1 for each in group.passages if each.row.text_hash in outcome.truncated)
    failed = [
        failure(each.row, *outcome.failures[each.row.text_hash])
        for each in group.passages
        if each.row.text_hash in outcome.failures
    ]
    await reset_documents([each.row for each in group.lost], context.ledger)
    failed += [
        failure(each.row, "transient", f"{each.reason}; the next run reads its document again")
        for each in group.lost
    ]
    await fail(failed, context, tally)


async def _write(
    collection: str,
    upserts: Sequence[Upsert],
    deletes: Sequence[Delete],
    spent: Spent,
    group: EmbeddedGroup,
    context: RunContext,
) -> None:
    """Write the delta of one collection, and record its run."""
    live = await context.collections.get(collection)
    if live is None:
        # Nothing was ever committed to this collection, so there is nothing to delete from it.
        live = await context.collections.begin(
            collection, context.embedder().space, now=context.clock(), datasets=context.datasets
        )
    delta = await write_delta(context.store, collection, live.space, upserts, deletes, now=context.clock())
    reached(DELTA_WRITTEN, run=delta.run)
    if context.also_write is not None:
        await context.also_write(collection, delta.run, table(delta.run, live.space, upserts, deletes))
    # A free model has no spending: a row for each document would be a tenth of the ledger.
    # The cost of a submission is recorded when its results arrive.
    if spent.cost_usd and spent.lane == "realtime":
        # Before the run: a recorded run is not written again, so its cost would be lost if this process died here.
        await context.ledger.spending.record(cost_by_document(delta.run, group, spent, at=context.clock()))
    await context.ledger.runs.record(
        RunRow(
            id=delta.run,
            collection=collection,
            space=live.space.to_json(),
            key=delta.key,
            sha256=delta.sha256,
            rows=delta.rows,
            lane=spent.lane,
            worker=context.worker,
            # Not the present time: a process may have been suspended for longer than tombstones are kept.
            created=group.since,
            texts=spent.texts,
            planned=spent.planned,
            tokens=spent.tokens,
            cost_usd=spent.cost_usd,
            seconds=spent.seconds,
        ),
        [*((row.id, row.version) for row in upserts), *((row.id, row.version) for row in deletes)],
        worker=context.worker,
    )
    batches = sorted({row.batch for row in group.rows if row.collection == collection and row.batch})
    reached(RUN_RECORDED, run=delta.run, collection=collection, key=delta.key, batches=batches)


def cost_by_document(run: str, group: EmbeddedGroup, spent: Spent, *, at: int) -> list[SpendRow]:
    """Divide the cost among the documents; a shared text counts for the first."""
    of: dict[tuple[str, str], list[Paid]] = {}
    counted: set[str] = set()
    for each in group.passages:
        row = each.row
        if row.text_hash in group.outcome.paid and row.text_hash not in counted:
            counted.add(row.text_hash)
            of.setdefault((row.source, row.document), []).append(group.outcome.paid[row.text_hash])
    price = spent.cost_usd / spent.tokens
    return [
        SpendRow(
            run=run,
            lane=spent.lane,
            source=source,
            document=document,
            texts=len(paid),
            planned=sum(each.planned for each in paid),
            billed=(billed := sum(each.billed for each in paid)),
            cost_usd=billed * price,
            at=at,
        )
        for (source, document), paid in of.items()
    ]


def _upsert(passage: ChunkText, vector: NDArray[np.float32]) -> Upsert:
    return Upsert(
        id=passage.row.id,
        version=passage.row.version,
        document=passage.text,
        metadata=passage.metadata,
        text_hash=passage.row.text_hash,
        vector=vector,
    )


async def commit_pending(
    collection: str, context: IndexContext, tally: RunStats, *, once: bool = False
) -> None:
    """Commit the pending runs of a collection, and add what was committed to `tally`.

    With `once`, runs that are recorded meanwhile are left for the next commit.
    """
    committed = await commit(
        collection,
        store=context.store,
        ledger=context.ledger,
        datasets=context.datasets,
        collections=context.collections,
        clock=context.clock,
        most_runs=context.commit_deltas,
        once=once,
    )
    if committed.version is not None:
        tally.versions[collection] = committed.version
    tally.failed += len(committed.refused)
    tally.failures += committed.refused


async def commit_readable(collection: str, context: IndexContext, tally: RunStats) -> None:
    """Commit the pending runs of a collection, unless its index cannot be read: other collections go on."""
    try:
        await commit_pending(collection, context, tally)
    except UNREADABLE as error:
        tally.leave_out(collection, error)
