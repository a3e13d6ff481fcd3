"""Commit the results of one job; texts without a result wait again or fail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from flowbed.lanes.batch.answer_files import read_sent
from flowbed.lanes.batch.lifecycle import has_other_workers, take_chunks
from flowbed.lanes.batch_files import read_chunk_texts
from flowbed.lanes.outcome import Outcome, Paid
from flowbed.lanes.write_deltas import EmbeddedGroup, Spent, write_and_commit
from flowbed.ledger import SpendRow
from flowbed.records import Embedded, Space
from flowbed.records.values import count
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

# A missing result is requested once more, which costs a fraction of a cent. More than this many missing lines, and more
# than this share of what the job did, mean damaged files rather than omitted lines: then a person decides.
MISSING, SHARE = 10, 0.25
RETRY_COSTS = "`flowbed dead-letters retry` embeds its texts again, and pays for them again"


@dataclass(frozen=True, kw_only=True)
class SubmissionResults:
    """A job that has ended, its `answers`, and the ids of its files that the provider has `lost`."""

    job: Job
    answers: Answers
    lost: Collection[str] = ()

    def waits(self, text_hash: str) -> bool:
        """Tell whether a text was neither processed nor billed, so that it waits again."""
        answers = self.answers
        if text_hash in answers or text_hash in answers.failures or text_hash in answers.conflicting:
            return False
        ended_early = self.job.state != "completed" and not self.why_lost
        return text_hash in answers.expired or ended_early

    @property
    def why_lost(self) -> str:
        """Why texts without a result are lost rather than omitted; empty where they are not.

        Of a job that ended early, those that only the file of errors had were not processed.
        """
        job = self.job
        if job.output in self.lost or (self.lost and job.state == "completed"):
            return f"the provider has lost results of job {job.id} (file {', '.join(self.lost)})"
        answers = self.answers
        # Some providers count unprocessed texts among the failed ones.
        reported = job.done + (0 if job.errors in self.lost else job.failed)
        known = len(answers) + len(answers.failures) + len(answers.expired) + len(answers.conflicting)
        missing = reported - known
        if missing > max(MISSING, SHARE * job.done):
            done = count(job.done, "text")
            return f"the provider has done {done} of job {job.id}, and lacks {count(missing, 'result')}"
        return ""

    def failure(self, text_hash: str, *, again: bool) -> tuple[str, str]:
        """Return the kind and reason of the failure of a text without a result, or with conflicting ones.

        `again` says that it failed so before.
        """
        if text_hash in self.answers.conflicting:
            reason = "the provider returned it more than once, with different vectors"
        elif why := self.why_lost:
            return "rejected", f"{why}; {RETRY_COSTS}"
        else:
            reason = "the provider's results have no line for it"
        return (
            ("rejected", f"{reason}, for the second time; {RETRY_COSTS}") if again else ("transient", reason)
        )

    @property
    def billed(self) -> int:
        """The tokens that the job was billed: as it says, or as its lines say where that is more."""
        return max(sum(self.answers.billed.values()), self.job.tokens or 0)


class ResultWriter:
    """Commits the results of the jobs of one Batch API."""

    def __init__(self, context: RunContext, api: BatchApi, embedder: Cached, tally: RunStats) -> None:
        """Add what is committed to `tally`."""
        self._context, self._api, self._embedder, self._tally = context, api, embedder, tally

    async def write(self, row: SubmissionRow, results: SubmissionResults) -> SubmissionRow | None:
        """Commit the results of a held submission, and return how it ends; None where others hold chunks of it."""
        space = Space.from_json(row.space)
        # Before the first commit: a poll that resumes after it cannot tell which document a committed text belonged to.
        await self._record(row, results)
        while rows := await take_chunks(row, self._context):
            await self._write(rows, results, space)
            reached(PROGRESS, stage="embed", done=len(rows))
        if await has_other_workers(row.id, self._context):
            return None
        job, answers = results.job, results.answers
        return replace(
            row,
            state="failed" if results.why_lost and not len(answers) else job.state,
            done=len(answers),
            failed=len(answers.failures),
            billed=results.billed,
            cost_usd=results.billed * self._api.terms.price / 1e6,
            error=job.reason or results.why_lost,
        )

    async def _write(self, rows: Sequence[ChunkRow], results: SubmissionResults, space: Space) -> None:
        """Commit the chunks that have vectors; the others fail, or wait again where they were not processed."""
        context = self._context
        waiting = [row for row in rows if results.waits(row.text_hash)]
        if waiting:
            await context.ledger.chunks.give_back(waiting, worker=context.worker)
        rows = [row for row in rows if not results.waits(row.text_hash)]
        if not rows:
            return
        passages, lost = await read_chunk_texts(rows, store=context.store, ledger=context.ledger)
        for collection in sorted({row.collection for row in rows}):
            await context.collections.begin(collection, space, now=context.clock(), datasets=context.datasets)
        outcome = self._outcome(passages, results)
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
        await write_and_commit(
            EmbeddedGroup(rows=rows, passages=passages, lost=lost, outcome=outcome, spent=spent),
            context,
            self._tally,
        )

    def _outcome(self, passages: Sequence[ChunkText], results: SubmissionResults) -> Outcome:
        answers = results.answers
        texts = {each.row.text_hash: each for each in passages}
        again = {each.row.text_hash for each in passages if each.row.attempts}
        outcome = Outcome(vectors=answers.vectors(texts))
        for key, each in texts.items():
            if key in outcome.vectors:
                planned = self._embedder.bill(each.sent, each.row.tokens)
                # An interrupted run that has committed it already has also counted its cost.
                if answers.tell(key):
                    outcome.paid[key] = Paid(planned, answers.billed.get(key, planned))
            elif key in answers.failures:
                outcome.failures[key] = answers.failures[key]
            else:
                outcome.failures[key] = results.failure(key, again=key in again)
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

    async def _record(self, row: SubmissionRow, results: SubmissionResults) -> None:
        """Record the cost of each document: a shared text counts for the first; one that no chunk has, for none."""
        answers = results.answers
        left = dict(answers.billed)
        of: dict[tuple[str, str], list[Paid]] = {}
        present: set[str] = set()
        unanswered: dict[str, int] = {}
        async for page in self._context.ledger.chunks.submitted(row.id):
            for each in page:
                present.add(each.text_hash)
                if (billed := left.pop(each.text_hash, None)) is not None:
                    of.setdefault((each.source, each.document), []).append(Paid(each.tokens, billed))
                elif not answers.knows(each.text_hash):
                    unanswered[each.text_hash] = each.tokens
        planned = await self._keep_orphans(row, answers, answers.besides(present))
        # Recorded even when empty: a poll that resumes finds the texts committed by then among them.
        unowned = [Paid(planned.get(key, billed), billed) for key, billed in left.items()]
        if excess := results.billed - sum(answers.billed.values()):
            # Texts that were processed and are in no file: the job gives their total cost only.
            unowned += _shared(excess, list(unanswered.values()))
        of["", ""] = unowned
        await self.record_spend(row, of)

    async def record_spend(self, row: SubmissionRow, of: Mapping[tuple[str, str], Sequence[Paid]]) -> None:
        """Record what was paid for texts, by source and document; an earlier record of the submission is kept."""
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

    async def _keep_orphans(
        self, row: SubmissionRow, answers: Answers, orphans: Collection[str]
    ) -> dict[str, int]:
        """Cache the vectors of texts that no chunk of the submission has any more, and return their token counts.

        A later document with the same text finds them.
        """
        planned: dict[str, int] = {}
        if not orphans:
            return planned
        async for texts in read_sent(row.id, orphans, self._api, self._context.store):
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
    """Divide what was billed for several texts together: as planned, and the difference to the first."""
    if not planned:
        return [Paid(billed, billed)]
    first = Paid(planned[0], planned[0] + billed - sum(planned))
    return [first, *(Paid(each, each) for each in planned[1:])]
