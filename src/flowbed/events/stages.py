"""The halves of embedding what waits, for deployments in which other functions do each: deltas, then their commit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowbed.events.waiting_sources import sources_to_embed
from flowbed.index.commit import Committed, commit
from flowbed.index.datasets import UNREADABLE
from flowbed.lanes.budget import Budget
from flowbed.lanes.claims import release_dead_workers
from flowbed.lanes.embed import embed
from flowbed.lanes.failures import RunStats
from flowbed.pipeline.rollback import catch_up_all
from flowbed.pipeline.run import tidy

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowbed.lanes.contexts import RunContext
    from flowbed.records import Problem


async def write_deltas(
    context: RunContext, *, batches: Collection[str] | None = None, limit: int | None = None
) -> RunStats:
    """Embed waiting chunks, of all batch files or of those with these ids, and write deltas; commit nothing.

    Raises:
        Misconfigured: the model cannot be used, or a collection lives in another space.
    """
    if context.budget is None:
        context = replace(context, budget=Budget())
    await release_dead_workers(context)
    await asyncio.to_thread(context.embedder)  # fails here once, before anything is claimed
    sources = sorted(await sources_to_embed(context))
    if not sources:
        return RunStats()
    only = None if batches is None else dict.fromkeys(batches, sources)
    return await embed(replace(context, commits=False), sources=sources, limit=limit, batches=only)


@dataclass
class CommitReport:
    """What was committed, by collection; `deleted` chunks were among it, and `failures` say what was refused."""

    collections: dict[str, Committed] = field(default_factory=dict)
    deleted: int = 0
    failures: list[Problem] = field(default_factory=list)


async def commit_pending(context: RunContext, collection: str | None = None) -> CommitReport:
    """Commit the deltas that no commit holds, of one collection or of all, and the deletions that wait.

    Nothing is embedded. A collection whose index cannot be read does not stop the others.

    Raises:
        Damaged: the only collection cannot be read.
    """
    done, stats = CommitReport(), RunStats()
    overview = await context.ledger.overview()
    await release_dead_workers(context, overview)
    await catch_up_all(context, overview.seen, stats)
    if overview.unfinished:
        await _write_deletions(context, stats)
    pending = await context.ledger.runs.collections()
    for name in sorted({collection} & {*pending} if collection is not None else pending):
        try:
            done.collections[name] = await _commit(name, context, stats)
        except UNREADABLE as error:
            stats.leave_out(name, error)
    if collection is not None and collection in stats.unreadable:
        raise stats.unreadable[collection]
    await tidy(context, stats)
    done.deleted, done.failures = stats.deleted, stats.failures
    return done


async def _write_deletions(context: RunContext, stats: RunStats) -> None:
    """Write the deltas of chunks that wait to be deleted; that needs no model."""
    sources = sorted(await sources_to_embed(context))
    if sources:
        deletions = replace(context, commits=False)
        stats.add(await embed(deletions, sources=sources, batches={"": sources}))


async def _commit(collection: str, context: RunContext, stats: RunStats) -> Committed:
    committed = await commit(
        collection,
        store=context.store,
        ledger=context.ledger,
        datasets=context.datasets,
        collections=context.collections,
        clock=context.clock,
        most_runs=context.commit_deltas,
    )
    if committed.version is not None:
        stats.versions[collection] = committed.version
    stats.failures += committed.refused
    return committed
