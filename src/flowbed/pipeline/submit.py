"""Submit: submissions that are ready are handed to the provider, each once, whatever becomes of whoever hands them in.

Loads nothing of an index: it runs where there is room for little.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, NotFound, Rejected, Transient
from flowbed.pipeline.claims import CLAIM, renewed, take_back
from flowbed.pipeline.ending import adopted, begun_job, held_elsewhere, is_to_end, refuse, tried
from flowbed.pipeline.find import batch_api
from flowbed.records import Problem
from flowbed.telemetry import SUBMISSION_BEGUN, reached

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
    """What was handed in, what waits for room in the provider's queue or for its end, and what could not be handed in.

    What is `blocked` is so until a setting changes, and goes on with no amount of waiting.
    """

    submitted: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    failures: list[Problem] = field(default_factory=list)


async def submit(parts: Parts, submissions: Collection[str] = ()) -> Submitted:
    """Hand in what is ready, or the submissions named; what somebody has begun to hand in is looked for first.

    What is to end is not handed in: `poll` ends it.

    Raises:
        Misconfigured: the model has no Batch API.
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
    live = await all_live(parts)
    unknown = set(submissions) - {row.id for row in live}
    if unknown:
        named = ", ".join(sorted(unknown))
        message = f"no live submission is called {named}; `flowbed submissions list --all` names them"
        raise NotFound(message)
    # Of another space: the model was another then, and with it the provider or the key.
    return [row for row in live if row.space == space and (not submissions or row.id in submissions)]


async def all_live(parts: Parts) -> list[SubmissionRow]:
    """Read the live submissions of every model, oldest first."""
    return [row async for page in parts.ledger.submissions.pages(live=True) for row in page]


async def in_queue(account: str, parts: Parts, *, besides: str) -> int:
    """Add up the tokens that an account's submissions, but for one, have in the provider's queue or on the way there.

    Neither what was put off before there was a job of it is there, nor what has ended with answers that cannot be taken
    in: either would keep the room of others for as long as that is so.
    """
    return sum(
        row.tokens
        for row in await all_live(parts)
        if row.account == account and row.id != besides and _is_queued(row)
    )


def _is_queued(row: SubmissionRow) -> bool:
    if row.state == "submitted":
        return not row.error or row.done + row.failed < row.texts
    return row.state == "submitting" and not row.later


class _NotMade(Misconfigured):
    """The provider has said no to making a job, and there was none before."""


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
                    job = await self._made(begun, look_first=row.state == "submitting")
                    await adopted(begun, job, parts)
                    self._done.submitted.append(row.id)
            except Rejected as error:
                await self._refused(row.id, error)
            except Transient as error:
                await self._put_off(row.id, error)
            except Misconfigured as error:
                await self._put_off(row.id, error, made=not isinstance(error, _NotMade))
                self._done.blocked.append(row.id)

    async def _admitted(self, row: SubmissionRow) -> SubmissionRow | None:
        """Take room in the provider's queue; None where there is none, or where it is to end."""
        parts, terms = self._parts, self._api.terms
        async with self._admitting:
            now = parts.clock()
            later = is_to_end(row, now) or (not self._asked and row.later > now)
            if not later and row.state == "ready" and terms.tokens is not None:
                queued = await in_queue(row.account, parts, besides=row.id)
                later = bool(queued) and queued + row.tokens > terms.tokens
            if later:
                await parts.ledger.submissions.save(replace(row, worker="", until=0), worker=parts.worker)
                self._done.waiting.append(row.id)
                return None
            begun = replace(row, state="submitting", later=0)
            if not await parts.ledger.submissions.save(begun, worker=parts.worker):
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
                    row.id, lambda: self._parts.store.stream(row.key), size=row.bytes
                )
            except Misconfigured as error:
                raise _NotMade(str(error)) from error

        return await tried(made)

    async def _put_off(self, submission: str, error: Error, *, made: bool = True) -> None:
        """Let it be tried again later; unless there may be a job `made` for it, as if nobody had begun."""
        parts = self._parts
        row = await parts.ledger.submissions.get(submission)
        if row is not None:
            state = row.state if made else "ready"
            later = parts.clock() + AGAIN
            put_off = replace(row, state=state, later=later, error=str(error), worker="", until=0)
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
