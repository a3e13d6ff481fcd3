"""Submit what is ready to the provider's Batch API, each submission once, even if a worker is killed meanwhile.

It loads neither numpy nor the index.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, NotFound, QueueFull, Rejected, Transient
from flowbed.lanes.batch.find import require_batch_api
from flowbed.lanes.batch.in_flight import live_submissions
from flowbed.lanes.batch.lifecycle import (
    RETRY_AFTER,
    fail_submission,
    find_job,
    has_other_workers,
    postpone,
    record_job,
    should_end,
    with_retries,
)
from flowbed.lanes.claims import CLAIM, release_dead_workers, renewed
from flowbed.records import Problem
from flowbed.telemetry import SUBMISSION_BEGUN, reached

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowbed.embedding.batch_api import BatchApi, Job
    from flowbed.errors import Error
    from flowbed.lanes.contexts import Context, ModelContext
    from flowbed.ledger import SubmissionRow

CONCURRENCY = 10  # submissions that are submitted at once
_UNSUBMITTED = frozenset({"ready", "submitting"})


@dataclass
class Submitted:
    """The submissions submitted, waiting and failed, by id.

    A submission waits for room in the provider's queue, for its end, or for the worker that holds it. One that is
    `blocked` cannot go on until a setting changes.
    """

    submitted: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    failures: list[Problem] = field(default_factory=list)


async def submit(context: ModelContext, submissions: Collection[str] = ()) -> Submitted:
    """Submit what is ready, or the submissions named; where submitting was interrupted, look for its job first.

    What is cancelled or past its deadline is not submitted: `poll` ends it.

    Raises:
        Misconfigured: the model has no Batch API.
        NotFound: a submission of that id is not live.
    """
    api = require_batch_api(context)
    await release_dead_workers(context)
    rows = [row for row in await select_submissions(context, submissions) if row.state in _UNSUBMITTED]
    done = Submitted()
    submitter = _Submitter(context, api, done, named=bool(submissions))
    async with renewed(context, submissions=True):
        results = await asyncio.gather(*(submitter.submit(row.id) for row in rows), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return done


async def select_submissions(context: ModelContext, submissions: Collection[str]) -> list[SubmissionRow]:
    """Read the live submissions of the model's space, or those of them that are named, oldest first.

    Raises:
        NotFound: one of that id is not live.
    """
    space = (await asyncio.to_thread(context.embedder)).space.to_json()
    live = await live_submissions(context.ledger)
    unknown = set(submissions) - {row.id for row in live}
    if unknown:
        named = ", ".join(sorted(unknown))
        raise NotFound(f"no live submission is called {named}; `flowbed submissions list --all` names them")
    # Those of another space belong to another model, perhaps to another provider or key.
    return [row for row in live if row.space == space and (not submissions or row.id in submissions)]


class _NotMade(Misconfigured):
    """The provider refused to create a job, and there was none before."""


class _Submitter:
    """Submits submissions concurrently."""

    def __init__(self, context: Context, api: BatchApi, done: Submitted, *, named: bool) -> None:
        self._context, self._api, self._done = context, api, done
        self._named = named  # by id: then nothing is postponed
        self._slots = asyncio.Semaphore(CONCURRENCY)
        # One at a time, so that a submission on its way counts against the room in the queue.
        self._admitting = asyncio.Lock()

    async def submit(self, submission: str) -> None:
        async with self._slots:
            row = await self._hold(submission)
            if row is None:
                return
            try:
                begun = await self._admit(row)
                if begun is not None:
                    job = await self._create_job(begun, look_first=row.state == "submitting")
                    await record_job(begun, job, self._context)
                    self._done.submitted.append(row.id)
            except Rejected as error:
                await self._refused(row.id, error)
            except QueueFull as error:
                await self._postpone(row.id, error)
            except Transient as error:
                await self._retry_later(row.id, error)
            except Misconfigured as error:
                await self._retry_later(row.id, error, made=not isinstance(error, _NotMade))
                self._done.blocked.append(row.id)

    async def _hold(self, submission: str) -> SubmissionRow | None:
        """Hold a submission; None where another worker holds it, or has submitted it."""
        submissions, worker, now = (
            self._context.ledger.submissions,
            self._context.worker,
            self._context.clock(),
        )
        row = await submissions.hold(submission, worker=worker, now=now, until=now + CLAIM)
        if row is None:
            current = await submissions.get(submission)
            if current is not None and current.state in _UNSUBMITTED:
                self._done.waiting.append(submission)
            return None
        if row.state not in _UNSUBMITTED:
            await submissions.save(replace(row, worker="", until=0), worker=worker)
            return None
        return row

    async def _admit(self, row: SubmissionRow) -> SubmissionRow | None:
        """Reserve room in the provider's queue; None where there is none, or where the submission should end."""
        context, terms = self._context, self._api.terms
        # A submission that no one began to submit goes to the account set now, whichever was set when it was gathered.
        account = terms.account if row.state == "ready" else row.account
        async with self._admitting:
            now = context.clock()
            later = should_end(row, now) or (not self._named and row.later > now)
            if not later and row.state == "ready" and terms.tokens is not None:
                queued = await context.ledger.submissions.queued(account, besides=row.id)
                later = bool(queued) and queued + row.tokens > terms.tokens
            if later:
                await context.ledger.submissions.save(replace(row, worker="", until=0), worker=context.worker)
                self._done.waiting.append(row.id)
                return None
            begun = replace(row, account=account, state="submitting", later=0)
            if not await context.ledger.submissions.save(begun, worker=context.worker):
                return None  # another worker holds it now
        reached(SUBMISSION_BEGUN, submission=row.id)
        return begun

    async def _create_job(self, row: SubmissionRow, *, look_first: bool) -> Job:
        """Create the job, unless there is one: an attempt without a response may have created it."""

        async def create() -> Job:
            nonlocal look_first
            if look_first and (found := await find_job(row, self._api)) is not None:
                return found
            look_first = True
            try:
                return await self._api.submit(
                    row.id, lambda: self._context.store.stream(row.key), size=row.bytes
                )
            except Misconfigured as error:
                raise _NotMade(str(error)) from error

        return await with_retries(create)

    async def _retry_later(self, submission: str, error: Error, *, made: bool = True) -> None:
        """Retry it later; unless a job may have been `made` for it, from the beginning."""
        context = self._context
        row = await context.ledger.submissions.get(submission)
        if row is not None:
            state = row.state if made else "ready"
            later = context.clock() + RETRY_AFTER
            postponed = replace(row, state=state, later=later, error=str(error), worker="", until=0)
            await context.ledger.submissions.save(postponed, worker=context.worker)
        self._report(submission, f"{error}; the next run submits it again")

    async def _postpone(self, submission: str, error: QueueFull) -> None:
        row = await self._context.ledger.submissions.get(submission)
        if row is None or row.worker != self._context.worker:  # another worker took it over meanwhile
            return
        _, hopeless = await postpone(row, str(error), self._context, table=self._api.terms.table)
        if hopeless:
            self._report(submission, hopeless)
        else:
            self._done.waiting.append(submission)

    async def _refused(self, submission: str, error: Rejected) -> None:
        """Fail what the provider will never accept."""
        if await has_other_workers(submission, self._context):
            await self._retry_later(submission, error)
            return
        row = await self._context.ledger.submissions.get(submission)
        if row is not None and row.worker == self._context.worker:
            await fail_submission(row, str(error), self._context)
        self._report(submission, f"{error}; its chunks have failed, `flowbed dead-letters list` names them")

    def _report(self, submission: str, reason: str) -> None:
        self._done.failures.append(Problem(subject=f"submission {submission}", reason=reason))
