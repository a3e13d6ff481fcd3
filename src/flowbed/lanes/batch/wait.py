"""Collect the results of live submissions, and wait for them where a run was asked to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from flowbed.errors import Error
from flowbed.lanes.batch.in_flight import live_submissions
from flowbed.lanes.batch.submit import Submitted, submit
from flowbed.lanes.outcome import Polled
from flowbed.records import Problem, Status
from flowbed.telemetry import PROGRESS, STAGE, reached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from flowbed.lanes.contexts import ModelContext, RunContext
    from flowbed.ledger import SubmissionRow

# Seconds between two polls: a small job ends within seconds, and a large one need not be asked about more often.
POLL_FIRST, POLL_MAX = 1.0, 60.0


async def submissions(context: ModelContext) -> list[SubmissionRow]:
    """Read the live submissions of the model's space, oldest first."""
    return await of_this_model(context, await live_submissions(context.ledger))


async def of_this_model(context: ModelContext, rows: Sequence[SubmissionRow]) -> list[SubmissionRow]:
    """Keep the submissions of the model's space."""
    if not rows:
        return []
    space = (await asyncio.to_thread(context.embedder)).space.to_json()
    return [row for row in rows if row.space == space]


async def collect_results(context: RunContext, found: Sequence[SubmissionRow]) -> Polled:
    """Submit what an earlier run left, commit the results that exist, and embed now what is late.

    `found` are the live submissions; without any, do nothing. A provider's refusal is reported as a failure, so that
    the rest of the run goes on.
    """
    polled = Polled()
    live = await of_this_model(context, found)
    if not live:
        # A submission of another model may have to be cancelled all the same; poll does it, or reports why not.
        if not any(row.cancel for row in found):
            return polled
        from flowbed.lanes.batch.poll import poll  # loads numpy and lance

        return await poll(context)
    try:
        problems: list[Problem] = []
        if any(row.state != "submitted" for row in live):
            problems = (await submit(context)).failures
        polled = await poll_and_embed_late(context)
        polled.tally.failures[:0] = problems
    except Error as error:
        polled.pending = await submissions(context)
        named = f"{len(live)} submissions" if len(live) > 1 else f"submission {live[0].id}"
        polled.tally.failures.append(
            Problem(subject=named, reason=f"{error}; their texts wait until the provider can be asked")
        )
    return polled


async def poll_and_embed_late(context: RunContext) -> Polled:
    """Commit the results that exist; embed now what a submission past its deadline has no result for.

    Raises:
        Misconfigured: the provider cannot be asked until a setting changes.
    """
    from flowbed.lanes.batch.poll import poll
    from flowbed.lanes.embed import embed

    now = context.clock()
    late = {row.id for row in await submissions(context) if 0 < row.deadline <= now}
    batches: dict[str, set[str]] = {}
    for submission in late:
        async for page in context.ledger.chunks.submitted(submission):
            for row in page:
                batches.setdefault(row.batch, set()).add(row.source)
    polled = await poll(context)
    if late & {row.id for row in polled.ended} and batches:
        sources = sorted(set().union(*batches.values()))
        polled.tally.add(await embed(context, sources=sources, statuses={Status.NONE}, batches=batches))
    return polled


class Steps(Protocol):
    """The steps that are repeated until submissions have ended."""

    async def poll(self) -> Polled:
        """Poll every live submission."""
        ...

    async def submit(self) -> Submitted:
        """Submit what the provider's queue had no room for."""
        ...


@dataclass(frozen=True)
class RunSteps:
    """The steps as a run takes them."""

    context: RunContext

    async def poll(self) -> Polled:
        """Poll every live submission, and embed now what is late."""
        return await poll_and_embed_late(self.context)

    async def submit(self) -> Submitted:
        """Submit what the provider's queue had no room for."""
        return await submit(self.context)


@dataclass
class _Progress:
    """The sum of several polls; of the problems of a submission only the latest counts."""

    polled: Polled = field(default_factory=Polled)
    problems: dict[str, Problem] = field(default_factory=dict)

    def add(self, polled: Polled) -> None:
        ended = {f"submission {row.id}" for row in polled.ended}
        pending = {f"submission {row.id}" for row in polled.pending}
        tally = polled.tally
        # A refused submission ended before it was polled: its problem is kept.
        self.problems = {key: each for key, each in self.problems.items() if key not in ended}
        self.problems |= {each.subject: each for each in tally.failures if each.subject in pending - ended}
        tally.failures = [each for each in tally.failures if each.subject not in pending]
        self.polled.tally.add(tally)
        self.polled.ended += polled.ended
        self.polled.pending, self.polled.blocked = polled.pending, polled.blocked

    def total(self) -> Polled:
        self.polled.tally.failures += self.problems.values()
        return self.polled


async def wait_until_ended(
    steps: Steps,
    wanted: Collection[str],
    *,
    problems: Sequence[Problem] = (),
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Polled:
    """Poll at growing intervals until none of the `wanted` submissions is live.

    Submissions that are blocked until a setting changes are not waited for. `problems` are those met while submitting;
    a problem that has since been resolved is not reported.

    Raises:
        Misconfigured: the provider cannot be asked until a setting changes.
    """
    progress, seconds = _Progress(problems={each.subject: each for each in problems}), POLL_FIRST
    reported, total = 0, 0
    blocked: set[str] = set()
    while True:
        progress.add(await steps.poll())
        blocked |= {*progress.polled.blocked}
        pending = [row for row in progress.polled.pending if row.id in wanted and row.id not in blocked]
        if not pending:
            return progress.total()
        ended = [row for row in progress.polled.ended if row.id in wanted]
        done = sum(row.done + row.failed for row in pending) + sum(row.texts for row in ended)
        if not total:
            total = sum(row.texts for row in (*pending, *ended))
            reached(STAGE, stage="wait", total=total)
        reached(PROGRESS, stage="wait", done=max(0, done - reported))
        reported = max(reported, done)
        await sleep(seconds)
        seconds = min(POLL_MAX, 2 * seconds)
        if any(row.state != "submitted" for row in pending):
            submitted = await steps.submit()
            blocked |= {*submitted.blocked}
            progress.problems |= {each.subject: each for each in submitted.failures}
