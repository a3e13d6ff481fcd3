"""Answered: what one job has answered is laid down, chunk by chunk; what it has not, waits again or has failed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from flowbed.lanes.batch.answer_files import read_sent
from flowbed.lanes.batch.lifecycle import held_elsewhere
from flowbed.lanes.batch_files import read_passages
from flowbed.lanes.claims import CLAIM, RUN_CHUNKS
from flowbed.lanes.outcome import Outcome, Paid
from flowbed.lanes.write_deltas import Made, Spent, land
from flowbed.ledger import SpendRow
from flowbed.records import Embedded, Space
from flowbed.telemetry import PROGRESS, reached

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.embedding.batch_api import BatchApi, Job
    from flowbed.embedding.cache.cached import Cached
    from flowbed.lanes.batch.answer_files import Answers
    from flowbed.lanes.batch_files import ChunkText
    from flowbed.lanes.contexts import RunContext
    from flowbed.lanes.failures import RunStats
    from flowbed.ledger import ChunkRow, SubmissionRow

# What is missing is sent once more, which costs a fraction of a cent. Where it is more lines than these and more than
# this part of what the job has done, files are damaged rather than lines left out: then it is for somebody to decide.
MISSING, PART = 10, 0.25
AGAIN_IS_PAID = "`flowbed dead-letters retry` has its texts embedded again, and pays for them again"


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A job that has ended, its `answers`, and which of its files the provider has `lost`, named by their ids."""

    job: Job
    answers: Answers
    lost: Collection[str] = ()

    def waits(self, text_hash: str) -> bool:
        """Tell whether a text was not worked on, and not billed, so that it waits again."""
        answers = self.answers
        if text_hash in answers or text_hash in answers.failures or text_hash in answers.conflicting:
            return False
        ended_early = self.job.state != "completed" and not self.why_lost
        return text_hash in answers.expired or ended_early

    @property
    def why_lost(self) -> str:
        """Why texts that no line answers are lost, rather than left out; empty where they are not.

        Of a job that ended early, those that only the file of errors had were not worked on.
        """
        job = self.job
        if job.output in self.lost or (self.lost and job.state == "completed"):
            return f"the provider has lost answers of job {job.id} (file {', '.join(self.lost)})"
        answers = self.answers
        # Some providers count what was not worked on among what failed.
        told = job.done + (0 if job.errors in self.lost else job.failed)
        known = len(answers) + len(answers.failures) + len(answers.expired) + len(answers.conflicting)
        missing = told - known
        if missing > max(MISSING, PART * job.done):
            return f"the provider has done {job.done:,} texts of job {job.id}, and its answers have {missing:,} fewer"
        return ""

    def failure(self, text_hash: str, *, again: bool) -> tuple[str, str]:
        """Tell what has become of a text that no line answers, or several that differ, be it once or `again`.

        That is the kind of failure, and why.
        """
        if text_hash in self.answers.conflicting:
            reason = "the provider has answered it more than once, with different vectors"
        elif why := self.why_lost:
            return "rejected", f"{why}; {AGAIN_IS_PAID}"
        else:
            reason = "the provider's answers have no line for it"
        return ("rejected", f"{reason}, once more; {AGAIN_IS_PAID}") if again else ("transient", reason)

    @property
    def billed(self) -> int:
        """The tokens that the job was billed with: as it says, or as its lines do where that is more."""
        return max(sum(self.answers.billed.values()), self.job.tokens or 0)


class LayingDown:
    """Answers of the jobs of one Batch API, laid down."""

    def __init__(self, context: RunContext, api: BatchApi, embedder: Cached, tally: RunStats) -> None:
        """Tally into `tally` what is laid down."""
        self._context, self._api, self._embedder, self._tally = context, api, embedder, tally

    async def lay_down(self, row: SubmissionRow, answered: Answered) -> SubmissionRow | None:
        """Take in what a held submission was answered, and tell how it ends; None where others hold chunks of it."""
        space = Space.from_json(row.space)
        # Before anything is laid down: of what is, a poll that goes on from here no longer sees whose it was.
        await self._record(row, answered)
        while rows := await self._taken(row):
            await self._land(rows, answered, space)
            reached(PROGRESS, stage="embed", done=len(rows))
        if await held_elsewhere(row.id, self._context):
            return None
        job, answers = answered.job, answered.answers
        return replace(
            row,
            state="failed" if answered.why_lost and not len(answers) else job.state,
            done=len(answers),
            failed=len(answers.failures),
            billed=answered.billed,
            cost_usd=answered.billed * self._api.terms.price / 1e6,
            error=job.reason or answered.why_lost,
        )

    async def _taken(self, row: SubmissionRow) -> list[ChunkRow]:
        now = self._context.clock()
        return await self._context.ledger.chunks.take(
            row.id, worker=self._context.worker, now=now, until=now + CLAIM, limit=RUN_CHUNKS
        )

    async def _land(self, rows: Sequence[ChunkRow], answered: Answered, space: Space) -> None:
        """Commit what there are vectors for; the rest has failed, or, where it was not worked on, waits again."""
        context = self._context
        waiting = [row for row in rows if answered.waits(row.text_hash)]
        if waiting:
            await context.ledger.chunks.give_back(waiting, worker=context.worker)
        left = {(row.collection, row.id) for row in waiting}
        rows = [row for row in rows if (row.collection, row.id) not in left]
        if not rows:
            return
        passages, lost = await read_passages(rows, store=context.store, ledger=context.ledger)
        for collection in sorted({row.collection for row in rows}):
            await context.collections.begin(collection, space, now=context.clock(), datasets=context.datasets)
        outcome = self._outcome(passages, answered)
        await self._cache(passages, outcome)
        spent = Spent(
            lane="batch",
            texts=outcome.sent,
            planned=outcome.planned,
            tokens=outcome.tokens,
            cost_usd=outcome.tokens * self._api.terms.price / 1e6,
        )
        self._tally.sent += spent.texts
        self._tally.tokens += spent.tokens
        self._tally.cost_usd += spent.cost_usd
        await land(
            Made(rows=rows, passages=passages, lost=lost, outcome=outcome, spent=spent), context, self._tally
        )

    def _outcome(self, passages: Sequence[ChunkText], answered: Answered) -> Outcome:
        answers = answered.answers
        texts = {each.row.text_hash: each for each in passages}
        again = {each.row.text_hash for each in passages if each.row.attempts}
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
                outcome.failures[key] = answered.failure(key, again=key in again)
        return outcome

    async def _cache(self, passages: Sequence[ChunkText], outcome: Outcome) -> None:
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

    async def _record(self, row: SubmissionRow, answered: Answered) -> None:
        """Record what each document has cost: a text that several share, of the first; one that none has, of none."""
        answers = answered.answers
        left = dict(answers.billed)
        of: dict[tuple[str, str], list[Paid]] = {}
        there: set[str] = set()
        silent: dict[str, int] = {}
        async for page in self._context.ledger.chunks.submitted(row.id):
            for each in page:
                there.add(each.text_hash)
                if (billed := left.pop(each.text_hash, None)) is not None:
                    of.setdefault((each.source, each.document), []).append(Paid(each.tokens, billed))
                elif not answers.knows(each.text_hash):
                    silent[each.text_hash] = each.tokens
        planned = await self._keep_moved(row, answers, answers.besides(there))
        # Also where there are none: a poll that goes on from here finds what is laid down by then among them.
        nobodys = [Paid(planned.get(key, billed), billed) for key, billed in left.items()]
        if excess := answered.billed - sum(answers.billed.values()):
            # What was done and is in no file: the job tells what that has cost in all, and for no one text.
            nobodys += _shared(excess, list(silent.values()))
        of["", ""] = nobodys
        await self.spend(row, of)

    async def spend(self, row: SubmissionRow, of: Mapping[tuple[str, str], Sequence[Paid]]) -> None:
        """Record what was paid for texts, by source and document; what is recorded of a submission stays."""
        price, at = self._api.terms.price, self._context.clock()
        await self._context.ledger.spending.record(
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

    async def _keep_moved(
        self, row: SubmissionRow, answers: Answers, moved: Collection[str]
    ) -> dict[str, int]:
        """Keep the vectors of texts that no chunk of a submission has any more; tell the tokens that they have.

        The next document that says the same, or says it again, finds them.
        """
        planned: dict[str, int] = {}
        if not moved:
            return planned
        async for texts in read_sent(row.id, moved, self._api, self._context.store):
            vectors = answers.vectors(texts)
            for key, text in texts.items():
                planned[key] = self._embedder.bill(text, self._embedder.count(text))
            counts = tuple(answers.billed.get(key, planned[key]) for key in texts)
            kept = Embedded(
                vectors=np.stack([vectors[key] for key in texts]), tokens=sum(counts), counts=counts
            )
            await self._embedder.keep(list(texts.values()), kept, purpose="document")
        return planned


def _shared(billed: int, planned: Sequence[int]) -> list[Paid]:
    """Share out what was billed for several texts together: as they were planned, and what differs to the first."""
    if not planned:
        return [Paid(billed, billed)]
    first = Paid(planned[0], planned[0] + billed - sum(planned))
    return [first, *(Paid(each, each) for each in planned[1:])]
