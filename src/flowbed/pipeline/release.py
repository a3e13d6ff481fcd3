"""Release a staged plan: apply its changes of a source to the ledger, unless the source was fetched since."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowbed.errors import Conflict, Misconfigured, Rejected, Transient
from flowbed.lanes.batch.wait import collect_results
from flowbed.lanes.budget import Budget
from flowbed.lanes.failures import RunStats
from flowbed.ledger import Swap
from flowbed.pipeline.changes import RELEASING
from flowbed.pipeline.estimate import outlook
from flowbed.pipeline.run import finish, recover
from flowbed.pipeline.staging import mark_released, read_documents, read_part, released
from flowbed.pipeline.sync import Synced, apply, check_space, settle_letters, write_batch
from flowbed.pipeline.work import Result, RunOptions, Selection, embed_selection
from flowbed.records import Problem
from flowbed.telemetry import PLAN_RELEASED, PROGRESS, STAGE, reached

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flowbed.lanes.choice import LaneOption
    from flowbed.lanes.contexts import Context, ModelContext, RunContext
    from flowbed.ledger import Cursor
    from flowbed.pipeline import ConfiguredSource
    from flowbed.pipeline.staging import StagedPlan
    from flowbed.records import Report

# Token counts of the local model or a provider may differ a little from those of the plan.
SLACK = 0.1


@dataclass
class ReleasedSource(Synced):
    """What a release did.

    `usable` says that chunks of the plan may be embedded, `ours` that the source is as this plan left it, and `already`
    that nothing was left to release.
    """

    usable: bool = True
    ours: bool = False
    already: bool = False


async def run_plan(
    context: RunContext,
    plan: StagedPlan,
    *,
    feeds: Mapping[str, ConfiguredSource],
    limit: int | None = None,
    lane: LaneOption = "auto",
    wait: bool = False,
    deadline: float | None = None,
) -> Report:
    """Run a staged plan: exactly its changes, in the sources that were not fetched since; safe to repeat.

    `deadline` is in seconds from now. The budget is the plan's price on the lane taken.

    Raises:
        Misconfigured: the plan was made for another space, or the model cannot be used.
    """
    began = context.monotonic()
    check_plan(plan, context)
    how = RunOptions(began=context.clock(), lane=lane, wait=wait, deadline=deadline)
    ahead = await outlook(context)
    choice = ahead.choose(lane, tokens=plan.planned.tokens, texts=plan.planned.chunks, deadline=deadline)
    expected = ahead.batch(plan.planned.tokens) if choice.lane == "batch" else None
    cost, seconds = plan.planned.cost_usd, plan.planned.seconds
    if expected is not None:
        cost, seconds = expected.cost_usd, expected.seconds
    tally = RunStats()
    found = await context.ledger.overview()
    newest = (await recover(context, found, tally)).newest
    # Before the plan's budget applies: results of earlier submissions are no part of it.
    tally.add((await collect_results(context, found.submissions)).tally)
    if context.budget is None:
        # A run that costs more than this does not keep to its plan.
        context = replace(context, budget=Budget(cost * (1 + SLACK)))
    released_: dict[str, ReleasedSource] = {}
    for name in plan.sources:
        if name not in feeds:
            released_[name] = ReleasedSource(usable=False, drift="it is not a source of the project any more")
            continue
        try:
            released_[name] = await release(plan, feeds[name], context)
        except (Misconfigured, Rejected, Transient) as error:
            problem = Problem(subject=f"source {name}", reason=str(error))
            released_[name] = ReleasedSource(usable=False, problems=[problem])
    usable = tuple(name for name, each in released_.items() if each.usable)
    staged = [part.batch.id for name in usable for part in plan.sources[name].parts if part.batch]
    batches: dict[str, Collection[str]] = dict.fromkeys([*plan.waiting, *staged], usable)
    # Deletions have no batch: those that wait belong to the plan where the source is as the plan left it.
    batches[""] = tuple(name for name, each in released_.items() if each.ours)
    reached(STAGE, stage="embed", total=plan.planned.chunks + plan.planned.deleted)
    done = Result(choice, RunStats())
    if usable:
        done = await embed_selection(
            context, Selection(sources=usable, limit=limit, batches=batches), choice, how
        )
    nothing = not done.tally.chunks + done.tally.deleted + done.submitted
    already = nothing and all(each.already for each in released_.values())
    planned = replace(plan.planned, cost_usd=cost, seconds=seconds, already=already)
    return await finish(context, feeds, released_, tally, done, began=began, newest=newest, planned=planned)


def check_plan(plan: StagedPlan, context: ModelContext) -> None:
    """Check that a plan can be run with this model.

    Raises:
        Misconfigured: it was made for another space.
    """
    space = context.embedder().space
    if space.fingerprint != plan.space:
        raise Misconfigured(
            f"plan {plan.plan_id} was made for model {plan.model} (space {plan.space[:8]}), and the model set is"
            f" {space.model} (space {space.space8}): set that model again, or make another plan"
        )


async def release(plan: StagedPlan, feed: ConfiguredSource, context: ModelContext) -> ReleasedSource:
    """Apply the changes of one source, each in one conditional step; safe to repeat.

    Raises:
        Misconfigured: a collection of the source lives in another space.
        Rejected: a part of the plan is missing or damaged.
    """
    name = feed.rules.source
    source = plan.sources[name]
    reached(STAGE, stage="release", source=name)
    if feed.rules.fingerprint != source.rules:
        return ReleasedSource(usable=False, drift="its settings have changed since the plan; plan again")
    await check_space(feed, context)
    done = ReleasedSource(problems=list(source.problems), withheld=source.withheld, empty=source.empty)
    mark = _mark(plan)
    while (end := await released(context.store, plan.plan_id, name)) is None:
        cursor = await context.ledger.documents.cursor(name)
        if not cursor.value.startswith(mark) and cursor.token != source.token:
            return await _drifted(plan, name, context)
        try:
            cursor = await _apply_all(plan, name, cursor, done, context)
        except Conflict:
            continue  # with another process that releases the same plan or fetches: the cursor says which
        if source.complete or source.withheld or source.problems:
            await settle_letters(
                name, source.problems, context, relisted=source.complete, withheld=source.withheld
            )
        end = cursor.token + (1 if source.parts or source.after != source.value else 0)
        # Marked before the last step: after it, the cursor does not show that this plan was released.
        await mark_released(context.store, plan.plan_id, name, token=end)
        reached(PLAN_RELEASED, plan=plan.plan_id, source=name)
    done.already = not done.fetched + done.chunks + done.deleted
    cursor = await context.ledger.documents.cursor(name)
    if cursor.token == end - 1:
        try:
            cursor = await context.ledger.documents.swap(Swap(cursor=cursor, value=source.after))
        except Conflict:  # another run continues from where this plan ended
            return done
    done.ours = (cursor.token, cursor.value) == (end, source.after)
    return done


def _mark(plan: StagedPlan) -> str:
    # While a plan is released the cursor names the plan and its progress, so that a killed release is resumed. Any
    # other run takes it as an empty cursor, and fetches the whole source.
    return f"{RELEASING}{plan.plan_id}:"


async def _apply_all(
    plan: StagedPlan, name: str, cursor: Cursor, done: ReleasedSource, context: Context
) -> Cursor:
    """Apply the changes that are not applied yet; raise `Conflict` where another process has moved the cursor."""
    source, mark = plan.sources[name], _mark(plan)
    at = int(cursor.value.removeprefix(mark)) if cursor.value.startswith(mark) else 0
    for number, part in enumerate(source.parts[at:], at + 1):
        prepared = await read_part(context.store, plan.plan_id, name, part)
        if await write_batch(prepared, context) is None:
            raise Rejected(
                "an abandoned fetch has left another batch file under the name of the plan's; plan again"
            )
        cursor = await apply(cursor, replace(prepared, value=f"{mark}{number}"), context.ledger)
        gone = sum(1 for row in prepared.chunks if row.deleted)
        done.fetched += part.fetched
        done.chunks += len(prepared.chunks) - gone
        done.deleted += gone
        reached(PROGRESS, stage="release", source=name, done=part.fetched, chunks=len(prepared.chunks) - gone)
    return cursor


async def _drifted(plan: StagedPlan, name: str, context: Context) -> ReleasedSource:
    """Count the planned documents that differ from the plan."""
    total = other = 0
    for part in plan.sources[name].parts:
        hashes, removed = await read_documents(context.store, plan.plan_id, name, part)
        known = await context.ledger.documents.get(name, [*hashes, *removed])
        total += len(hashes) + len(removed)
        other += sum(1 for key, digest in hashes.items() if key not in known or known[key].hash != digest)
        other += sum(1 for key in removed if key in known)
    if not other:
        return ReleasedSource(already=True)
    return ReleasedSource(
        drift="another run has fetched it since the plan, or it was rolled back, and"
        f" {other:,} of the {total:,} documents that were planned have changed: they are left unchanged; plan"
        " again"
    )
