"""Find: what is not embedded yet is gathered into submissions, each text once, and no text that is paid for already.

Loads nothing of an index: it runs where there is room for little.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from flowbed.errors import Misconfigured
from flowbed.lanes.batch.in_flight import Carrying
from flowbed.lanes.batch.input import Input, input_key
from flowbed.lanes.batch.prefetch import Ahead
from flowbed.lanes.batch_files import read_passages
from flowbed.lanes.budget import dollars
from flowbed.lanes.claims import RUN_CHUNKS, WAITING, Claims, renewed, take_back
from flowbed.lanes.failures import RunStats, fail, failure, read_again
from flowbed.ledger import SubmissionRow
from flowbed.telemetry import PROGRESS, SUBMISSION_RECORDED, SUBMISSION_WRITTEN, reached

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.embedding.batch_api import BatchApi
    from flowbed.embedding.cache.cached import Cached
    from flowbed.lanes.batch_files import ChunkText, Lost
    from flowbed.lanes.contexts import ModelContext
    from flowbed.ledger import ChunkRow
    from flowbed.records import Problem, Status

# Chunks that are looked at together. What is claimed ahead of them has to be bound anew where a submission is full.
FEW = 2_048
# Batches that are claimed in one step: what a claim takes beside its chunks is then shared by some thousands.
TOGETHER = 4


class Reusing(Protocol):
    """What lays chunks down whose vectors are at hand."""

    async def land(self, passages: Sequence[ChunkText]) -> set[str]:
        """Lay down what there are vectors for, and return the text_hashes of that."""
        ...


@dataclass
class Unembedded:
    """What was found: ids of the submissions made, their `chunks`, distinct `texts` and `tokens`.

    `waiting` chunks wait for a submission that carries their texts already, for `reused` ones there were vectors.
    `stopped` says why it ended before everything was found.
    """

    submissions: list[str] = field(default_factory=list)
    chunks: int = 0
    texts: int = 0
    tokens: int = 0
    waiting: int = 0
    reused: int = 0
    stopped: str = ""
    failures: list[Problem] = field(default_factory=list)


async def find(
    context: ModelContext,
    *,
    sources: Collection[str],
    statuses: Collection[Status] = WAITING,
    limit: int | None = None,
    batches: Mapping[str, Collection[str]] | None = None,
    deadline: int = 0,
    reuse: Reusing | None = None,
) -> Unembedded:
    """Gather the chunks that wait into submissions; what has no answer by `deadline` (µs, 0 is none) is embedded now.

    Chunks whose vectors are at hand are given to `reuse`; without it they are left to wait for the next run. Any number
    of finders may be at work: a chunk is one's alone, and so is a text.

    Raises:
        Misconfigured: the model has no Batch API.
    """
    api = require_batch_api(context)
    embedder = await asyncio.to_thread(context.embedder)
    finding = _Finding(context, api, embedder, deadline=deadline, reuse=reuse)
    claims = Claims(
        context=context,
        sources=sources,
        statuses=statuses,
        limit=limit,
        only=batches,
        submission=finding.submission,
        deletions=False,
        enough=FEW if reuse is None else RUN_CHUNKS,
        together=1 if batches is not None else TOGETHER,
    )
    await take_back(context)
    async with renewed(context), aclosing(Ahead(claims)) as ahead:
        try:
            async for rows in ahead:
                await finding.take(rows, ahead)
                reached(PROGRESS, stage="find", done=len(rows))
                if finding.found.stopped:
                    break
            await finding.end()
        finally:
            await finding.close()
    return finding.found


def require_batch_api(context: ModelContext) -> BatchApi:
    """Give the Batch API of the model's provider.

    Raises:
        Misconfigured: it has none.
    """
    api = context.batch_api()
    if api is None:
        model = context.embedder().space.model
        raise Misconfigured(
            f"model {model} has no Batch API: leave --lane batch away, or set a model of a provider that has one"
        )
    return api


class _Finding:
    """Submissions in the making, one after the other."""

    def __init__(
        self, context: ModelContext, api: BatchApi, embedder: Cached, *, deadline: int, reuse: Reusing | None
    ) -> None:
        self.found = Unembedded()
        self._context, self._api, self._embedder = context, api, embedder
        self._deadline, self._reuse = deadline, reuse
        self._carrying = Carrying(context)
        self._input = Input(context.new_id(), api)
        self._chunks = 0
        self._full: Input | None = None
        self._recording: asyncio.Task[None] | None = None
        self._leaving: list[asyncio.Task[int]] = []

    @property
    def submission(self) -> str:
        """The id of the one that is being gathered."""
        return self._input.submission

    async def close(self) -> None:
        """Let go of what is being gathered, once the ledger has taken in what was recorded."""
        self._input.close()
        try:
            await self._recorded()
        finally:
            await asyncio.gather(*self._leaving)

    async def take(self, rows: Sequence[ChunkRow], ahead: Ahead) -> None:
        """Take in claimed chunks, each of which goes into a submission, or back to where it was, or has failed."""
        new = await self._not_elsewhere(rows)
        passages, lost = await read_passages(new, store=self._context.store, ledger=self._context.ledger)
        if lost:
            await self._fail(lost)
        await self._gather(await self._not_at_hand(passages), ahead)

    async def end(self) -> None:
        """Record the submission that is being gathered, if there is anything in it."""
        await self._recorded()
        if self._input.size.texts:
            await self._record(self._input, self._chunks)

    async def _record(self, full: Input, chunks: int) -> None:
        context, size, submission = self._context, full.size, full.submission
        try:
            await full.lay_down(context.store)
        finally:
            full.close()
        reached(SUBMISSION_WRITTEN, submission=submission)
        await context.ledger.submissions.create(
            SubmissionRow(
                id=submission,
                space=self._embedder.space.to_json(),
                account=self._api.terms.account,
                key=input_key(submission),
                bytes=size.bytes,
                texts=size.texts,
                chunks=chunks,
                tokens=size.tokens,
                created=context.clock(),
                deadline=self._deadline,
            )
        )
        reached(SUBMISSION_RECORDED, submission=submission, texts=size.texts)
        # It is safe now. That nobody holds its chunks any more can be written while the next is gathered.
        left = context.ledger.chunks.hand_over(submission, worker=context.worker)
        self._leaving.append(asyncio.create_task(left))
        self.found.submissions.append(submission)
        self.found.chunks += chunks
        self.found.texts += size.texts
        self.found.tokens += size.tokens

    async def _recorded(self) -> None:
        """Wait until the submission that was full is recorded."""
        if self._recording is not None:
            recording, self._recording = self._recording, None
            await recording
            self._full = None

    async def _fail(self, lost: Sequence[Lost]) -> None:
        tally = RunStats()
        await read_again([each.row for each in lost], self._context.ledger)
        reasons = [(each.row, f"{each.reason}; the next run reads its document again") for each in lost]
        await fail([failure(row, "transient", why) for row, why in reasons], self._context, tally)
        self.found.failures += tally.failures

    async def _not_at_hand(self, passages: Sequence[ChunkText]) -> Sequence[ChunkText]:
        if not passages:
            return passages
        if self._reuse is not None:
            known = await self._reuse.land(passages)
        else:
            texts = {each.sent: each.row.text_hash for each in passages}
            known = {texts[each] for each in await self._embedder.known(list(texts), purpose="document")}
        if not known:
            return passages
        there = [each.row for each in passages if each.row.text_hash in known]
        self.found.reused += len(there)
        if self._reuse is None:
            await self._context.ledger.chunks.give_back(there, worker=self._context.worker)
        return [each for each in passages if each.row.text_hash not in known]

    async def _not_elsewhere(self, rows: Sequence[ChunkRow]) -> Sequence[ChunkRow]:
        """Leave what others have taken in: to their submissions, or, if one is not recorded yet, for later."""
        mine = {self.submission}
        if self._full is not None:
            mine.add(self._full.submission)
            if any(row.text_hash in self._full for row in rows):
                await self._recorded()
        rest = await self._carrying.rest(rows, mine=mine)
        self.found.waiting += len(rows) - len(rest)
        return rest

    async def _gather(self, passages: Sequence[ChunkText], ahead: Ahead) -> None:
        """Take texts in, over as many submissions as it takes, until the budget says no."""
        left = passages
        while left:
            left = left[self._fill(left) :]
            if self.found.stopped:
                await self._context.ledger.chunks.give_back(
                    [each.row for each in left], worker=self._context.worker
                )
                return
            if left:
                left = await self._cut(left, ahead)

    def _fill(self, passages: Sequence[ChunkText]) -> int:
        """Take texts into the open submission until it is full, or the budget is spent; return how many passages."""
        budget, price = self._context.budget, self._api.terms.price
        into, bill, write = self._input, self._embedder.bill, self._api.line
        for place, (row, _, sent, _) in enumerate(passages):
            name = row.text_hash
            if name not in into:
                tokens = bill(sent, row.tokens)
                line = write(name, sent)
                if not into.fits(line, tokens=tokens):
                    return place
                if budget is not None and not budget.spend(tokens * price / 1e6):
                    self.found.stopped = (
                        f"the next text would pass the budget of {dollars(budget.limit_usd)}"
                        f" ({dollars(budget.spent_usd)} spent); what waits is taken up by a run that may spend more"
                    )
                    return place
                into.add(name, line, tokens=tokens)
            self._chunks += 1
        return len(passages)

    async def _cut(self, rest: Sequence[ChunkText], ahead: Ahead) -> Sequence[ChunkText]:
        """Record the submission that is full, and begin the next; return what of a group is left for that."""
        await self._recorded()
        full, following = self._input, Input(self._context.new_id(), self._api)
        left = [each for each in rest if each.row.text_hash not in full]
        chunks = self._chunks + len(rest) - len(left)
        self._full, self._input, self._chunks = full, following, 0
        try:
            # What was claimed ahead was claimed for the one that is full, too.
            await ahead.bind([each.row for each in left], following.submission)
        except BaseException:
            full.close()
            raise
        # The disk is waited for while the next is gathered.
        self._recording = asyncio.create_task(self._record(full, chunks))
        return left
