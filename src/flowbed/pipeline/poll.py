"""Poll: what the provider has answered is laid down, chunk by chunk; what it has not, waits again or has failed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from flowbed.errors import NotFound, Transient
from flowbed.lanes.batch.answers import Answers, copy_answers, read_answers
from flowbed.lanes.batch.input import read_texts
from flowbed.lanes.outcome import Outcome, Paid
from flowbed.ledger import SpendRow
from flowbed.pipeline.batches import read_passages
from flowbed.pipeline.claims import CLAIM, RUN_CHUNKS, renewed, take_back
from flowbed.pipeline.failing import Tally, fail, failure
from flowbed.pipeline.find import batch_api
from flowbed.pipeline.landing import Made, Spent, commit_pending, land
from flowbed.pipeline.submit import AGAIN, chosen, held_elsewhere, refuse
from flowbed.records import Embedded, Problem, Space
from flowbed.telemetry import ANSWERS_COPIED, PROGRESS, SUBMISSION_ENDED, reached

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from flowbed.embedding.cache import Cached
    from flowbed.embedding.jobs import BatchApi, Job
    from flowbed.ledger import ChunkRow, SubmissionRow
    from flowbed.pipeline import Parts
    from flowbed.pipeline.batches import Passage

LOOKS = 10  # jobs that are asked about at once


@dataclass
class Polled:
    """What polling came to: what was laid down, the submissions that are still live, and those that have ended."""

    tally: Tally = field(default_factory=Tally)
    pending: list[SubmissionRow] = field(default_factory=list)
    ended: list[SubmissionRow] = field(default_factory=list)


async def poll(parts: Parts, submissions: Collection[str] = ()) -> Polled:
    """Ask how every submission is that was handed in (or those named), and lay down what has been answered; repeatable.

    What is past its deadline, or is to be cancelled, is ended at the provider: what it has answered until then counts,
    and the rest waits again.

    Raises:
        Misconfigured: the model has no Batch API, it cannot be asked until a setting changes, or a collection lives in
            another space by now.
        NotFound: a submission of that id is not live.

    """
    polled = Polled()
    await take_back(parts)
    rows = await chosen(parts, submissions)
    # What a poll that was ended has laid down, and committed no more.
    for collection in await parts.ledger.runs.collections():
        await commit_pending(collection, parts, polled.tally)
    if not rows:
        return polled
    api = batch_api(parts)
    embedder = await asyncio.to_thread(parts.embedder)
    async with renewed(parts):
        for start in range(0, len(rows), LOOKS):
            some = rows[start : start + LOOKS]
            looked = await asyncio.gather(*(_look(row, parts, api) for row in some), return_exceptions=True)
            for row, job in zip(some, looked, strict=True):
                # Laid down one after the other: each holds the vectors of a run.
                if isinstance(job, BaseException) and not isinstance(job, Transient):
                    raise job
                await _Polling(parts, api, embedder, polled).settle(row, job)
    return polled


async def _look(row: SubmissionRow, parts: Parts, api: BatchApi) -> Job | None:
    """Ask how a job is, and for its end where that is wanted; None where there is no job, or none any more."""
    if row.state != "submitted":
        return None
    try:
        job = await api.look(row.job)
        late = 0 < row.deadline <= parts.clock()
        if job.state == "running" and (row.cancel or late) and api.terms.cancels:
            await api.cancel(row.job)
            job = await api.look(row.job)
    except NotFound:
        return None
    return job


class _Polling:
    """What one job came to, put where it belongs."""

    def __init__(self, parts: Parts, api: BatchApi, embedder: Cached, polled: Polled) -> None:
        self._parts, self._api, self._embedder, self._polled = parts, api, embedder, polled

    async def settle(self, seen: SubmissionRow, job: Job | Transient | None) -> None:
        """Go on from what the provider said of a submission as it was seen, unless another worker is at it."""
        row = await self._held(seen.id)
        if row is None:
            return
        if row.state != "submitted":
            await self._not_there_yet(row)
        elif row.job != seen.job:  # handed in meanwhile: nobody has asked about this job yet
            await self._keep(row)
        elif isinstance(job, Transient):
            self._tell(row, f"{job}; it is asked again by the next run")
            await self._keep(row)
        elif job is None:
            await self._lost(row, f"the provider does not know job {row.job} any more")
        elif job.state == "running":
            await self._keep(replace(row, done=job.done, failed=job.failed))
        elif job.state == "failed":
            await self._failed(row, job)
        else:
            await self._collect(row, job)

    async def _held(self, submission: str) -> SubmissionRow | None:
        """Hold a submission; None where another worker does, or did until it ended."""
        submissions, now = self._parts.ledger.submissions, self._parts.clock()
        row = await submissions.hold(submission, worker=self._parts.worker, now=now, until=now + CLAIM)
        if row is None and (there := await submissions.get(submission)) is not None and not there.ended:
            self._polled.pending.append(there)
        return row

    async def _not_there_yet(self, row: SubmissionRow) -> None:
        late = 0 < row.deadline <= self._parts.clock()
        if row.state == "ready" and (row.cancel or late):
            await self._let_go(row, "cancelled", "it was ended before it was handed in")
        else:
            await self._keep(row)

    async def _collect(self, row: SubmissionRow, job: Job) -> None:
        """Take in the answers of a job that has ended, whole or in part."""
        parts = self._parts
        try:
            await copy_answers(job, row.id, self._api, parts.store)
            reached(ANSWERS_COPIED, submission=row.id)
            answers = await read_answers(row.id, self._api, parts.store)
        except NotFound as error:
            await self._lost(row, f"the provider has lost the answers of job {job.id} ({error})")
            return
        except Transient as error:
            self._tell(row, f"{error}; its answers are fetched again by the next run")
            await self._keep(row)
            return
        with answers:
            space = Space.from_json(row.space)
            # Before anything is laid down: of what is, a poll that goes on from here no longer sees whose it was.
            await self._record(row, answers)
            while rows := await self._taken(row):
                await self._land(rows, answers, space, job)
                reached(PROGRESS, stage="embed", done=len(rows))
            if await held_elsewhere(row.id, parts):
                await self._keep(row)
                return
            billed = sum(answers.billed.values())
            await self._end(
                replace(
                    row,
                    state=job.state,
                    done=len(answers),
                    failed=len(answers.failures),
                    billed=billed,
                    cost_usd=billed * self._api.terms.price / 1e6,
                    error=job.reason,
                )
            )

    async def _taken(self, row: SubmissionRow) -> list[ChunkRow]:
        now = self._parts.clock()
        return await self._parts.ledger.chunks.take(
            row.id, worker=self._parts.worker, now=now, until=now + CLAIM, limit=RUN_CHUNKS
        )

    async def _land(self, rows: Sequence[ChunkRow], answers: Answers, space: Space, job: Job) -> None:
        """Commit what there are vectors for; the rest has failed, or, where the job ended early, waits again."""
        parts, terms = self._parts, self._api.terms
        unanswered = [
            row
            for row in rows
            if row.text_hash not in answers
            and (row.text_hash in answers.expired or job.state != "completed")
            and row.text_hash not in answers.failures
        ]
        if unanswered:
            await parts.ledger.chunks.give_back(unanswered, worker=parts.worker)
        left = {(row.collection, row.id) for row in unanswered}
        answered = [row for row in rows if (row.collection, row.id) not in left]
        if not answered:
            return
        passages, lost = await read_passages(answered, store=parts.store, ledger=parts.ledger)
        for collection in sorted({row.collection for row in answered}):
            await parts.datasets.begin(collection, space, now=parts.clock())
        outcome = self._outcome(passages, answers)
        await self._cache(passages, outcome)
        spent = Spent(
            lane="batch",
            texts=outcome.sent,
            planned=outcome.planned,
            tokens=outcome.tokens,
            cost_usd=outcome.tokens * terms.price / 1e6,
        )
        tally = self._polled.tally
        tally.sent += spent.texts
        tally.tokens += spent.tokens
        tally.cost_usd += spent.cost_usd
        made = Made(rows=answered, passages=passages, lost=lost, outcome=outcome, spent=spent)
        await land(made, parts, tally)

    def _outcome(self, passages: Sequence[Passage], answers: Answers) -> Outcome:
        texts = {each.row.text_hash: each for each in passages}
        outcome = Outcome(vectors=answers.vectors(texts))
        for key, each in texts.items():
            if key in outcome.vectors:
                planned = self._embedder.bill(each.sent, each.row.tokens)
                # What a run that was ended has laid down of it already, it has also told the cost of.
                if answers.tell(key):
                    outcome.paid[key] = Paid(planned, answers.billed.get(key, planned))
            elif key in answers.failures:
                outcome.failures[key] = answers.failures[key]
            else:
                outcome.failures[key] = ("transient", "the provider's answers have no line for it")
        return outcome

    async def _cache(self, passages: Sequence[Passage], outcome: Outcome) -> None:
        texts = {each.sent: each.row.text_hash for each in passages if each.row.text_hash in outcome.vectors}
        if not texts:
            return
        vectors = np.stack([outcome.vectors[key] for key in texts.values()])
        counts = tuple(
            outcome.paid[key].billed if key in outcome.paid else self._embedder.count(text)
            for text, key in texts.items()
        )
        await self._embedder.keep(
            list(texts), Embedded(vectors=vectors, tokens=sum(counts), counts=counts), purpose="document"
        )

    async def _record(self, row: SubmissionRow, answers: Answers) -> None:
        """Record what each document has cost: a text that several share, of the first; one that none has, of none."""
        left = dict(answers.billed)
        of: dict[tuple[str, str], list[Paid]] = {}
        async for page in self._parts.ledger.chunks.submitted(row.id):
            for each in page:
                if (billed := left.pop(each.text_hash, None)) is not None:
                    of.setdefault((each.source, each.document), []).append(Paid(each.tokens, billed))
        # Also where there are none: a poll that goes on from here finds what is laid down by then among them.
        of["", ""] = [Paid(0, billed) for billed in left.values()]
        price, at = self._api.terms.price, self._parts.clock()
        await self._parts.ledger.spending.record(
            [
                SpendRow(
                    run=row.id,
                    lane="batch",
                    source=source,
                    document=document,
                    texts=len(paid),
                    planned=sum(each.planned for each in paid),
                    billed=(billed := sum(each.billed for each in paid)),
                    cost_usd=billed * price / 1e6,
                    at=at,
                )
                for (source, document), paid in of.items()
            ]
        )

    async def _failed(self, row: SubmissionRow, job: Job) -> None:
        """Go on from a job that was refused as a whole: nothing of it was worked on."""
        if job.queue_full:
            later = self._parts.clock() + AGAIN
            await self._keep(replace(row, state="ready", job="", submitted=0, later=later, error=job.reason))
            return
        texts = await read_texts(row.id, self._parts.store) if job.lines else []
        guilty = {texts[line - 1]: why for line, why in job.lines.items() if 0 < line <= len(texts)}
        if not guilty:
            await self._lost(
                row, job.reason or f"job {job.id} was refused, and the provider does not say why"
            )
            return
        await self._blame(row, guilty)
        await self._let_go(row, "failed", job.reason or next(iter(guilty.values())))

    async def _blame(self, row: SubmissionRow, guilty: dict[str, str]) -> None:
        """Let the chunks fail that a whole job was refused for; the others need not."""
        parts = self._parts
        while rows := await self._taken(row):
            failed = [
                failure(each, "rejected", guilty[each.text_hash]) for each in rows if each.text_hash in guilty
            ]
            await fail(failed, parts, self._polled.tally)
            innocent = [each for each in rows if each.text_hash not in guilty]
            await parts.ledger.chunks.give_back(innocent, worker=parts.worker)

    async def _lost(self, row: SubmissionRow, reason: str) -> None:
        """Let all chunks fail: to embed them again is to pay again, which is for somebody to decide."""
        if await held_elsewhere(row.id, self._parts):
            await self._keep(row)
            return
        why = f"{reason}; `flowbed dead-letters retry` has its texts embedded again, and pays for them again"
        tally = await refuse(row, why, self._parts)
        self._polled.tally.failures += tally.failures
        self._polled.tally.failed += tally.failed
        self._polled.ended.append(replace(row, state="failed", error=why))

    async def _let_go(self, row: SubmissionRow, state: str, reason: str) -> None:
        await self._parts.ledger.chunks.let_go(row.id)
        await self._end(replace(row, state=state, error=reason))

    async def _end(self, row: SubmissionRow) -> None:
        """Record how a submission ended: after everything that its answers have become is committed."""
        ended = replace(row, ended=self._parts.clock(), worker="", until=0)
        await self._parts.ledger.submissions.save(ended, worker=self._parts.worker)
        reached(SUBMISSION_ENDED, submission=row.id, state=row.state)
        self._polled.ended.append(ended)

    async def _keep(self, row: SubmissionRow) -> None:
        kept = replace(row, worker="", until=0)
        await self._parts.ledger.submissions.save(kept, worker=self._parts.worker)
        self._polled.pending.append(kept)

    def _tell(self, row: SubmissionRow, reason: str) -> None:
        self._polled.tally.failures.append(Problem(subject=f"submission {row.id}", reason=reason))
