"""Submit: submissions that are ready are handed to the provider, each once, whatever becomes of whoever hands them in.

Loads nothing of an index: it runs where there is room for little.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, NotFound, QueueFull, Rejected, Transient
from flowbed.lanes.batch.find import require_batch_api
from flowbed.lanes.batch.lifecycle import (
    AGAIN,
    adopted,
    begun_job,
    held_elsewhere,
    is_to_end,
    refuse,
    tried,
    turned_away,
)
from flowbed.lanes.claims import CLAIM, renewed, take_back
from flowbed.records import Problem
from flowbed.telemetry import SUBMISSION_BEGUN, reached

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowbed.embedding.batch_api import BatchApi, Job
    from flowbed.errors import Error
    from flowbed.lanes.contexts import Context, ModelContext
    from flowbed.ledger import Ledger, SubmissionRow

AT_ONCE = 10
_TO_HAND_IN = frozenset({"ready", "submitting"})


@dataclass
class Submitted:
    """What was handed in, what waits, and what could not be handed in.

    It waits for room in the provider's queue, for its end, or for the worker that is at it. What is `blocked` is so
    until a setting changes, and goes on with no amount of waiting.
    """

    submitted: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    failures: list[Problem] = field(default_factory=list)


async def submit(context: ModelContext, submissions: Collection[str] = ()) -> Submitted:
    """Hand in what is ready, or the submissions named; what somebody has begun to hand in is looked for first.

    What is to end is not handed in: `poll` ends it.

    Raises:
        Misconfigured: the model has no Batch API.
        NotFound: a submission of that id is not live.
    """
    api = require_batch_api(context)
    await take_back(context)
    rows = [row for row in await chosen(context, submissions) if row.state in _TO_HAND_IN]
    done = Submitted()
    submitting = _Submitting(context, api, done, asked=bool(submissions))
    async with renewed(context, submissions=True):
        results = await asyncio.gather(*(submitting.hand_in(row.id) for row in rows), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return done


async def chosen(context: ModelContext, submissions: Collection[str]) -> list[SubmissionRow]:
    """Read the live submissions, or those of them that are named, oldest first.

    Raises:
        NotFound: one of that id is not live.
    """
    space = (await asyncio.to_thread(context.embedder)).space.to_json()
    live = await all_live(context.ledger)
    unknown = set(submissions) - {row.id for row in live}
    if unknown:
        named = ", ".join(sorted(unknown))
        raise NotFound(f"no live submission is called {named}; `flowbed submissions list --all` names them")
    # Of another space: the model was another then, and with it the provider or the key.
    return [row for row in live if row.space == space and (not submissions or row.id in submissions)]


async def all_live(ledger: Ledger) -> list[SubmissionRow]:
    """Read the live submissions of every model, oldest first."""
    return [row async for page in ledger.submissions.pages(live=True) for row in page]


class _NotMade(Misconfigured):
    """The provider has said no to making a job, and there was none before."""


class _Submitting:
    """Handing in, so many at once."""

    def __init__(self, context: Context, api: BatchApi, done: Submitted, *, asked: bool) -> None:
        self._context, self._api, self._done = context, api, done
        self._asked = asked  # for by name, so that nothing is put off
        self._slots = asyncio.Semaphore(AT_ONCE)
        # Room in the queue is given away one by one: what is on its way counts.
        self._admitting = asyncio.Lock()

    async def hand_in(self, submission: str) -> None:
        async with self._slots:
            row = await self._held(submission)
            if row is None:
                return
            try:
                begun = await self._admitted(row)
                if begun is not None:
                    job = await self._made(begun, look_first=row.state == "submitting")
                    await adopted(begun, job, self._context)
                    self._done.submitted.append(row.id)
            except Rejected as error:
                await self._refused(row.id, error)
            except QueueFull as error:
                await self._turned_away(row.id, error)
            except Transient as error:
                await self._put_off(row.id, error)
            except Misconfigured as error:
                await self._put_off(row.id, error, made=not isinstance(error, _NotMade))
                self._done.blocked.append(row.id)

    async def _held(self, submission: str) -> SubmissionRow | None:
        """Hold a submission; None where another worker is at it, or has handed it in."""
        submissions, worker, now = (
            self._context.ledger.submissions,
            self._context.worker,
            self._context.clock(),
        )
        row = await submissions.hold(submission, worker=worker, now=now, until=now + CLAIM)
        if row is None:
            there = await submissions.get(submission)
            if there is not None and there.state in _TO_HAND_IN:
                self._done.waiting.append(submission)
            return None
        if row.state not in _TO_HAND_IN:
            await submissions.save(replace(row, worker="", until=0), worker=worker)
            return None
        return row

    async def _admitted(self, row: SubmissionRow) -> SubmissionRow | None:
        """Take room in the provider's queue; None where there is none, or where it is to end."""
        context, terms = self._context, self._api.terms
        # What nobody has begun to hand in goes to the account that is set now, whoever found its texts.
        account = terms.account if row.state == "ready" else row.account
        async with self._admitting:
            now = context.clock()
            later = is_to_end(row, now) or (not self._asked and row.later > now)
            if not later and row.state == "ready" and terms.tokens is not None:
                queued = await context.ledger.submissions.queued(account, besides=row.id)
                later = bool(queued) and queued + row.tokens > terms.tokens
            if later:
                await context.ledger.submissions.save(replace(row, worker="", until=0), worker=context.worker)
                self._done.waiting.append(row.id)
                return None
            begun = replace(row, account=account, state="submitting", later=0)
            if not await context.ledger.submissions.save(begun, worker=context.worker):
                return None  # it is another's now
        reached(SUBMISSION_BEGUN, submission=row.id)
        return begun

    async def _made(self, row: SubmissionRow, *, look_first: bool) -> Job:
        """Make its job, unless there is one: a try that got no answer may have made it."""

        async def made() -> Job:
            nonlocal look_first
            if look_first and (found := await begun_job(row, self._api)) is not None:
                return found
            look_first = True
            try:
                return await self._api.submit(
                    row.id, lambda: self._context.store.stream(row.key), size=row.bytes
                )
            except Misconfigured as error:
                raise _NotMade(str(error)) from error

        return await tried(made)

    async def _put_off(self, submission: str, error: Error, *, made: bool = True) -> None:
        """Let it be tried again later; unless there may be a job `made` for it, as if nobody had begun."""
        context = self._context
        row = await context.ledger.submissions.get(submission)
        if row is not None:
            state = row.state if made else "ready"
            later = context.clock() + AGAIN
            put_off = replace(row, state=state, later=later, error=str(error), worker="", until=0)
            await context.ledger.submissions.save(put_off, worker=context.worker)
        self._tell(submission, f"{error}; it is handed in again by the next run")

    async def _turned_away(self, submission: str, error: QueueFull) -> None:
        row = await self._context.ledger.submissions.get(submission)
        if row is None or row.worker != self._context.worker:  # it took so long that it is another's now
            return
        _, hopeless = await turned_away(row, str(error), self._context)
        if hopeless:
            self._tell(submission, hopeless)
        else:
            self._done.waiting.append(submission)

    async def _refused(self, submission: str, error: Rejected) -> None:
        """Give up what the provider will never take."""
        if await held_elsewhere(submission, self._context):
            await self._put_off(submission, error)
            return
        row = await self._context.ledger.submissions.get(submission)
        if row is not None and row.worker == self._context.worker:
            await refuse(row, str(error), self._context)
        self._tell(submission, f"{error}; its chunks have failed, `flowbed dead-letters list` names them")

    def _tell(self, submission: str, reason: str) -> None:
        self._done.failures.append(Problem(subject=f"submission {submission}", reason=reason))
