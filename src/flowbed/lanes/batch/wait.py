"""Collecting: what was handed to a provider goes one step on, and is waited for where that is wanted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from flowbed.errors import Error
from flowbed.lanes.batch.submit import Submitted, all_live, submit
from flowbed.lanes.outcome import Polled
from flowbed.records import Problem, Status
from flowbed.telemetry import PROGRESS, STAGE, reached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from flowbed.lanes.contexts import ModelContext, RunContext
    from flowbed.ledger import SubmissionRow

# Seconds between two looks: a small job is done within some, and a large one is asked about no more than it has to be.
LOOK_FIRST, LOOK_LAST = 1.0, 60.0


async def submissions(context: ModelContext) -> list[SubmissionRow]:
    """Read the live submissions of the model's space, oldest first."""
    return await of_this_model(context, await all_live(context.ledger))


async def of_this_model(context: ModelContext, rows: Sequence[SubmissionRow]) -> list[SubmissionRow]:
    """Keep the submissions of the model's space."""
    if not rows:
        return []
    space = (await asyncio.to_thread(context.embedder)).space.to_json()
    return [row for row in rows if row.space == space]


async def collect(context: RunContext, found: Sequence[SubmissionRow]) -> Polled:
    """Hand in what somebody left, lay down what was answered, and embed now what is late; where none is live, nothing.

    What a provider says no to is told of as a failure: what else there is to do goes on.
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
        polled = await look(context)
        polled.tally.failures[:0] = problems
    except Error as error:
        polled.pending = await submissions(context)
        named = f"{len(live)} submissions" if len(live) > 1 else f"submission {live[0].id}"
        polled.tally.failures.append(
            Problem(subject=named, reason=f"{error}; what is in there waits until it can be asked for")
        )
    return polled


async def look(context: RunContext) -> Polled:
    """Lay down what was answered; what a submission past its deadline gives back without an answer is embedded now.

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
    """What is done again and again until submissions have ended."""

    async def look(self) -> Polled:
        """Look at every submission that is live."""
        ...

    async def submit(self) -> Submitted:
        """Hand in what there was no room for before."""
        ...


@dataclass(frozen=True)
class RunSteps:
    """The steps as a run takes them."""

    context: RunContext

    async def look(self) -> Polled:
        """Look at every submission, and embed now what is late."""
        return await look(self.context)

    async def submit(self) -> Submitted:
        """Hand in what there was no room for before."""
        return await submit(self.context)


@dataclass
class _Waiting:
    """What came of it so far; of what goes wrong with a submission only the last word counts."""

    polled: Polled = field(default_factory=Polled)
    problems: dict[str, Problem] = field(default_factory=dict)

    def take(self, polled: Polled) -> None:
        ended = {f"submission {row.id}" for row in polled.ended}
        pending = {f"submission {row.id}" for row in polled.pending}
        tally = polled.tally
        # One that was refused has ended before it was looked at: that stays said.
        self.problems = {key: each for key, each in self.problems.items() if key not in ended}
        self.problems |= {each.subject: each for each in tally.failures if each.subject in pending - ended}
        tally.failures = [each for each in tally.failures if each.subject not in pending]
        self.polled.tally.add(tally)
        self.polled.ended += polled.ended
        self.polled.pending, self.polled.blocked = polled.pending, polled.blocked

    def told(self) -> Polled:
        self.polled.tally.failures += self.problems.values()
        return self.polled


async def until_ended(
    steps: Steps,
    wanted: Collection[str],
    *,
    problems: Sequence[Problem] = (),
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Polled:
    """Look again and again, more and more rarely, until none of the submissions wanted is live any more.

    What goes on only once a setting has changed is not waited for. `problems` are those that handing them in met with;
    what has gone well since is told of no more.

    Raises:
        Misconfigured: the provider cannot be asked until a setting changes.
    """
    waiting, seconds = _Waiting(problems={each.subject: each for each in problems}), LOOK_FIRST
    told, total = 0, 0
    blocked: set[str] = set()
    while True:
        waiting.take(await steps.look())
        blocked |= {*waiting.polled.blocked}
        mine = [row for row in waiting.polled.pending if row.id in wanted and row.id not in blocked]
        if not mine:
            return waiting.told()
        done = sum(row.done + row.failed for row in mine) + sum(
            row.texts for row in waiting.polled.ended if row.id in wanted
        )
        if not total:
            total = sum(row.texts for row in (*mine, *waiting.polled.ended) if row.id in wanted)
            reached(STAGE, stage="wait", total=total)
        reached(PROGRESS, stage="wait", done=max(0, done - told))
        told = max(told, done)
        await sleep(seconds)
        seconds = min(LOOK_LAST, 2 * seconds)
        if any(row.state != "submitted" for row in mine):
            submitted = await steps.submit()
            blocked |= {*submitted.blocked}
            waiting.problems |= {each.subject: each for each in submitted.failures}
