"""Poll submissions: commit the results that exist, and end what is lost, late or cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, NotFound, Transient
from flowbed.lanes.batch.answer_files import copy_answers, read_answers
from flowbed.lanes.batch.find import require_batch_api
from flowbed.lanes.batch.in_flight import live_submissions
from flowbed.lanes.batch.input import read_texts
from flowbed.lanes.batch.lifecycle import (
    NOT_SUBMITTED,
    RETRY_AFTER,
    end_and_release,
    fail_submission,
    has_other_workers,
    postpone,
    record_end,
    should_end,
    take_chunks,
    withdraw,
)
from flowbed.lanes.batch.results import RETRY_COSTS, ResultWriter, SubmissionResults
from flowbed.lanes.batch.submit import select_submissions
from flowbed.lanes.claims import CLAIM, release_dead_workers, renewed
from flowbed.lanes.failures import fail, failure
from flowbed.lanes.outcome import Paid, Polled
from flowbed.lanes.write_deltas import commit_readable
from flowbed.records import Problem, Space
from flowbed.telemetry import ANSWERS_COPIED, reached

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowbed.embedding.batch_api import BatchApi, Job
    from flowbed.embedding.cache.cached import Cached
    from flowbed.lanes.contexts import Context, RunContext
    from flowbed.ledger import SubmissionRow

CONCURRENCY = 10  # jobs that are asked about at once


async def poll(context: RunContext, submissions: Collection[str] = ()) -> Polled:
    """Poll every submission (or those named), and commit the results that exist; safe to repeat.

    A job that is past its deadline or cancelled is ended at the provider: the results it has by then count, and the
    other texts wait again.

    Raises:
        Misconfigured: the model has no Batch API, it cannot be asked until a setting changes, or a collection has moved
            to another space.
        NotFound: a submission of that id is not live.
    """
    polled = Polled()
    await release_dead_workers(context)
    rows = await select_submissions(context, submissions)
    # Deltas that an interrupted poll wrote and did not commit.
    for collection in await context.ledger.runs.collections() if context.commits else ():
        await commit_readable(collection, context, polled.tally)
    others = [
        row for row in await live_submissions(context.ledger) if row.id not in {each.id for each in rows}
    ]
    for row in others:
        if row.id in submissions or (row.cancel and not submissions):
            await _poll_other_model(row, context, polled)
    if not rows:
        return polled
    api = require_batch_api(context)
    embedder = await asyncio.to_thread(context.embedder)
    async with renewed(context, submissions=True):
        for start in range(0, len(rows), CONCURRENCY):
            some = rows[start : start + CONCURRENCY]
            jobs = await asyncio.gather(
                *(_retrieve(row, context, api) for row in some), return_exceptions=True
            )
            for row, job in zip(some, jobs, strict=True):
                # One after the other: each holds the vectors of a run.
                if isinstance(job, BaseException) and not isinstance(job, Transient):
                    raise job
                await _Poller(context, api, embedder, polled).settle(row, job)
    return polled


@dataclass(frozen=True, kw_only=True)
class _Missing:
    """The provider neither knows nor lists the job."""


async def _retrieve(row: SubmissionRow, context: Context, api: BatchApi) -> Job | _Missing | None:
    """Retrieve the job of a submission, and cancel it where it should end; None where there is no job yet.

    A job that the provider does not know is looked for in its list. Where the address is wrong, listing reports that.
    """
    if row.state != "submitted":
        return None
    try:
        job = await api.retrieve(row.job)
        if job.state == "running" and should_end(row, context.clock()) and api.terms.cancels:
            await api.cancel(row.job)
            job = await api.retrieve(row.job)
    except NotFound:
        listed = await api.find(row.id)
        # Another job, which has failed, says nothing about this one.
        usable = listed is not None and (listed.id == row.job or listed.state != "failed")
        return listed if listed is not None and usable else _Missing()
    return job


async def _poll_other_model(row: SubmissionRow, context: Context, polled: Polled) -> None:
    """End a cancelled submission of another model that was not submitted; of any other report why nothing happens."""
    now = context.clock()
    held = await context.ledger.submissions.hold(row.id, worker=context.worker, now=now, until=now + CLAIM)
    if held is not None and held.cancel and held.state == "ready":
        polled.ended.append(await end_and_release(held, "cancelled", NOT_SUBMITTED, context))
        return
    if held is not None:
        await context.ledger.submissions.save(replace(held, worker="", until=0), worker=context.worker)
    status = "was cancelled, and was submitted" if row.cancel else "was submitted"
    model = Space.from_json(row.space).model
    reason = (
        f"it {status} for model {model}, which is not the one set (or had other options):"
        " set that model again first"
    )
    polled.tally.failures.append(Problem(subject=f"submission {row.id}", reason=reason))
    polled.pending.append(row)
    polled.blocked.append(row.id)


class _Poller:
    """Acts on the state of jobs, and adds what came of it to `polled`."""

    def __init__(self, context: RunContext, api: BatchApi, embedder: Cached, polled: Polled) -> None:
        self._context, self._api, self._polled = context, api, polled
        self._writer = ResultWriter(context, api, embedder, polled.tally)

    async def settle(self, seen: SubmissionRow, job: Job | _Missing | Transient | None) -> None:
        """Act on the job of a submission as it was `seen`, unless another worker holds the submission."""
        if seen.state != "submitted" and not should_end(seen, self._context.clock()):
            # Not held, so that a worker that is submitting it finds it free.
            self._polled.pending.append(seen)
            return
        row = await self._hold(seen.id)
        if row is None:
            return
        if row.state != "submitted":
            await self._settle_unsubmitted(row)
        elif row.job != seen.job or job is None:  # submitted meanwhile: this job was not asked about yet
            await self._keep(row)
        elif isinstance(job, Transient):
            self._report(row, f"{job}; the next run asks again")
            await self._keep(row)
        elif isinstance(job, _Missing):
            await self._settle_missing(row)
        else:
            await self._settle_job(replace(row, job=job.id), job)

    async def _settle_job(self, row: SubmissionRow, job: Job) -> None:
        if job.state == "running":
            await self._keep(replace(row, done=job.done, failed=job.failed, later=0, error=""))
        elif job.state == "failed":
            await self._failed(row, job)
        else:
            await self._collect(row, job)

    async def _hold(self, submission: str) -> SubmissionRow | None:
        """Hold a submission; None where another worker holds it, or it has ended."""
        submissions, now = self._context.ledger.submissions, self._context.clock()
        row = await submissions.hold(submission, worker=self._context.worker, now=now, until=now + CLAIM)
        if row is None and (current := await submissions.get(submission)) is not None and not current.ended:
            self._polled.pending.append(current)
        return row

    async def _settle_unsubmitted(self, row: SubmissionRow) -> None:
        """End what was not submitted, where it should end; one whose submitting was interrupted may have a job."""
        now = self._context.clock()
        if not should_end(row, now):
            await self._keep(row)
        elif row.state == "ready":
            await self._end_and_release(row, "cancelled", NOT_SUBMITTED)
        elif row.later > now and not row.cancel:  # the provider was asked a moment ago, and could not answer
            await self._keep(row)
        else:
            await self._withdraw(row)

    async def _withdraw(self, row: SubmissionRow) -> None:
        try:
            row, unsure = await withdraw(row, self._context, self._api)
        except (Transient, Misconfigured) as error:
            self._report(row, f"{error}; the next run asks again whether there is a job for it")
            await self._keep(replace(row, error=str(error), later=self._context.clock() + RETRY_AFTER))
            return
        if unsure:
            self._report(row, unsure)
        (self._polled.ended if row.ended else self._polled.pending).append(row)

    async def _settle_missing(self, row: SubmissionRow) -> None:
        """Handle a missing job: another account has it, or it is lost, or just not found for a while."""
        if row.account == self._api.terms.account:
            reason = f"the provider does not know job {row.job}"
            if await self._is_lost_for_good(row, reason):
                await self._fail_all(row, f"{reason} any more")
            return
        reason = f"it was submitted with another key, project or address: with those set now there is no job {row.job}"
        if row.cancel:
            reason += ": it was given up, and the job is paid for in addition to embedding its texts again"
            self._report(row, reason)
            await self._end_and_release(row, "cancelled", reason)
        else:
            await self._block(row, f"{reason}; set those again, or give it up (`flowbed submissions cancel`)")

    async def _is_lost_for_good(self, row: SubmissionRow, reason: str) -> bool:
        """Tell whether something was missing for long enough to be lost; until then `later` of the row says when."""
        now = self._context.clock()
        known = row.later and row.error == reason
        if known and now >= row.later:
            return True
        self._report(row, f"{reason}, which may pass: the next run asks once more")
        await self._keep(replace(row, error=reason, later=row.later if known else now + RETRY_AFTER))
        return False

    async def _collect(self, row: SubmissionRow, job: Job) -> None:
        """Collect the results of a job that has ended, all or some of them."""
        context = self._context
        row = replace(row, done=job.done, failed=job.failed)
        try:
            lost = await copy_answers(job, row.id, self._api, context.store)
            reached(ANSWERS_COPIED, submission=row.id)
        except Transient as error:
            self._report(row, f"{error}; the next run fetches its results again")
            await self._keep(row)
            return
        except Misconfigured as error:
            await self._block(row, str(error))
            return
        reason = f"the provider has no file {', '.join(lost)} of job {job.id}"
        if lost and not await self._is_lost_for_good(row, reason):
            return
        try:
            answers = await read_answers(row.id, self._api, context.store)
        except Misconfigured as error:
            await self._unusable(row, job, error)
            return
        with answers:
            results = SubmissionResults(job=job, answers=answers, lost=lost)
            ended = await self._writer.write(row, results)
        if ended is None:
            await self._keep(row)
        else:
            await self._end(ended)

    async def _unusable(self, row: SubmissionRow, job: Job, error: Misconfigured) -> None:
        """Keep results that are unusable with the present settings, unless the submission was cancelled."""
        if not row.cancel:
            reason = f"{error}; `flowbed submissions cancel {row.id}` gives its results up, and its texts wait again"
            await self._block(row, reason)
            return
        if job.tokens:
            await self._writer.record_spend(row, {("", ""): [Paid(job.tokens, job.tokens)]})
        billed = job.tokens or 0
        cost = billed * self._api.terms.price / 1e6
        await self._end_and_release(replace(row, billed=billed, cost_usd=cost), "cancelled", str(error))

    async def _failed(self, row: SubmissionRow, job: Job) -> None:
        """Handle a job that was refused as a whole: none of its texts was processed."""
        if job.queue_full:
            await self._postpone(row, job)
            return
        texts = await read_texts(row.id, self._context.store) if job.lines else []
        refused = {texts[line - 1]: why for line, why in job.lines.items() if 0 < line <= len(texts)}
        if not refused:
            await self._fail_all(
                row, job.reason or f"job {job.id} was refused, and the provider does not say why"
            )
            return
        await self._fail_refused(row, refused)
        await self._end_and_release(row, "failed", job.reason or next(iter(refused.values())))

    async def _postpone(self, row: SubmissionRow, job: Job) -> None:
        """Handle a queue that had no room."""
        row, hopeless = await postpone(row, job.reason, self._context, table=self._api.terms.table)
        if hopeless:
            self._report(row, hopeless)
        (self._polled.ended if row.ended else self._polled.pending).append(row)

    async def _fail_refused(self, row: SubmissionRow, refused: dict[str, str]) -> None:
        """Fail the chunks that the whole job was refused for; the others wait again."""
        context = self._context
        while rows := await take_chunks(row, context):
            failed = [
                failure(each, "rejected", refused[each.text_hash])
                for each in rows
                if each.text_hash in refused
            ]
            await fail(failed, context, self._polled.tally)
            others = [each for each in rows if each.text_hash not in refused]
            await context.ledger.chunks.give_back(others, worker=context.worker)

    async def _fail_all(self, row: SubmissionRow, reason: str) -> None:
        """Fail all chunks: embedding them again costs again, which a person has to decide."""
        if await has_other_workers(row.id, self._context):
            await self._keep(row)
            return
        reason = f"{reason}; {RETRY_COSTS}"
        self._polled.tally.add(await fail_submission(row, reason, self._context))
        self._polled.ended.append(replace(row, state="failed", error=reason))

    async def _end_and_release(self, row: SubmissionRow, state: str, reason: str) -> None:
        self._polled.ended.append(await end_and_release(row, state, reason, self._context))

    async def _end(self, row: SubmissionRow) -> None:
        self._polled.ended.append(await record_end(row, self._context))

    async def _keep(self, row: SubmissionRow) -> None:
        kept = replace(row, worker="", until=0)
        await self._context.ledger.submissions.save(kept, worker=self._context.worker)
        self._polled.pending.append(kept)

    async def _block(self, row: SubmissionRow, reason: str) -> None:
        """Keep a submission that cannot go on until a setting changes."""
        self._report(row, reason)
        self._polled.blocked.append(row.id)
        await self._keep(replace(row, error=reason, later=0))

    def _report(self, row: SubmissionRow, reason: str) -> None:
        self._polled.tally.failures.append(Problem(subject=f"submission {row.id}", reason=reason))
