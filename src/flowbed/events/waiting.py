"""Embed what waits, without fetching."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.events.waiting_sources import sources_to_embed
from flowbed.lanes.batch.wait import collect_results
from flowbed.lanes.budget import Budget
from flowbed.lanes.claims import WAITING
from flowbed.lanes.failures import RunStats
from flowbed.pipeline.run import finish, recover
from flowbed.pipeline.work import RunOptions, Selection, choose_early, choose_lane, embed_selection
from flowbed.records import Status

if TYPE_CHECKING:
    from flowbed.lanes.choice import LaneOption
    from flowbed.lanes.contexts import Context, RunContext
    from flowbed.records import Report


async def embed_waiting(
    context: RunContext,
    *,
    lane: LaneOption = "auto",
    deadline: float | None = None,
) -> Report:
    """Embed and commit the chunks that wait, of all sources.

    Safe to repeat, and beside other runs: each chunk is claimed by one. Results of earlier submissions are collected
    first. `deadline` is in seconds from now.

    Raises:
        Misconfigured: the model cannot be used, or a collection lives in another space.
        Transient: the ledger or the store cannot be reached.
    """
    began = context.monotonic()
    if context.budget is None:
        context = replace(context, budget=Budget())
    how = RunOptions(began=context.clock(), lane=lane, deadline=deadline)
    stats = RunStats()
    found = await context.ledger.overview()
    recovered = await recover(context, found, stats)
    await asyncio.to_thread(context.embedder)
    stats.add((await collect_results(context, found.submissions)).tally)
    sources = sorted({*await sources_to_embed(context), *recovered.to_embed})
    # No source has an empty name: without any to embed, nothing is claimed.
    work = Selection(sources=sources or ("",))
    choice = await choose_early(context, how) or await choose_lane(context, how, work)
    done = await embed_selection(context, work, choice, how)
    report = await finish(context, {}, {}, stats, done, began=began, newest=recovered.newest)
    return replace(
        report,
        versions={**stats.versions, **done.tally.versions},
        waiting=await _waiting(context),
    )


async def _waiting(context: Context) -> int:
    """Count the chunks that wait; at least 1 where one that failed for a passing reason is tried again."""
    counts = await context.ledger.chunks.counts()
    waiting = sum(number for (_, status), number in counts.items() if status is Status.NONE)
    if waiting or not any(status is Status.FAILED for _, status in counts):
        return waiting
    # Refused texts are FAILED too, and wait for nothing.
    async for page in context.ledger.chunks.batches(WAITING, now=context.clock(), sources=()):
        return len(page)
    return 0
