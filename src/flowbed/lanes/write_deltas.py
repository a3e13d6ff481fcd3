"""Landing: what became of a group of chunks is laid down as deltas, recorded, committed, and its failures noted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from flowbed.errors import Conflict
from flowbed.index.commit import commit
from flowbed.index.deltas import Delete, Upsert, write_delta
from flowbed.lanes.claims import CLAIM
from flowbed.lanes.failures import RunStats, fail, failure, read_again
from flowbed.ledger import RunRow, SpendRow
from flowbed.records import Problem
from flowbed.telemetry import DELTA_WRITTEN, PROGRESS, RUN_RECORDED, reached

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.lanes.batch_files import ChunkText, Lost
    from flowbed.lanes.contexts import IndexContext, RunContext
    from flowbed.lanes.outcome import Outcome, Paid
    from flowbed.ledger import ChunkRow


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a provider was sent for one run by which lane, and the seconds it took."""

    lane: str = "realtime"
    texts: int = 0
    planned: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Made:
    """A group of claimed chunks, the passages that could be read of them, and what became of those."""

    rows: Sequence[ChunkRow]
    passages: Sequence[ChunkText]
    lost: Sequence[Lost]
    outcome: Outcome
    spent: Spent

    @property
    def since(self) -> int:
        """When the first of its chunks was claimed (µs)."""
        return min(row.until for row in self.rows) - CLAIM


class Landing:
    """One piece of work in the background, which the next one waits for."""

    def __init__(self) -> None:
        """Begin with none."""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Let work be begun."""
        return self

    async def follow(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin `work` once what was begun before has ended well; raises what that raised."""
        try:
            if self._task is not None:
                await self._task
        except BaseException:
            work.close()
            raise
        self._task = asyncio.create_task(work)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End what was begun: what is made is paid, and is laid down whatever else fails, unless it is cancelled."""
        if self._task is None:
            return
        if kind is None:
            await self._task
            return
        if issubclass(kind, asyncio.CancelledError):
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def land(made: Made, context: RunContext, tally: RunStats) -> None:
    """Commit a delta for each collection of a group, and note what failed of it."""
    rows, passages, outcome, spent = made.rows, made.passages, made.outcome, made.spent
    for collection in sorted({row.collection for row in rows}):
        upserts = [
            _upsert(each, outcome.vectors[each.row.text_hash])
            for each in passages
            if each.row.collection == collection and each.row.text_hash in outcome.vectors
        ]
        deletes = [
            Delete(id=row.id, version=row.version)
            for row in rows
            if row.deleted and row.collection == collection
        ]
        if not upserts and not deletes:
            continue
        try:
            await _lay_down(collection, upserts, deletes, spent, made, context)
        except (
            Conflict
        ) as error:  # someone else's bytes lie where this delta belongs: the other collections go on
            tally.failed += 1
            tally.failures.append(Problem(subject=f"collection {collection}", reason=str(error)))
            continue
        await commit_pending(collection, context, tally)
        tally.chunks += len(upserts)
        tally.deleted += len(deletes)
        spent = Spent(lane=spent.lane)  # told once, by the first of the collections that it was sent for
    tally.truncated += sum(1 for each in passages if each.row.text_hash in outcome.truncated)
    failed = [
        failure(each.row, *outcome.failures[each.row.text_hash])
        for each in passages
        if each.row.text_hash in outcome.failures
    ]
    await read_again([each.row for each in made.lost], context.ledger)
    failed += [
        failure(each.row, "transient", f"{each.reason}; the next run reads its document again")
        for each in made.lost
    ]
    await fail(failed, context, tally)
    # The lane has told of each distinct text; the chunks that shared one, or had none, are done as well.
    reached(PROGRESS, stage="embed", done=len(rows) - len({each.row.text_hash for each in passages}))


async def _lay_down(
    collection: str,
    upserts: Sequence[Upsert],
    deletes: Sequence[Delete],
    spent: Spent,
    made: Made,
    context: RunContext,
) -> None:
    """Write the delta of one collection, and record its run."""
    live = await context.collections.get(collection)
    if live is None:
        # Nothing of this collection was ever committed, so that there is nothing to delete from it.
        live = await context.collections.begin(
            collection, context.embedder().space, now=context.clock(), datasets=context.datasets
        )
    delta = await write_delta(context.store, collection, live.space, upserts, deletes, now=context.clock())
    reached(DELTA_WRITTEN, run=delta.run)
    # A model that costs nothing has no spending: a row for each document would be a tenth of the ledger.
    # What a submission has cost is told when its answers are there.
    if spent.cost_usd and spent.lane == "realtime":
        # Before the run: of one that is recorded nothing is laid down again, and what it has cost would be missing.
        await context.ledger.spending.record(shared_out(delta.run, made, spent, at=context.clock()))
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
            # Not now: a process may have slept over its delta for longer than tombstones are kept.
            created=made.since,
            texts=spent.texts,
            planned=spent.planned,
            tokens=spent.tokens,
            cost_usd=spent.cost_usd,
            seconds=spent.seconds,
        ),
        [*((row.id, row.version) for row in upserts), *((row.id, row.version) for row in deletes)],
        worker=context.worker,
    )
    reached(RUN_RECORDED, run=delta.run)


def shared_out(run: str, made: Made, spent: Spent, *, at: int) -> list[SpendRow]:
    """Tell what each document has cost; a text that several share is told of the first."""
    of: dict[tuple[str, str], list[Paid]] = {}
    told: set[str] = set()
    for each in made.passages:
        row = each.row
        if row.text_hash in made.outcome.paid and row.text_hash not in told:
            told.add(row.text_hash)
            of.setdefault((row.source, row.document), []).append(made.outcome.paid[row.text_hash])
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


async def commit_pending(collection: str, context: IndexContext, tally: RunStats) -> None:
    """Commit what is pending of a collection, and tally it."""
    committed = await commit(
        collection,
        store=context.store,
        ledger=context.ledger,
        datasets=context.datasets,
        collections=context.collections,
        clock=context.clock,
    )
    if committed.version is not None:
        tally.versions[collection] = committed.version
    tally.failed += len(committed.refused)
    tally.failures += committed.refused
