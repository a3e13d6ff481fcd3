"""Submit: submissions that are ready are handed to the provider, each once, whatever becomes of whoever hands them in.

Loads nothing of an index: it runs where there is room for little.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

import stamina

from flowbed.errors import NotFound, Rejected, Transient
from flowbed.lanes.realtime import ATTEMPTS, WAIT_FIRST, WAIT_MOST, wait
from flowbed.pipeline.claims import CLAIM, RUN_CHUNKS, renewed, take_back
from flowbed.pipeline.failing import Tally, fail, failure
from flowbed.pipeline.find import batch_api
from flowbed.records import Problem
from flowbed.telemetry import (
    JOB_MADE,
    RETRIED,
    SUBMISSION_BEGUN,
    SUBMISSION_ENDED,
    SUBMISSION_SUBMITTED,
    reached,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowbed.embedding.jobs import BatchApi, Job
    from flowbed.errors import Error
    from flowbed.ledger import SubmissionRow
    from flowbed.pipeline import Parts

AT_ONCE = 10
# What the provider would not take is offered again after so long (µs); its queue moves in minutes, not in seconds.
AGAIN = 60_000_000


@dataclass
class Submitted:
    """What was handed in, what waits for room in the provider's queue, and what could not be handed in now."""

    submitted: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    failures: list[Problem] = field(default_factory=list)


async def submit(parts: Parts, submissions: Collection[str] = ()) -> Submitted:
    """Hand in what is ready, or the submissions named; what somebody has begun to hand in is looked for first.

    Raises:
        Misconfigured: the model has no Batch API, or none can be used until a setting changes.
        NotFound: a submission of that id is not live.

    """
    api = batch_api(parts)
    await take_back(parts)
    rows = [row for row in await chosen(parts, submissions) if row.state in {"ready", "submitting"}]
    done = Submitted()
    submitting = _Submitting(parts, api, done, asked=bool(submissions))
    async with renewed(parts):
        results = await asyncio.gather(*(submitting.hand_in(row.id) for row in rows), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return done


async def chosen(parts: Parts, submissions: Collection[str]) -> list[SubmissionRow]:
    """Read the live submissions, or those of them that are named, oldest first.

    Raises:
        NotFound: one of that id is not live.

    """
    space = (await asyncio.to_thread(parts.embedder)).space.to_json()
    live = [row async for page in parts.ledger.submissions.pages(live=True) for row in page]
    unknown = set(submissions) - {row.id for row in live}
    if unknown:
        named = ", ".join(sorted(unknown))
        message = f"no live submission is called {named}; `flowbed submissions list --all` names them"
        raise NotFound(message)
    # Of another space: the model was another then, and with it the provider or the key.
    return [row for row in live if row.space == space and (not submissions or row.id in submissions)]


class _Submitting:
    """Handing in, so many at once."""

    def __init__(self, parts: Parts, api: BatchApi, done: Submitted, *, asked: bool) -> None:
        self._parts, self._api, self._done = parts, api, done
        self._asked = asked  # for by name, so that nothing is put off
        self._slots = asyncio.Semaphore(AT_ONCE)
        # Room in the queue is given away one by one: what is on its way counts.
        self._admitting = asyncio.Lock()

    async def hand_in(self, submission: str) -> None:
        parts = self._parts
        async with self._slots:
            now = parts.clock()
            row = await parts.ledger.submissions.hold(
                submission, worker=parts.worker, now=now, until=now + CLAIM
            )
            if row is None or row.state not in {"ready", "submitting"}:
                return
            try:
                begun = await self._admitted(row)
                if begun is not None:
                    await self._recorded(begun, await self._made(begun, look_first=row.state == "submitting"))
            except Rejected as error:
                await self._refused(row.id, error)
            except Transient as error:
                await self._put_off(row.id, error)

    async def _admitted(self, row: SubmissionRow) -> SubmissionRow | None:
        """Take room in the provider's queue; None where there is none."""
        parts, terms = self._parts, self._api.terms
        async with self._admitting:
            later = not self._asked and row.later > parts.clock()
            if row.state == "ready":
                queued = await parts.ledger.submissions.queued(row.account)
                full = terms.tokens is not None and queued and queued + row.tokens > terms.tokens
                later = later or bool(full) or row.cancel
            if later:
                await parts.ledger.submissions.save(replace(row, worker="", until=0), worker=parts.worker)
                self._done.waiting.append(row.id)
                return None
            begun = replace(row, state="submitting")
            if not await parts.ledger.submissions.save(begun, worker=parts.worker):
                return None  # it is another's now
        reached(SUBMISSION_BEGUN, submission=row.id)
        return begun

    async def _made(self, row: SubmissionRow, *, look_first: bool) -> Job:
        """Make its job, unless there is one: a try that got no answer may have made it."""
        tries = count(1)

        def again(error: Exception) -> bool | float:
            if not isinstance(error, Transient):
                return False
            reached(RETRIED, reason=str(error))
            return wait(error, next(tries))

        async for attempt in stamina.retry_context(
            on=again, attempts=ATTEMPTS, timeout=None, wait_initial=WAIT_FIRST, wait_max=WAIT_MOST
        ):
            with attempt:
                if look_first and (found := await self._api.find(row.id)) is not None:
                    return found
                look_first = True
                return await self._api.submit(
                    row.id, lambda: self._parts.store.stream(row.key), size=row.bytes
                )
        message = "unreachable: the last attempt raises"
        raise AssertionError(message)

    async def _recorded(self, row: SubmissionRow, job: Job) -> None:
        parts = self._parts
        reached(JOB_MADE, submission=row.id, job=job.id)
        await parts.ledger.submissions.save(
            replace(
                row, state="submitted", job=job.id, submitted=parts.clock(), worker="", until=0, error=""
            ),
            worker=parts.worker,
        )
        reached(SUBMISSION_SUBMITTED, submission=row.id)
        self._done.submitted.append(row.id)

    async def _put_off(self, submission: str, error: Error) -> None:
        """Let it be tried again later."""
        parts = self._parts
        row = await parts.ledger.submissions.get(submission)
        if row is not None:
            put_off = replace(row, later=parts.clock() + AGAIN, error=str(error), worker="", until=0)
            await parts.ledger.submissions.save(put_off, worker=parts.worker)
        self._tell(submission, f"{error}; it is handed in again by the next run")

    async def _refused(self, submission: str, error: Rejected) -> None:
        """Give up what the provider will never take."""
        if await held_elsewhere(submission, self._parts):
            await self._put_off(submission, error)
            return
        row = await self._parts.ledger.submissions.get(submission)
        if row is not None:
            await refuse(row, str(error), self._parts)
        self._tell(submission, f"{error}; its chunks have failed, `flowbed dead-letters list` names them")

    def _tell(self, submission: str, reason: str) -> None:
        self._done.failures.append(Problem(subject=f"submission {submission}", reason=reason))


async def held_elsewhere(submission: str, parts: Parts) -> bool:
    """Tell whether another worker, which may be dead, holds chunks of a submission.

    It must not end before they are let go: what they were sent for would be forgotten, and their texts paid for again.
    """
    holders = {row.worker async for page in parts.ledger.chunks.submitted(submission) for row in page}
    return bool(holders - {"", parts.worker})


async def refuse(row: SubmissionRow, reason: str, parts: Parts) -> Tally:
    """End a held submission that there will be no answers to: its chunks have failed, for somebody to look at."""
    tally = Tally()
    while rows := await parts.ledger.chunks.take(
        row.id,
        worker=parts.worker,
        now=parts.clock(),
        until=parts.clock() + CLAIM,
        limit=RUN_CHUNKS,
    ):
        await fail([failure(each, "rejected", reason) for each in rows], parts, tally)
    ended = replace(row, state="failed", error=reason, ended=parts.clock(), worker="", until=0)
    await parts.ledger.submissions.save(ended, worker=parts.worker)
    reached(SUBMISSION_ENDED, submission=row.id, state="failed")
    return tally
