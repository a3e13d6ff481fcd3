"""Run: recover what was left, fetch what changed, embed, commit, and report."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowbed.errors import Conflict, Damaged, Error, Transient
from flowbed.index.lease import held
from flowbed.index.versions import newest_version, state
from flowbed.lanes.batch.wait import collect_results, of_this_model
from flowbed.lanes.budget import Budget
from flowbed.lanes.claims import WAITING, BatchQueue, is_left, release_dead_workers
from flowbed.lanes.failures import RunStats
from flowbed.pipeline.rollback import catch_up, catch_up_all
from flowbed.pipeline.sync import Synced, check_space, sync
from flowbed.pipeline.work import (
    Result,
    RunOptions,
    Selection,
    choose_early,
    choose_lane,
    embed_selection,
    wait_if_asked,
)
from flowbed.records import Planned, Problem, Report, Status
from flowbed.records.external import external_source, is_external
from flowbed.records.precomputed import precomputed_source
from flowbed.telemetry import FETCHED, reached

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.index.active_space import Live
    from flowbed.index.compaction import Compaction, VectorIndex
    from flowbed.index.versions.retention import Retention
    from flowbed.lanes.choice import LaneOption
    from flowbed.lanes.contexts import Context, IndexContext, ModelContext, RunContext
    from flowbed.ledger import Overview
    from flowbed.pipeline import ConfiguredSource

# Seconds for which the progress read for all sources at once may be used for the next one. Later, another run may have
# added documents that have gone since, and this run would not notice.
RECENT = 5.0


async def run(
    context: RunContext,
    *,
    feeds: Mapping[str, ConfiguredSource],
    allow_deletes: bool = False,
    statuses: Collection[Status] = WAITING,
    limit: int | None = None,
    lane: LaneOption = "auto",
    wait: bool = False,
    deadline: float | None = None,
    others: bool = False,
) -> Report:
    """Bring the index in step with the sources of `feeds`; one that fails does not stop the others.

    Results of earlier submissions are collected first. `deadline` is in seconds from now. With `others`, chunks of
    other programs' batch files are embedded too, wherever in the store those are.

    Raises:
        Misconfigured: the model cannot be used, or a collection lives in another space; or the batch lane was
            requested, and the model has no Batch API.
    """
    began = context.monotonic()
    if context.budget is None:
        context = replace(context, budget=Budget())
    how = RunOptions(began=context.clock(), lane=lane, wait=wait, deadline=deadline)
    stats = RunStats()
    found = await context.ledger.overview()
    recovered = await recover(context, found, stats)
    await asyncio.to_thread(context.embedder)  # fails here once, rather than for every source
    # No source has an empty name: without any to embed, nothing is claimed.
    left_by_others = await waiting_external(context) if others and found.unfinished else set()
    sources = (*feeds, *map(external_source, feeds), *left_by_others, *recovered.to_embed) or ("",)
    work = Selection(sources=sources, statuses=statuses, limit=limit)
    choice = await choose_early(context, how)
    stats.add((await collect_results(context, found.submissions)).tally)
    fresh = BatchQueue()
    fetching = asyncio.create_task(_fetch(context, feeds, fresh, found, allow_deletes=allow_deletes))
    left = None
    try:
        if choice is not None and choice.lane == "realtime":
            # Embed the first batches while the rest is fetched.
            if not await fresh.any():
                left = await context.ledger.overview()
            done = Result(choice, RunStats())
            if left is None or is_left(left, statuses):
                from flowbed.lanes.embed import embed  # loads numpy and lance

                left = None
                done.tally = await embed(
                    context, sources=work.sources, statuses=statuses, limit=limit, fresh=fresh
                )
            synced = await fetching
            await wait_if_asked(context, done, how)
            left = None if wait else left  # waiting may have ended submissions
        else:
            while await fresh.next() is not None:
                pass
            synced = await fetching
            done = await embed_selection(context, work, choice or await choose_lane(context, how, work), how)
    finally:
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
    newest = recovered.newest
    return await finish(context, feeds, synced, stats, done, began=began, newest=newest, left=left)


async def _fetch(
    context: ModelContext,
    feeds: Mapping[str, ConfiguredSource],
    fresh: BatchQueue,
    found: Overview,
    *,
    allow_deletes: bool,
) -> dict[str, Synced]:
    """Fetch source by source while batches are embedded; the failure of a single source is the run's."""
    synced: dict[str, Synced] = {}
    failure: Error | None = None
    try:
        progress = await context.ledger.documents.progress(feeds)
        read = context.monotonic()
        for name, feed in feeds.items():
            try:
                if context.monotonic() - read > RECENT:
                    progress = await context.ledger.documents.progress([name])
                await check_space(feed, context)
                synced[name] = await sync(
                    feed,
                    context,
                    allow_deletes=allow_deletes,
                    wrote=fresh.add,
                    progress=progress[name],
                    troubled=name in found.troubled,
                )
            except Error as error:
                failure = error
                synced[name] = Synced(problems=[Problem(subject=f"source {name}", reason=str(error))])
    except BaseException as error:  # wake the consumer of the queue
        fresh.end(error)
        raise
    reached(FETCHED)
    fresh.end(failure if len(feeds) == 1 else None)
    return synced


async def finish(
    context: RunContext,
    feeds: Mapping[str, ConfiguredSource],
    synced: Mapping[str, Synced],
    before: RunStats,
    done: Result,
    *,
    began: float,
    newest: Mapping[str, int],
    left: Overview | None = None,
    planned: Planned | None = None,
) -> Report:
    """Compact where that is due, and report.

    `before` is what was recovered and collected first, `done` what was embedded. `newest` are the collections' versions
    as the run found them, `left` is the state of the ledger, where nothing was done since it was read.
    """
    tally = RunStats()
    tally.add(before)
    tally.add(done.tally)
    await tidy(context, tally)
    _require_readable(feeds, tally)
    # Another process may have committed what this one embedded.
    known = {} if tally.chunks or tally.deleted else newest
    left = left or await context.ledger.overview()
    skipped = [problem for each in synced.values() for problem in each.problems if problem.skipped]
    failures = [problem for each in synced.values() for problem in each.problems if not problem.skipped]
    failures += tally.failures
    failures += [Problem(subject="embedding", reason=tally.stopped)] if tally.stopped else []
    return Report(
        fetched=sum(each.fetched for each in synced.values()),
        chunks=tally.chunks,
        embedded=tally.sent,
        reused=max(0, tally.chunks - tally.sent),  # texts that were sent may have failed
        deleted=tally.deleted,
        failed=len(failures),
        tokens=tally.tokens,
        cost_usd=tally.cost_usd,
        perhaps_billed_usd=0.0 if context.budget is None else context.budget.perhaps_usd,
        seconds=context.monotonic() - began,
        versions=await _versions(context, feeds, known, tally),
        truncated=tally.truncated,
        embedding_seconds=tally.seconds,
        waiting=_waiting(left, feeds),
        lane=done.choice.lane,
        lane_why=done.choice.why,
        submitted=done.submitted,
        submissions=tuple([row.id for row in await of_this_model(context, left.submissions)]),
        planned=planned,
        drift={name: each.drift for name, each in synced.items() if each.drift},
        failures=tuple(failures),
        skipped=tuple(skipped),
        withheld={name: each.withheld for name, each in synced.items() if each.withheld},
        empty={name: each.empty for name, each in synced.items() if each.empty},
    )


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What was found: the newest version of each collection, and the sources of precomputed rows to embed."""

    newest: dict[str, int]
    to_embed: Sequence[str] = ()


async def recover(context: IndexContext, found: Overview, stats: RunStats) -> Recovered:
    """Recover what killed processes left: claims, a rollback that was not recorded, deltas that were not committed.

    Precomputed rows that wait, also after a repair, are written and committed from their batch files.
    """
    await release_dead_workers(context, found)
    newest = await catch_up_all(context, found.seen, stats)
    # Recording a rollback changes what is pending, but adds no collection to it.
    for collection in found.pending:
        if collection not in stats.unreadable:
            from flowbed.lanes.write_deltas import commit_readable  # loads numpy and lance

            await commit_readable(collection, context, stats)
    to_embed: list[str] = []
    waiting = [name for name in await _waiting_precomputed(context, found) if name not in stats.unreadable]
    if waiting:
        from flowbed.lanes.precomputed import finish_precomputed  # loads numpy and lance

        to_embed = await finish_precomputed(context, waiting, stats)
    return Recovered(newest=newest | stats.versions, to_embed=to_embed)


async def _waiting_precomputed(context: Context, found: Overview) -> list[str]:
    """Return the collections with precomputed rows that wait, or are claimed by a worker that has ended."""
    collections = sorted({name for name, status in found.unfinished if status is not Status.REVERTED})
    if not collections:
        return []
    sources = {precomputed_source(name): name for name in collections}
    waiting = []
    for source, name in sources.items():
        batches = context.ledger.chunks.batches(WAITING, now=context.clock(), sources=(source,))
        if [page async for page in batches]:
            waiting.append(name)
    return waiting


async def waiting_external(context: Context) -> set[str]:
    """Return the sources of other programs' batch files that have a waiting chunk."""
    found: set[str] = set()
    async for page in context.ledger.chunks.batches(WAITING, now=context.clock(), sources=()):
        rows = await context.ledger.batches.get([batch for batch in page if batch])
        found.update(row.source for row in rows.values() if is_external(row.source))
    return found


def _require_readable(feeds: Mapping[str, ConfiguredSource], tally: RunStats) -> None:
    """Raise what is wrong with the index of the only collection, or of every one."""
    wanted = _collections(feeds)
    if wanted and wanted <= tally.unreadable.keys():
        raise tally.unreadable[min(wanted)]


async def tidy(context: IndexContext, tally: RunStats) -> None:
    """Compact the collections that were written to where that is due and no other process does it."""
    for collection in tally.versions:
        from flowbed.index.compaction import is_due

        now, retention = context.clock(), context.retention
        # Another process may be compacting or writing: the next run tries again.
        with contextlib.suppress(Conflict, Transient):
            try:
                live = await context.collections.get(collection)
                if live is not None and await is_due(
                    live,
                    datasets=context.datasets,
                    now=now,
                    retention=retention,
                    full_text=context.full_text,
                ):
                    await compact_one(context, live, vector_index="auto", only_if_due=True)
            except Damaged as error:
                tally.leave_out(collection, error)


async def compact_one(
    context: IndexContext,
    live: Live,
    *,
    vector_index: VectorIndex,
    retention: Retention | None = None,
    full_text: bool = False,
    only_if_due: bool = False,
) -> Compaction | None:
    """Compact one collection under its maintenance lease; `retention` and `full_text` override the settings.

    Raises:
        Conflict: another process is compacting it; with `only_if_due` at once, otherwise after a wait.
        Rejected: nothing was ever committed to it.
    """
    from flowbed.index.compaction import compact  # loads numpy and lance

    pending = await context.ledger.runs.pending(live.collection, limit=1)
    async with held(
        context.store,
        live.collection,
        owner=context.worker,
        dead=context.dead,
        monotonic=context.monotonic,
        times=context.lease,
        wait=not only_if_due,
    ):
        await catch_up(context, live)  # before the versions that show a rollback are dropped
        return await compact(
            live,
            datasets=context.datasets,
            vector_index=vector_index,
            oldest_pending=pending[0].created if pending else None,
            now=context.clock(),
            retention=retention or context.retention,
            full_text=full_text or context.full_text,
            only_if_due=only_if_due,
        )


def _collections(feeds: Mapping[str, ConfiguredSource]) -> set[str]:
    return {collection for feed in feeds.values() for collection in feed.rules.collections}


def _waiting(left: Overview, feeds: Mapping[str, ConfiguredSource]) -> int:
    """Count the waiting chunks in the collections of these sources."""
    names = _collections(feeds)
    return sum(
        number for (name, each), number in left.unfinished.items() if name in names and each is Status.NONE
    )


async def _versions(
    context: IndexContext,
    feeds: Mapping[str, ConfiguredSource],
    newest: Mapping[str, int],
    tally: RunStats,
) -> dict[str, int]:
    """Return the version of each readable collection of these sources; only those written to are read again."""
    found = {}
    for name in sorted(_collections(feeds) - tally.unreadable.keys()):
        if name in newest and name not in tally.versions:
            found[name] = newest[name]
        elif (live := await context.collections.get(name)) is not None:
            version = await newest_version(live, store=context.store)
            if version is None:
                version = (await state(live, datasets=context.datasets)).version
            found[name] = version
    return found
