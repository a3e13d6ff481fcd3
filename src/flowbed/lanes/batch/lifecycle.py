"""Ending: how a submission ends that there are no answers to, or that nobody wants the answers of any more.

Loads nothing of an index: it runs where there is room for little.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import stamina

from flowbed.errors import Misconfigured, QueueFull, Transient
from flowbed.lanes.claims import CLAIM, RUN_CHUNKS
from flowbed.lanes.failures import RunStats, fail, failure
from flowbed.lanes.retries import ATTEMPTS, WAIT_FIRST, WAIT_MOST, wait
from flowbed.telemetry import JOB_MADE, RETRIED, SUBMISSION_ENDED, SUBMISSION_SUBMITTED, reached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.embedding.batch_api import BatchApi, Job
    from flowbed.lanes.contexts import Context
    from flowbed.ledger import SubmissionRow

Made = TypeVar("Made")

# What the provider would not take is offered again after so long (µs); its queue moves in minutes, not in seconds.
AGAIN = 60_000_000
NOT_HANDED_IN = "it was ended before it was handed in"


def is_to_end(row: SubmissionRow, now: int) -> bool:
    """Tell whether the end of a submission was asked for, or its deadline (µs) has passed."""
    return row.cancel or 0 < row.deadline <= now


async def tried(work: Callable[[], Awaitable[Made]]) -> Made:
    """Do what may fail for a moment, again and again for about half a minute.

    Raises:
        Transient: it goes on failing; any other error of `work` at once, as `QueueFull`, which takes longer to pass.
    """
    tries = count(1)

    def again(error: Exception) -> bool | float:
        if not isinstance(error, Transient) or isinstance(error, QueueFull):
            return False
        reached(RETRIED, reason=str(error))
        return wait(error, next(tries))

    async for attempt in stamina.retry_context(
        on=again, attempts=ATTEMPTS, timeout=None, wait_initial=WAIT_FIRST, wait_max=WAIT_MOST
    ):
        with attempt:
            return await work()
    raise AssertionError("unreachable: the last attempt raises")


async def begun_job(row: SubmissionRow, api: BatchApi) -> Job | None:
    """Find the job of a submission that somebody has begun to hand in; None where there is none.

    Raises:
        Transient, Misconfigured: the provider's jobs cannot be listed.
        Misconfigured: it is not there, and it was begun with another account, which may have it.
    """
    job = await api.find(row.id)
    if job is None and row.account != api.terms.account:
        raise Misconfigured(
            "somebody began to hand it in with another key, project or address, where there may be a job for it: set"
            " those again, or give it up (`flowbed submissions cancel`)"
        )
    return job


async def withdraw(row: SubmissionRow, context: Context, api: BatchApi) -> tuple[SubmissionRow, str]:
    """End a held submission that somebody has begun to hand in, unless there is a job: then that is adopted.

    Returns it as it is then, and why what it costs is not known, which is empty where that is known. Where the provider
    cannot be asked, only one is ended whose end was asked for.

    Raises:
        Transient, Misconfigured: the provider's jobs cannot be listed.
    """
    unsure = ""
    try:
        job = await tried(lambda: begun_job(row, api))
    except (Transient, Misconfigured) as error:
        if not row.cancel:
            raise
        job = None
        unsure = (
            f"it was ended without asking the provider ({error}): if that has a job for it, the job goes on, and is"
            " paid for beside what embeds these texts now"
        )
    if job is not None:
        return await adopted(row, job, context), ""
    reason = unsure or NOT_HANDED_IN
    return await let_go(row, "cancelled", reason, context), unsure


async def adopted(row: SubmissionRow, job: Job, context: Context) -> SubmissionRow:
    """Record the job of a held submission, and let go of the hold."""
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


async def let_go(row: SubmissionRow, state: str, reason: str, context: Context) -> SubmissionRow:
    """End a held submission whose chunks wait again."""
    await context.ledger.chunks.let_go(row.id)
    return await end(replace(row, state=state, error=reason), context)


async def turned_away(row: SubmissionRow, reason: str, context: Context) -> tuple[SubmissionRow, str]:
    """Put off a held submission that its provider's queue has no room for; end it where nothing of ours is in its way.

    Then the second says why, and what to do. What somebody has begun to hand in may be in its way.
    """
    others = [
        each
        async for page in context.ledger.submissions.pages(live=True)
        for each in page
        if each.account == row.account and each.id != row.id
    ]
    if any(each.is_queued or each.state == "submitting" for each in others):
        later = context.clock() + AGAIN
        put_off = replace(
            row, state="ready", job="", submitted=0, later=later, error=reason, worker="", until=0
        )
        await context.ledger.submissions.save(put_off, worker=context.worker)
        return put_off, ""
    vendor = row.account.partition(":")[0]
    hopeless = (
        f"its {row.tokens:,} tokens do not fit into the provider's queue ({reason}), and nothing else handed in from"
        f" here is there: unless others use the account, set batch_tokens in [providers.{vendor}] to what it may have"
        " waiting; its texts wait for the next run"
    )
    return await let_go(row, "failed", hopeless, context), hopeless


async def refuse(row: SubmissionRow, reason: str, context: Context) -> RunStats:
    """End a held submission that there will be no answers to: its chunks have failed, for somebody to look at."""
    tally = RunStats()
    while rows := await context.ledger.chunks.take(
        row.id,
        worker=context.worker,
        now=context.clock(),
        until=context.clock() + CLAIM,
        limit=RUN_CHUNKS,
    ):
        await fail([failure(each, "rejected", reason) for each in rows], context, tally)
    await end(replace(row, state="failed", error=reason), context)
    return tally


async def end(row: SubmissionRow, context: Context) -> SubmissionRow:
    """Record how a held submission ended: after everything that has become of it is committed."""
    ended = replace(row, ended=context.clock(), worker="", until=0)
    await context.ledger.submissions.save(ended, worker=context.worker)
    reached(SUBMISSION_ENDED, submission=row.id, state=row.state)
    return ended


async def held_elsewhere(submission: str, context: Context) -> bool:
    """Tell whether another worker, which may be dead, holds chunks of a submission.

    It must not end before they are let go: what they were sent for would be forgotten, and their texts paid for again.
    """
    holders = {row.worker async for page in context.ledger.chunks.submitted(submission) for row in page}
    return bool(holders - {"", context.worker})
