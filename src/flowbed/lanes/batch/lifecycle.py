"""How a submission is retried, cancelled or ended. It loads neither numpy nor the index."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import stamina

from flowbed.errors import Misconfigured, QueueFull, Transient
from flowbed.lanes.batch.in_flight import live_submissions
from flowbed.lanes.claims import CLAIM, RUN_CHUNKS
from flowbed.lanes.failures import RunStats, fail, failure
from flowbed.lanes.retries import ATTEMPTS, WAIT_FIRST, WAIT_JITTER, WAIT_MOST, report_retry, wait
from flowbed.telemetry import JOB_MADE, SUBMISSION_ENDED, SUBMISSION_SUBMITTED, reached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.embedding.batch_api import BatchApi, Job
    from flowbed.lanes.contexts import Context
    from flowbed.ledger import ChunkRow, SubmissionRow

T = TypeVar("T")

# What the provider did not take is submitted again after this long (µs); its queue moves in minutes, not in seconds.
RETRY_AFTER = 60_000_000
NOT_SUBMITTED = "it was cancelled before it was submitted"


def should_end(row: SubmissionRow, now: int) -> bool:
    """Tell whether a submission was cancelled, or its deadline (µs) has passed."""
    return row.cancel or 0 < row.deadline <= now


async def with_retries(work: Callable[[], Awaitable[T]]) -> T:
    """Retry `work` for about half a minute.

    Raises:
        Transient: it still fails. Any other error of `work` is raised at once, `QueueFull` too, which takes longer to
            pass.
    """
    tries = count(1)

    def retry(error: Exception) -> bool | float:
        if not isinstance(error, Transient) or isinstance(error, QueueFull):
            return False
        seconds = wait(error, next(tries))
        report_retry(error, seconds)
        return seconds

    async for attempt in stamina.retry_context(
        on=retry,
        attempts=ATTEMPTS,
        timeout=None,
        wait_initial=WAIT_FIRST,
        wait_max=WAIT_MOST,
        wait_jitter=WAIT_JITTER,
    ):
        with attempt:
            return await work()
    raise AssertionError("unreachable: the last attempt raises")


async def find_job(row: SubmissionRow, api: BatchApi) -> Job | None:
    """Find the job of a submission whose submitting was interrupted; None where there is none.

    Raises:
        Transient, Misconfigured: the provider's jobs cannot be listed.
        Misconfigured: there is none, and another account, which may have it, was used then.
    """
    job = await api.find(row.id)
    if job is None and row.account != api.terms.account:
        raise Misconfigured(
            "an earlier run began to submit it with another key, project or address, where a job for it may exist: set"
            " those again, or give it up (`flowbed submissions cancel`)"
        )
    return job


async def withdraw(row: SubmissionRow, context: Context, api: BatchApi) -> tuple[SubmissionRow, str]:
    """End a held submission whose submitting was interrupted; where the provider has a job for it, record that instead.

    Returns the submission as it is then, and why its cost is unknown, which is empty where it is known. Where the
    provider cannot be asked, only a submission that was cancelled is ended.

    Raises:
        Transient, Misconfigured: the provider's jobs cannot be listed.
    """
    unsure = ""
    try:
        job = await with_retries(lambda: find_job(row, api))
    except (Transient, Misconfigured) as error:
        if not row.cancel:
            raise
        job = None
        unsure = (
            f"it was ended without asking the provider ({error}): if the provider has a job for it, that goes on, and"
            " is paid for in addition to embedding these texts again"
        )
    if job is not None:
        return await record_job(row, job, context), ""
    reason = unsure or NOT_SUBMITTED
    return await end_and_release(row, "cancelled", reason, context), unsure


async def record_job(row: SubmissionRow, job: Job, context: Context) -> SubmissionRow:
    """Record the job of a held submission, and release the hold."""
    reached(JOB_MADE, submission=row.id, job=job.id)
    row = replace(
        row,
        state="submitted",
        job=job.id,
        submitted=context.clock(),
        later=0,
        worker="",
        until=0,
        error="",
    )
    await context.ledger.submissions.save(row, worker=context.worker)
    reached(SUBMISSION_SUBMITTED, submission=row.id)
    return row


async def end_and_release(row: SubmissionRow, state: str, reason: str, context: Context) -> SubmissionRow:
    """End a held submission; its chunks wait again."""
    await context.ledger.chunks.let_go(row.id)
    return await record_end(replace(row, state=state, error=reason), context)


async def postpone(
    row: SubmissionRow, reason: str, context: Context, *, table: str
) -> tuple[SubmissionRow, str]:
    """Postpone a held submission that the provider's queue has no room for.

    Where none of our submissions can be what fills the queue, end it instead: the second value then says why, and what
    to do in the `table` of the provider. A submission whose submitting was interrupted may be in the queue.
    """
    others = [
        each
        for each in await live_submissions(context.ledger)
        if each.account == row.account and each.id != row.id
    ]
    if any(each.is_queued or each.state == "submitting" for each in others):
        later = context.clock() + RETRY_AFTER
        postponed = replace(
            row, state="ready", job="", submitted=0, later=later, error=reason, worker="", until=0
        )
        await context.ledger.submissions.save(postponed, worker=context.worker)
        return postponed, ""
    hopeless = (
        f"its {row.tokens:,} tokens do not fit into the provider's queue ({reason}), and no other submission of this"
        f" project is in it: unless others use the account, set batch_tokens in [providers.{table}] to the tokens that"
        " it may have waiting; its texts wait for the next run"
    )
    return await end_and_release(row, "failed", hopeless, context), hopeless


async def take_chunks(row: SubmissionRow, context: Context) -> list[ChunkRow]:
    """Claim the next chunks of a held submission, at most one run's worth."""
    now = context.clock()
    return await context.ledger.chunks.take(
        row.id, worker=context.worker, now=now, until=now + CLAIM, limit=RUN_CHUNKS
    )


async def fail_submission(row: SubmissionRow, reason: str, context: Context) -> RunStats:
    """End a held submission that will never have results: all its chunks become dead letters."""
    stats = RunStats()
    while rows := await take_chunks(row, context):
        await fail([failure(each, "rejected", reason) for each in rows], context, stats)
    await record_end(replace(row, state="failed", error=reason), context)
    return stats


async def record_end(row: SubmissionRow, context: Context) -> SubmissionRow:
    """Record how a held submission ended, once everything that came of it is committed."""
    ended = replace(row, ended=context.clock(), worker="", until=0)
    await context.ledger.submissions.save(ended, worker=context.worker)
    reached(SUBMISSION_ENDED, submission=row.id, state=row.state)
    return ended


async def has_other_workers(submission: str, context: Context) -> bool:
    """Tell whether another worker, which may be dead, holds chunks of a submission.

    The submission must not end before they are released: its texts would be forgotten, and paid for again.
    """
    holders = {row.worker async for page in context.ledger.chunks.submitted(submission) for row in page}
    return bool(holders - {"", context.worker})
