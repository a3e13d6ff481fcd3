"""Poll: how what was handed in is doing; what is answered is laid down, and what is lost, late or unwanted is ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, NotFound, Transient
from flowbed.lanes.batch.answer_files import copy_answers, read_answers
from flowbed.lanes.batch.find import require_batch_api
from flowbed.lanes.batch.input import read_texts
from flowbed.lanes.batch.lifecycle import (
    AGAIN,
    NOT_HANDED_IN,
    end,
    held_elsewhere,
    is_to_end,
    let_go,
    refuse,
    turned_away,
    withdraw,
)
from flowbed.lanes.batch.results import AGAIN_IS_PAID, Answered, LayingDown
from flowbed.lanes.batch.submit import all_live, chosen
from flowbed.lanes.claims import CLAIM, RUN_CHUNKS, renewed, take_back
from flowbed.lanes.failures import fail, failure
from flowbed.lanes.outcome import Paid, Polled
from flowbed.lanes.write_deltas import commit_pending
from flowbed.records import Problem, Space
from flowbed.telemetry import ANSWERS_COPIED, reached

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowbed.embedding.batch_api import BatchApi, Job
    from flowbed.embedding.cache.cached import Cached
    from flowbed.lanes.contexts import Context, RunContext
    from flowbed.ledger import ChunkRow, SubmissionRow

LOOKS = 10  # jobs that are asked about at once


async def poll(context: RunContext, submissions: Collection[str] = ()) -> Polled:
    """Ask how every submission is that was handed in (or those named), and lay down what has been answered; repeatable.

    What is past its deadline, or is to be cancelled, is ended at the provider: what it has answered until then counts,
    and the rest waits again.

    Raises:
        Misconfigured: the model has no Batch API, it cannot be asked until a setting changes, or a collection lives in
            another space by now.
        NotFound: a submission of that id is not live.
    """
    polled = Polled()
    await take_back(context)
    rows = await chosen(context, submissions)
    # What a poll that was ended has laid down, and committed no more.
    for collection in await context.ledger.runs.collections():
        await commit_pending(collection, context, polled.tally)
    others = [row for row in await all_live(context.ledger) if row.id not in {each.id for each in rows}]
    for row in others:
        if row.id in submissions or (row.cancel and not submissions):
            await _of_another(row, context, polled)
    if not rows:
        return polled
    api = require_batch_api(context)
    embedder = await asyncio.to_thread(context.embedder)
    async with renewed(context, submissions=True):
        for start in range(0, len(rows), LOOKS):
            some = rows[start : start + LOOKS]
            looked = await asyncio.gather(*(_look(row, context, api) for row in some), return_exceptions=True)
            for row, job in zip(some, looked, strict=True):
                # Laid down one after the other: each holds the vectors of a run.
                if isinstance(job, BaseException) and not isinstance(job, Transient):
                    raise job
                await _Polling(context, api, embedder, polled).settle(row, job)
    return polled


@dataclass(frozen=True, kw_only=True)
class _Missing:
    """A job that the provider neither knows nor lists."""


async def _look(row: SubmissionRow, context: Context, api: BatchApi) -> Job | _Missing | None:
    """Ask how a job is, and for its end where that is wanted; None where there is none yet.

    A job that is said to be unknown is looked for in the list. Where it is the address that is wrong, that says so.
    """
    if row.state != "submitted":
        return None
    try:
        job = await api.retrieve(row.job)
        if job.state == "running" and is_to_end(row, context.clock()) and api.terms.cancels:
            await api.cancel(row.job)
            job = await api.retrieve(row.job)
    except NotFound:
        listed = await api.find(row.id)
        # Another one, which has failed, tells nothing of this one.
        there = listed is not None and (listed.id == row.job or listed.state != "failed")
        return listed if listed is not None and there else _Missing()
    return job


async def _of_another(row: SubmissionRow, context: Context, polled: Polled) -> None:
    """End a submission of another model that was not handed in yet; of any other it is said why nothing happens."""
    now = context.clock()
    held = await context.ledger.submissions.hold(row.id, worker=context.worker, now=now, until=now + CLAIM)
    if held is not None and held.cancel and held.state == "ready":
        polled.ended.append(await let_go(held, "cancelled", NOT_HANDED_IN, context))
        return
    if held is not None:
        await context.ledger.submissions.save(replace(held, worker="", until=0), worker=context.worker)
    what = "is to end, and was handed in" if row.cancel else "was handed in"
    model = Space.from_json(row.space).model
    reason = (
        f"it {what} for model {model}, which is not the one set (or had other options): set that again first"
    )
    polled.tally.failures.append(Problem(subject=f"submission {row.id}", reason=reason))
    polled.pending.append(row)
    polled.blocked.append(row.id)


class _Polling:
    """What one job came to, put where it belongs."""

    def __init__(self, context: RunContext, api: BatchApi, embedder: Cached, polled: Polled) -> None:
        self._context, self._api, self._polled = context, api, polled
        self._laying = LayingDown(context, api, embedder, polled.tally)

    async def settle(self, seen: SubmissionRow, job: Job | _Missing | Transient | None) -> None:
        """Go on from what the provider said of a submission as it was seen, unless another worker is at it."""
        if seen.state != "submitted" and not is_to_end(seen, self._context.clock()):
            # Nothing was asked about it, and it is not held: who hands it in at this moment shall find it free.
            self._polled.pending.append(seen)
            return
        row = await self._held(seen.id)
        if row is None:
            return
        if row.state != "submitted":
            await self._not_there_yet(row)
        elif row.job != seen.job or job is None:  # handed in meanwhile: nobody has asked about this job yet
            await self._keep(row)
        elif isinstance(job, Transient):
            self._tell(row, f"{job}; it is asked again by the next run")
            await self._keep(row)
        elif isinstance(job, _Missing):
            await self._missing(row)
        else:
            await self._go_on(replace(row, job=job.id), job)

    async def _go_on(self, row: SubmissionRow, job: Job) -> None:
        if job.state == "running":
            await self._keep(replace(row, done=job.done, failed=job.failed, later=0, error=""))
        elif job.state == "failed":
            await self._failed(row, job)
        else:
            await self._collect(row, job)

    async def _held(self, submission: str) -> SubmissionRow | None:
        """Hold a submission; None where another worker does, or did until it ended."""
        submissions, now = self._context.ledger.submissions, self._context.clock()
        row = await submissions.hold(submission, worker=self._context.worker, now=now, until=now + CLAIM)
        if row is None and (there := await submissions.get(submission)) is not None and not there.ended:
            self._polled.pending.append(there)
        return row

    async def _not_there_yet(self, row: SubmissionRow) -> None:
        """End what was not handed in, where it is to end; what somebody has begun to hand in may have a job."""
        now = self._context.clock()
        if not is_to_end(row, now):
            await self._keep(row)
        elif row.state == "ready":
            await self._let_go(row, "cancelled", NOT_HANDED_IN)
        elif row.later > now and not row.cancel:  # it was asked about just now, and could not be
            await self._keep(row)
        else:
            await self._withdraw(row)

    async def _withdraw(self, row: SubmissionRow) -> None:
        try:
            row, unsure = await withdraw(row, self._context, self._api)
        except (Transient, Misconfigured) as error:
            self._tell(row, f"{error}; whether there is a job for it is asked again by the next run")
            await self._keep(replace(row, error=str(error), later=self._context.clock() + AGAIN))
            return
        if unsure:
            self._tell(row, unsure)
        (self._polled.ended if row.ended else self._polled.pending).append(row)

    async def _missing(self, row: SubmissionRow) -> None:
        """Go on from a job that is not there: another account has it, or it is lost, or not found for a while."""
        if row.account == self._api.terms.account:
            reason = f"the provider does not know job {row.job}"
            if await self._is_sure(row, reason):
                await self._lost(row, f"{reason} any more")
            return
        reason = f"it was handed in with another key, project or address: with those set now there is no job {row.job}"
        if row.cancel:
            reason += (
                ": it was let go, and what the job has cost is paid for beside what embeds its texts now"
            )
            self._tell(row, reason)
            await self._let_go(row, "cancelled", reason)
        else:
            await self._block(row, f"{reason}; set those again, or give it up (`flowbed submissions cancel`)")

    async def _is_sure(self, row: SubmissionRow, reason: str) -> bool:
        """Tell whether something was missing for long enough to be lost; until then the row tells when that will be."""
        now = self._context.clock()
        known = row.later and row.error == reason
        if known and now >= row.later:
            return True
        self._tell(row, f"{reason}, which it may again: it is asked once more by the next run")
        await self._keep(replace(row, error=reason, later=row.later if known else now + AGAIN))
        return False

    async def _collect(self, row: SubmissionRow, job: Job) -> None:
        """Take in the answers of a job that has ended, whole or in part."""
        context = self._context
        row = replace(row, done=job.done, failed=job.failed)
        try:
            lost = await copy_answers(job, row.id, self._api, context.store)
            reached(ANSWERS_COPIED, submission=row.id)
        except Transient as error:
            self._tell(row, f"{error}; its answers are fetched again by the next run")
            await self._keep(row)
            return
        except Misconfigured as error:
            await self._block(row, str(error))
            return
        reason = f"the provider has no file {', '.join(lost)} of job {job.id}"
        if lost and not await self._is_sure(row, reason):
            return
        try:
            answers = await read_answers(row.id, self._api, context.store)
        except Misconfigured as error:
            await self._unusable(row, job, error)
            return
        with answers:
            answered = Answered(job=job, answers=answers, lost=lost)
            ended = await self._laying.lay_down(row, answered)
        if ended is None:
            await self._keep(row)
        else:
            await self._end(ended)

    async def _unusable(self, row: SubmissionRow, job: Job, error: Misconfigured) -> None:
        """Keep answers that cannot be used as things are set, unless their end was asked for."""
        if not row.cancel:
            reason = f"{error}; `flowbed submissions cancel {row.id}` gives its answers up, and its texts wait again"
            await self._block(row, reason)
            return
        if job.tokens:
            await self._laying.spend(row, {("", ""): [Paid(job.tokens, job.tokens)]})
        billed = job.tokens or 0
        cost = billed * self._api.terms.price / 1e6
        await self._let_go(replace(row, billed=billed, cost_usd=cost), "cancelled", str(error))

    async def _failed(self, row: SubmissionRow, job: Job) -> None:
        """Go on from a job that was refused as a whole: nothing of it was worked on."""
        if job.queue_full:
            await self._turned_away(row, job)
            return
        texts = await read_texts(row.id, self._context.store) if job.lines else []
        guilty = {texts[line - 1]: why for line, why in job.lines.items() if 0 < line <= len(texts)}
        if not guilty:
            await self._lost(
                row, job.reason or f"job {job.id} was refused, and the provider does not say why"
            )
            return
        await self._blame(row, guilty)
        await self._let_go(row, "failed", job.reason or next(iter(guilty.values())))

    async def _turned_away(self, row: SubmissionRow, job: Job) -> None:
        """Go on from a queue that had no room."""
        row, hopeless = await turned_away(row, job.reason, self._context)
        if hopeless:
            self._tell(row, hopeless)
        (self._polled.ended if row.ended else self._polled.pending).append(row)

    async def _blame(self, row: SubmissionRow, guilty: dict[str, str]) -> None:
        """Let the chunks fail that a whole job was refused for; the others need not."""
        context = self._context
        while rows := await self._taken(row):
            failed = [
                failure(each, "rejected", guilty[each.text_hash]) for each in rows if each.text_hash in guilty
            ]
            await fail(failed, context, self._polled.tally)
            innocent = [each for each in rows if each.text_hash not in guilty]
            await context.ledger.chunks.give_back(innocent, worker=context.worker)

    async def _taken(self, row: SubmissionRow) -> list[ChunkRow]:
        now = self._context.clock()
        return await self._context.ledger.chunks.take(
            row.id, worker=self._context.worker, now=now, until=now + CLAIM, limit=RUN_CHUNKS
        )

    async def _lost(self, row: SubmissionRow, reason: str) -> None:
        """Let all chunks fail: to embed them again is to pay again, which is for somebody to decide."""
        if await held_elsewhere(row.id, self._context):
            await self._keep(row)
            return
        why = f"{reason}; {AGAIN_IS_PAID}"
        tally = await refuse(row, why, self._context)
        self._polled.tally.failures += tally.failures
        self._polled.tally.failed += tally.failed
        self._polled.ended.append(replace(row, state="failed", error=why))

    async def _let_go(self, row: SubmissionRow, state: str, reason: str) -> None:
        self._polled.ended.append(await let_go(row, state, reason, self._context))

    async def _end(self, row: SubmissionRow) -> None:
        self._polled.ended.append(await end(row, self._context))

    async def _keep(self, row: SubmissionRow) -> None:
        kept = replace(row, worker="", until=0)
        await self._context.ledger.submissions.save(kept, worker=self._context.worker)
        self._polled.pending.append(kept)

    async def _block(self, row: SubmissionRow, reason: str) -> None:
        """Keep what cannot go on until a setting changes."""
        self._tell(row, reason)
        self._polled.blocked.append(row.id)
        await self._keep(replace(row, error=reason, later=0))

    def _tell(self, row: SubmissionRow, reason: str) -> None:
        self._polled.tally.failures.append(Problem(subject=f"submission {row.id}", reason=reason))
