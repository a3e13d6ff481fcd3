"""Embed what a run has to embed, by the lane chosen; chunks whose vectors are known are committed at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.lanes.batch.find import find
from flowbed.lanes.batch.in_flight import InFlightTexts
from flowbed.lanes.batch.submit import submit
from flowbed.lanes.batch.wait import RunSteps, poll_and_embed_late, submissions, wait_until_ended
from flowbed.lanes.choice import UNBOUND, Choice
from flowbed.lanes.claims import WAITING
from flowbed.lanes.failures import RunStats
from flowbed.pipeline.estimate import outlook
from flowbed.telemetry import STAGE, reached

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flowbed.lanes.choice import LaneOption
    from flowbed.lanes.contexts import ModelContext, RunContext
    from flowbed.ledger import ChunkRow
    from flowbed.records import Problem, Status


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a run: lane, deadline, and whether it waits for submissions.

    `deadline` is in seconds from when it `began` (µs since 1970).
    """

    began: int
    lane: LaneOption = "auto"
    wait: bool = False
    deadline: float | None = None

    @property
    def until(self) -> int:
        """When everything has to be embedded (µs since 1970); 0 without a deadline."""
        return 0 if self.deadline is None else self.began + round(self.deadline * 1e6)

    def left(self, now: int) -> float | None:
        """Return the seconds left until the deadline, None without one."""
        return None if self.deadline is None else max(0.0, (self.until - now) / 1e6)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The chunks that a run embeds: those of these sources with these statuses, up to `limit`.

    `batches`, where given, restricts it to those batches, each with its sources ("" is deletions).
    """

    sources: Collection[str]
    statuses: Collection[Status] = WAITING
    limit: int | None = None
    batches: Mapping[str, Collection[str]] | None = None


@dataclass
class Result:
    """What was embedded; `submitted` texts were gathered for the provider, and their results come later.

    `unsure` are problems of submitting that waiting may resolve, except those of the `blocked` submissions.
    """

    choice: Choice
    tally: RunStats
    submitted: int = 0
    unsure: list[Problem] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)


async def choose_early(context: ModelContext, how: RunOptions) -> Choice | None:
    """Choose the lane where that does not depend on how much there is to embed; None where it does."""
    if how.lane == "auto" and how.deadline is None:
        return UNBOUND
    ahead = await outlook(context)
    if how.lane == "auto" and ahead.terms is not None:
        return None
    return ahead.choose(how.lane, tokens=1, texts=1, deadline=how.deadline)


async def choose_lane(context: ModelContext, how: RunOptions, work: Selection) -> Choice:
    """Choose the lane for the waiting texts; texts whose vectors are known use neither."""
    tokens, texts = await _waiting(context, work)
    ahead = await outlook(context)
    return ahead.choose(how.lane, tokens=tokens, texts=texts, deadline=how.left(context.clock()))


async def embed_selection(context: RunContext, work: Selection, choice: Choice, how: RunOptions) -> Result:
    """Embed the waiting chunks by the lane chosen.

    Raises:
        Misconfigured: the model cannot be used, or has no Batch API.
    """
    if choice.lane == "batch":
        done = await _by_batch(context, work, choice, how)
    else:
        from flowbed.lanes.embed import embed  # loads numpy and lance

        tally = await embed(
            context, sources=work.sources, statuses=work.statuses, limit=work.limit, batches=work.batches
        )
        done = Result(choice, tally)
    await wait_if_asked(context, done, how)
    return done


async def wait_if_asked(context: RunContext, done: Result, how: RunOptions) -> None:
    """Wait for every live submission to end, if the run was asked to."""
    live = await submissions(context) if how.wait else []
    if live:
        wanted = {row.id for row in live} - set(done.blocked)
        waited = await wait_until_ended(RunSteps(context), wanted, problems=done.unsure)
        done.tally.add(waited.tally)
    else:
        done.tally.failures += done.unsure


async def _by_batch(context: RunContext, work: Selection, choice: Choice, how: RunOptions) -> Result:
    from flowbed.lanes.embed import KnownVectors  # loads numpy and lance

    tally = RunStats()
    counts = await context.ledger.chunks.counts()
    reached(STAGE, stage="find", total=sum(n for (_, each), n in counts.items() if each in work.statuses))
    found = await find(
        context,
        sources=work.sources,
        statuses=work.statuses,
        limit=work.limit,
        batches=work.batches,
        deadline=how.until,
        reuse=KnownVectors(context, tally),
    )
    tally.failures += found.failures
    tally.stopped = found.stopped
    handed = await submit(context)
    tally.add(await _delete(context, work, taken=found.chunks + found.waiting + found.reused))
    looked = await poll_and_embed_late(context)
    live = {f"submission {row.id}" for row in looked.pending}
    unsure = [*handed.failures, *(each for each in looked.tally.failures if each.subject in live)]
    looked.tally.failures = [each for each in looked.tally.failures if each.subject not in live]
    tally.add(looked.tally)
    return Result(
        choice,
        tally,
        submitted=found.texts,
        unsure=unsure,
        blocked=[*handed.blocked, *looked.blocked],
    )


async def _delete(context: RunContext, work: Selection, *, taken: int) -> RunStats:
    """Carry out the waiting deletions; `taken` chunks count towards the limit already."""
    whose = work.sources if work.batches is None else work.batches.get("", ())
    if not whose:
        return RunStats()
    from flowbed.lanes.embed import embed  # loads numpy and lance

    return await embed(
        context,
        sources=work.sources,
        statuses=work.statuses,
        limit=None if work.limit is None else max(0, work.limit - taken),
        batches={"": whose},
    )


async def _waiting(context: ModelContext, work: Selection) -> tuple[int, int]:
    """Count the waiting tokens and texts, without those that a live submission carries."""
    chunks, now = context.ledger.chunks, context.clock()
    carried = InFlightTexts(context.store, context.ledger, (await asyncio.to_thread(context.embedder)).space)
    await carried.refresh()
    seen: set[bytes] = set()  # 16 bytes for each distinct text
    tokens = 0
    async for batches in chunks.batches(work.statuses, now=now, sources=work.sources):
        for batch in batches:
            if not batch or (work.batches is not None and batch not in work.batches):
                continue
            rows = await chunks.ready(batch, work.statuses, now=now, sources=work.sources)
            for row in _new(rows, seen, carried):
                tokens += row.tokens
    return tokens, len(seen)


def _new(rows: list[ChunkRow], seen: set[bytes], carried: InFlightTexts) -> list[ChunkRow]:
    first: dict[bytes, ChunkRow] = {}
    there = carried.find({row.text_hash for row in rows if not row.deleted})
    for row in rows:
        key = bytes.fromhex(row.text_hash)[:16]
        if not row.deleted and row.text_hash not in there and key not in seen:
            first.setdefault(key, row)
    seen.update(first)
    return list(first.values())
