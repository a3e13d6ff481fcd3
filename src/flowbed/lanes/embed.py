"""The realtime lane of a run: claim waiting chunks, embed their texts, write and commit a delta per collection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.errors import Damaged
from flowbed.index.datasets import UNREADABLE
from flowbed.index.vector_lookup import VectorLookup
from flowbed.lanes.batch.in_flight import InFlight
from flowbed.lanes.batch_files import NO_BATCHES, read_chunk_texts
from flowbed.lanes.budget import dollars
from flowbed.lanes.claims import WAITING, Claims, renewed
from flowbed.lanes.failures import RunStats
from flowbed.lanes.health import Health
from flowbed.lanes.outcome import UNANSWERED, Outcome
from flowbed.lanes.realtime import embed as embed_now
from flowbed.lanes.write_deltas import BackgroundWrite, EmbeddedGroup, Spent, write_and_commit
from flowbed.ledger import SpendRow
from flowbed.telemetry import PROGRESS, log, reached

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.errors import Error
    from flowbed.lanes.batch_files import ChunkText
    from flowbed.lanes.budget import Budget
    from flowbed.lanes.claims import BatchQueue
    from flowbed.lanes.contexts import IndexContext, ModelContext, RunContext
    from flowbed.ledger import ChunkRow
    from flowbed.records import Space, Status


async def embed(
    context: RunContext,
    *,
    sources: Collection[str],
    statuses: Collection[Status] = WAITING,
    limit: int | None = None,
    batches: Mapping[str, Collection[str]] | None = None,
    fresh: BatchQueue | None = None,
) -> RunStats:
    """Embed waiting chunks, group by group; while one group is embedded, the group before it is committed.

    `batches`, where given, restricts this to those batches, each with its sources ("" is deletions). `fresh` batches of
    a fetch under way come first; older chunks may be about to change, and wait until the fetch has ended.

    Raises:
        Misconfigured: the model or the collection cannot be used; the claimed chunks wait again.
    """
    tally = RunStats()
    tiers: dict[str, VectorLookup] = {}
    health = Health()
    being_written: Mapping[str, NDArray[np.float32]] = {}
    claims = Claims(context=context, sources=sources, statuses=statuses, limit=limit, only=batches)
    in_flight = InFlight(context)
    async with renewed(context), BackgroundWrite() as writing:
        async for claimed in claims.groups(fresh):
            group = await in_flight.bind_known(claimed)
            made = await _make_readable(group, context, tally, tiers, health, being_written, fresh)
            if made is None:
                continue
            await writing.start(write_and_commit(made, context, tally))
            being_written = made.outcome.vectors
            if tally.stopped:
                break
    return tally


async def _make_readable(
    rows: Sequence[ChunkRow],
    context: RunContext,
    tally: RunStats,
    tiers: dict[str, VectorLookup],
    health: Health,
    being_written: Mapping[str, NDArray[np.float32]],
    fresh: BatchQueue | None,
) -> EmbeddedGroup | None:
    """Do as `_make` with the chunks of readable collections, None without any; others are released at the end."""
    for collection in {row.collection for row in rows}:
        try:
            await context.collections.get(collection)
        except UNREADABLE as error:
            tally.leave_out(collection, error)
    while rows := [row for row in rows if row.collection not in tally.unreadable]:
        try:
            return await _make(rows, context, tally, tiers, health, being_written, fresh)
        except _UnreadableError as error:
            tally.leave_out(error.collection, error.reason)
    return None


async def _make(
    rows: Sequence[ChunkRow],
    context: RunContext,
    tally: RunStats,
    tiers: dict[str, VectorLookup],
    health: Health,
    being_written: Mapping[str, NDArray[np.float32]],
    fresh: BatchQueue | None,
) -> EmbeddedGroup:
    """Read the texts of a group of claimed chunks, and look up or compute their vectors."""
    waiting = [row for row in rows if not row.deleted]
    passages, lost = await read_chunk_texts(
        waiting,
        store=context.store,
        ledger=context.ledger,
        registered=NO_BATCHES if fresh is None else fresh.rows,
    )
    # Deletions, and chunks whose text another one has, need no vector.
    reached(PROGRESS, stage="embed", done=len(rows) - len({each.row.text_hash for each in passages}))
    outcome, spent = await _embed(passages, context, tiers, health, being_written)
    await _record_perhaps(outcome, context)
    tally.sent += spent.texts
    tally.tokens += spent.tokens
    tally.cost_usd += spent.cost_usd
    tally.seconds += spent.seconds
    failures = list(outcome.failures.values())
    if failures and not outcome.vectors and all(kind == "transient" for kind, _ in failures):
        tally.stopped = (
            f"no request succeeds any more ({failures[0][1]}); the remaining texts wait for the next run"
        )
    if outcome.retry_later:
        reason = outcome.retry_later
        tally.stopped = (
            f"the provider takes no requests now ({reason}); the remaining texts wait for a later run"
        )
    if outcome.unsent and context.budget is not None and context.budget.exhausted:
        tally.stopped = (
            f"the next request would exceed the budget of {dollars(context.budget.limit_usd)}"
            f" ({dollars(context.budget.spent_usd)} spent{_perhaps(context.budget)}); the remaining texts"
            " wait for a run that may spend more"
        )
    return EmbeddedGroup(rows=rows, passages=passages, lost=lost, outcome=outcome, spent=spent)


def _perhaps(budget: Budget) -> str:
    """Say how much of the spending the provider may not have billed."""
    if not budget.perhaps_usd:
        return ""
    return f", {dollars(budget.perhaps_usd)} of it for requests without a response, which may be billed"


async def _embed(
    passages: Sequence[ChunkText],
    context: RunContext,
    tiers: dict[str, VectorLookup],
    health: Health,
    being_written: Mapping[str, NDArray[np.float32]],
) -> tuple[Outcome, Spent]:
    """Look up or compute the vectors of passages, and return what that took."""
    if not passages:
        return Outcome(), Spent()
    began = context.monotonic()
    embedder = await asyncio.to_thread(context.embedder)
    await _begin(passages, embedder.space, context)
    await _open_tiers(tiers, embedder.space, context)
    outcome = await embed_now(
        {each.row.text_hash: each.sent for each in passages},
        planned={each.row.text_hash: embedder.bill(each.sent, each.row.tokens) for each in passages},
        embedder=embedder,
        index=_AllTiers(being_written, list(tiers.values()), {each.row.collection for each in passages}),
        concurrency=context.concurrency,
        budget=context.budget,
        health=health,
        monotonic=context.monotonic,
    )
    return outcome, Spent(
        texts=outcome.sent,
        planned=outcome.planned,
        tokens=outcome.tokens,
        cost_usd=outcome.cost_usd,
        seconds=context.monotonic() - began,
    )


async def _record_perhaps(outcome: Outcome, context: ModelContext) -> None:
    """Record requests without a response, which the provider may bill: for no document, and in no run."""
    price = context.embedder().price if outcome.perhaps_billed else 0.0
    if not price:
        return
    tokens, at = sum(outcome.perhaps_billed), context.clock()
    row = SpendRow(
        run=f"{context.worker} {at}",
        lane=UNANSWERED,
        source="",
        document="",
        texts=len(outcome.perhaps_billed),
        planned=0,
        billed=tokens,
        cost_usd=tokens * price / 1e6,
        at=at,
    )
    await context.ledger.spending.record([row])


class _UnreadableError(Damaged):
    """The index of a collection that is written to cannot be read, and nothing was paid yet."""

    def __init__(self, collection: str, reason: Error) -> None:
        super().__init__(str(reason))
        self.collection, self.reason = collection, reason


async def _begin(passages: Sequence[ChunkText], space: Space, context: IndexContext) -> None:
    """Open the index of each collection, created where there is none."""
    for collection in sorted({each.row.collection for each in passages}):
        try:
            await context.collections.begin(collection, space, now=context.clock(), datasets=context.datasets)
        except UNREADABLE as error:
            raise _UnreadableError(collection, error) from error


async def _open_tiers(tiers: dict[str, VectorLookup], space: Space, context: IndexContext) -> None:
    """Open the indexes of one space: the vector of a text is the same in every collection."""
    lives, _ = await context.collections.readable()
    for live in lives:
        if live.space.fingerprint == space.fingerprint:
            tiers.setdefault(live.collection, VectorLookup(live, context.datasets))


class KnownVectors:
    """Commits chunks whose vectors the cache or an index holds, without a provider."""

    def __init__(self, context: RunContext, tally: RunStats) -> None:
        """Add what is committed to `tally`."""
        self._context, self._tally = context, tally
        self._tiers: dict[str, VectorLookup] = {}

    @property
    def unreadable(self) -> Collection[str]:
        """The collections that were left out, because their index cannot be read."""
        return self._tally.unreadable.keys()

    async def commit_known(self, passages: Sequence[ChunkText]) -> set[str]:
        """Commit the passages whose vectors are known, and return their text_hashes."""
        while passages := [each for each in passages if each.row.collection not in self.unreadable]:
            try:
                return await self._commit_known(passages)
            except _UnreadableError as error:
                self._tally.leave_out(error.collection, error.reason)
        return set()

    async def _commit_known(self, passages: Sequence[ChunkText]) -> set[str]:
        context = self._context
        embedder = await asyncio.to_thread(context.embedder)
        await _begin(passages, embedder.space, context)
        await _open_tiers(self._tiers, embedder.space, context)
        texts = {each.sent: each.row.text_hash for each in passages}
        found = {
            texts[text]: vector
            for text, vector in (await embedder.lookup(list(texts), purpose="document")).items()
        }
        every = _AllTiers(found, list(self._tiers.values()), {each.row.collection for each in passages})
        vectors = await every.get_many(list(texts.values()))
        known = [each for each in passages if each.row.text_hash in vectors]
        if known:
            rows = [each.row for each in known]
            outcome = Outcome(vectors=vectors)
            made = EmbeddedGroup(
                rows=rows, passages=known, lost=(), outcome=outcome, spent=Spent(lane="batch")
            )
            await write_and_commit(made, context, self._tally)
        return set(vectors)


@dataclass(frozen=True)
class _AllTiers:
    """Vectors that are being written, then the indexes of several collections, looked up in this order.

    The vectors are for `collections`; a damaged index of another one is left out.
    """

    being_written: Mapping[str, NDArray[np.float32]]
    tiers: Sequence[VectorLookup]
    collections: Collection[str]

    async def get_many(self, hashes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        found = {each: self.being_written[each] for each in hashes if each in self.being_written}
        for tier in self.tiers:
            try:
                found |= await tier.get_many([each for each in hashes if each not in found])
            except UNREADABLE as error:
                if tier.collection in self.collections:  # before anything is paid: its commit would fail
                    raise _UnreadableError(tier.collection, error) from error
                log.warning("vectors that may be in it are not used: %s", error)
        return found
