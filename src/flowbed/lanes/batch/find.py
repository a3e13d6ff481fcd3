"""Find chunks without vectors and gather their texts into submissions: each text once, none that was paid for already.

It loads neither numpy nor the index.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from flowbed.errors import Misconfigured
from flowbed.lanes.batch.in_flight import InFlight
from flowbed.lanes.batch.input import Input, input_key
from flowbed.lanes.batch.prefetch import Prefetch
from flowbed.lanes.batch_files import read_chunk_texts
from flowbed.lanes.budget import dollars
from flowbed.lanes.claims import RUN_CHUNKS, WAITING, Claims, release_dead_workers, renewed
from flowbed.lanes.failures import RunStats, fail, failure, reset_documents
from flowbed.ledger import SubmissionRow
from flowbed.telemetry import PROGRESS, SUBMISSION_RECORDED, SUBMISSION_WRITTEN, reached

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.embedding.batch_api import BatchApi
    from flowbed.embedding.cache.cached import Cached
    from flowbed.lanes.batch_files import ChunkText, LostText
    from flowbed.lanes.contexts import ModelContext
    from flowbed.ledger import ChunkRow
    from flowbed.records import Problem, Status

# Chunks that are processed together. Those claimed ahead have to be bound again when a submission is full.
GROUP_CHUNKS = 2_048
# Batches claimed in one step: the fixed cost of a claim is then shared by thousands of chunks.
BATCHES_PER_CLAIM = 4


class VectorReuse(Protocol):
    """Commits chunks whose vectors are known."""

    async def commit_known(self, passages: Sequence[ChunkText]) -> set[str]:
        """Commit the chunks whose vectors are known, and return their text_hashes."""
        ...

    @property
    def unreadable(self) -> Collection[str]:
        """The collections that were left out, because their index cannot be read."""
        ...


@dataclass
class Unembedded:
    """The submissions made, by id, with their `chunks`, distinct `texts` and `tokens`.

    `waiting` chunks wait for a submission that already carries their texts; the vectors of `reused` ones were known.
    `stopped` says why not everything was gathered.
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
    reuse: VectorReuse | None = None,
    collections: Collection[str] | None = None,
) -> Unembedded:
    """Gather the waiting chunks into submissions; what has no result by `deadline` (µs, 0: none) is embedded now.

    With `collections`, only their chunks are gathered; the others of the same batches wait on. Chunks whose vectors are
    known go to `reuse`; without it they wait for the next run. Safe to run concurrently: each chunk and each text is
    claimed by exactly one finder.

    Raises:
        Misconfigured: the model has no Batch API.
    """
    api = require_batch_api(context)
    embedder = await asyncio.to_thread(context.embedder)
    finder = _Finder(context, api, embedder, deadline=deadline, reuse=reuse)
    finder.select(collections, limit)
    claims = Claims(
        context=context,
        sources=sources,
        statuses=statuses,
        # Chunks of other collections, which are claimed with them, do not count towards it.
        limit=limit if collections is None else None,
        only=batches,
        submission=finder.submission,
        deletions=False,
        enough=GROUP_CHUNKS if reuse is None else RUN_CHUNKS,
        together=1 if batches is not None else BATCHES_PER_CLAIM,
    )
    await release_dead_workers(context)
    async with renewed(context), aclosing(Prefetch(claims)) as prefetch:
        try:
            async for rows in prefetch:
                await finder.take(rows, prefetch)
                reached(PROGRESS, stage="find", done=len(rows))
                if finder.found.stopped or finder.enough:
                    break
            await finder.end()
        finally:
            await finder.close()
    return finder.found


def require_batch_api(context: ModelContext) -> BatchApi:
    """Return the Batch API of the model's provider.

    Raises:
        Misconfigured: it has none.
    """
    api = context.batch_api()
    if api is None:
        model = context.embedder().space.model
        raise Misconfigured(
            f"model {model} has no Batch API: run without --lane batch, or set a model of a provider that has one"
        )
    return api


class _Finder:
    """Gathers submissions, one after the other."""

    def __init__(
        self,
        context: ModelContext,
        api: BatchApi,
        embedder: Cached,
        *,
        deadline: int,
        reuse: VectorReuse | None,
    ) -> None:
        self.found = Unembedded()
        self._context, self._api, self._embedder = context, api, embedder
        self._deadline, self._reuse = deadline, reuse
        self._in_flight = InFlight(context)
        self._input = Input(context.new_id(), api)
        self._chunks = 0
        self._full: Input | None = None
        self._recording: asyncio.Task[None] | None = None
        self._handing_over: list[asyncio.Task[int]] = []
        self._collections: Collection[str] | None = None
        self._room: int | None = None

    def select(self, collections: Collection[str] | None, limit: int | None) -> None:
        """Gather only chunks of these collections, up to `limit`; None is all, which their claims limit."""
        self._collections = collections
        self._room = None if collections is None else limit

    @property
    def enough(self) -> bool:
        """Whether as many chunks of the selected collections were taken as were asked for."""
        return self._room is not None and self._room <= 0

    @property
    def submission(self) -> str:
        """The id of the submission that is being gathered."""
        return self._input.submission

    async def close(self) -> None:
        """Drop the submission that is being gathered, once the full one is recorded."""
        self._input.close()
        try:
            await self._recorded()
        finally:
            await asyncio.gather(*self._handing_over)

    async def take(self, rows: Sequence[ChunkRow], prefetch: Prefetch) -> None:
        """Process claimed chunks: each goes into a submission, waits, or fails."""
        new = await self._without_in_flight(await self._selected(rows))
        passages, lost = await read_chunk_texts(new, store=self._context.store, ledger=self._context.ledger)
        if lost:
            await self._fail(lost)
        await self._gather(await self._without_known(passages), prefetch)

    async def _selected(self, rows: Sequence[ChunkRow]) -> Sequence[ChunkRow]:
        """Give back the chunks of other collections, and those beyond the limit."""
        if self._collections is None:
            return rows
        chosen = [row for row in rows if row.collection in self._collections][: self._room]
        kept = {(row.collection, row.id) for row in chosen}
        others = [row for row in rows if (row.collection, row.id) not in kept]
        await self._context.ledger.chunks.give_back(others, worker=self._context.worker)
        if self._room is not None:
            self._room -= len(chosen)
        return chosen

    async def end(self) -> None:
        """Record the submission that is being gathered, unless it is empty."""
        await self._recorded()
        if self._input.size.texts:
            await self._record(self._input, self._chunks)

    async def _record(self, full: Input, chunks: int) -> None:
        context, size, submission = self._context, full.size, full.submission
        try:
            await full.write(context.store)
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
        # It is durable now. Releasing its chunks can overlap with gathering the next one.
        handed_over = context.ledger.chunks.hand_over(submission, worker=context.worker)
        self._handing_over.append(asyncio.create_task(handed_over))
        self.found.submissions.append(submission)
        self.found.chunks += chunks
        self.found.texts += size.texts
        self.found.tokens += size.tokens

    async def _recorded(self) -> None:
        """Wait until the full submission is recorded."""
        if self._recording is not None:
            recording, self._recording = self._recording, None
            await recording
            self._full = None

    async def _fail(self, lost: Sequence[LostText]) -> None:
        tally = RunStats()
        await reset_documents([each.row for each in lost], self._context.ledger)
        reasons = [(each.row, f"{each.reason}; the next run reads its document again") for each in lost]
        await fail([failure(row, "transient", why) for row, why in reasons], self._context, tally)
        self.found.failures += tally.failures

    async def _without_known(self, passages: Sequence[ChunkText]) -> Sequence[ChunkText]:
        if not passages:
            return passages
        if self._reuse is not None:
            known = await self._reuse.commit_known(passages)
            # Nothing is paid for what could not be committed.
            without = self._reuse.unreadable
            left = [each.row for each in passages if each.row.collection in without]
            await self._context.ledger.chunks.give_back(left, worker=self._context.worker)
            passages = [each for each in passages if each.row.collection not in without]
        else:
            texts = {each.sent: each.row.text_hash for each in passages}
            known = {texts[each] for each in await self._embedder.known(list(texts), purpose="document")}
        if not known:
            return passages
        reused = [each.row for each in passages if each.row.text_hash in known]
        self.found.reused += len(reused)
        if self._reuse is None:
            await self._context.ledger.chunks.give_back(reused, worker=self._context.worker)
        return [each for each in passages if each.row.text_hash not in known]

    async def _without_in_flight(self, rows: Sequence[ChunkRow]) -> Sequence[ChunkRow]:
        """Keep the chunks whose texts no other submission carries or is gathering; the others wait for those."""
        mine = {self.submission}
        if self._full is not None:
            mine.add(self._full.submission)
            if any(row.text_hash in self._full for row in rows):
                await self._recorded()
        rest = await self._in_flight.bind_known(rows, mine=mine)
        self.found.waiting += len(rows) - len(rest)
        return rest

    async def _gather(self, passages: Sequence[ChunkText], prefetch: Prefetch) -> None:
        """Add texts, to as many submissions as they need, until the budget is spent."""
        left = passages
        while left:
            left = left[self._fill(left) :]
            if self.found.stopped:
                await self._context.ledger.chunks.give_back(
                    [each.row for each in left], worker=self._context.worker
                )
                return
            if left:
                left = await self._cut(left, prefetch)

    def _fill(self, passages: Sequence[ChunkText]) -> int:
        """Add texts to the open submission until it is full or the budget is spent; return how many went in."""
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
                        f"the next text would exceed the budget of {dollars(budget.limit_usd)}"
                        f" ({dollars(budget.spent_usd)} spent); the other texts wait for a run that may spend more"
                    )
                    return place
                into.add(name, line, tokens=tokens)
            self._chunks += 1
        return len(passages)

    async def _cut(self, rest: Sequence[ChunkText], prefetch: Prefetch) -> Sequence[ChunkText]:
        """Record the full submission and begin the next; return the passages left for that one."""
        await self._recorded()
        full, following = self._input, Input(self._context.new_id(), self._api)
        left = [each for each in rest if each.row.text_hash not in full]
        chunks = self._chunks + len(rest) - len(left)
        self._full, self._input, self._chunks = full, following, 0
        try:
            # The groups claimed ahead were claimed for the full submission, too.
            await prefetch.bind([each.row for each in left], following.submission)
        except BaseException:
            full.close()
            raise
        # Writing overlaps with gathering the next one.
        self._recording = asyncio.create_task(self._record(full, chunks))
        return left
