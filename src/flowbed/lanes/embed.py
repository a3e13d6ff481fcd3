"""Embed: chunks that wait are claimed, their texts get vectors, a delta per collection is laid down and committed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.index.vector_lookup import VectorLookup
from flowbed.lanes.batch.in_flight import Carrying
from flowbed.lanes.batch_files import NO_BATCHES, read_passages
from flowbed.lanes.budget import dollars
from flowbed.lanes.claims import WAITING, Claims, renewed
from flowbed.lanes.failures import RunStats
from flowbed.lanes.outcome import UNANSWERED, Outcome
from flowbed.lanes.realtime import embed as embed_now
from flowbed.lanes.write_deltas import Landing, Made, Spent, land
from flowbed.ledger import SpendRow

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

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
    """Embed what waits, run by run: while the vectors of one are made, the one before it is laid down and committed.

    `batches`, where given, names the only batches that are worked on, each with the sources of which ("" is deletions).
    The `fresh` ones of a fetch that goes on are begun with; what had been waiting before may be about to change, and
    waits until the fetch has ended.

    Raises:
        Misconfigured: the model or the collection cannot be used; what was claimed waits again.
    """
    tally = RunStats()
    tiers: dict[str, VectorLookup] = {}
    landing_now: Mapping[str, NDArray[np.float32]] = {}
    claims = Claims(context=context, sources=sources, statuses=statuses, limit=limit, only=batches)
    carrying = Carrying(context)
    async with renewed(context), Landing() as landing:
        async for claimed in claims.groups(fresh):
            group = await carrying.rest(claimed)
            if not group:
                continue
            made = await _make(group, context, tally, tiers, landing_now, fresh)
            await landing.follow(land(made, context, tally))
            landing_now = made.outcome.vectors
            if tally.stopped:
                break
    return tally


async def _make(
    rows: Sequence[ChunkRow],
    context: RunContext,
    tally: RunStats,
    tiers: dict[str, VectorLookup],
    landing_now: Mapping[str, NDArray[np.float32]],
    fresh: BatchQueue | None,
) -> Made:
    """Read the texts of a group of claimed chunks, and find or make their vectors."""
    waiting = [row for row in rows if not row.deleted]
    passages, lost = await read_passages(
        waiting,
        store=context.store,
        ledger=context.ledger,
        registered=NO_BATCHES if fresh is None else fresh.rows,
    )
    outcome, spent = await _embed(passages, context, tiers, landing_now)
    await _record_perhaps(outcome, context)
    tally.sent += spent.texts
    tally.tokens += spent.tokens
    tally.cost_usd += spent.cost_usd
    tally.seconds += spent.seconds
    failures = list(outcome.failures.values())
    if failures and not outcome.vectors and all(kind == "transient" for kind, _ in failures):
        tally.stopped = (
            f"no request succeeded any more ({failures[0][1]}); what waits is taken up by the next run"
        )
    if outcome.put_off:
        tally.stopped = (
            f"the provider is not to be asked now ({outcome.put_off}); what waits is taken up by a later run"
        )
    if outcome.held and context.budget is not None and context.budget.exhausted:
        tally.stopped = (
            f"the next request would pass the budget of {dollars(context.budget.limit_usd)}"
            f" ({dollars(context.budget.spent_usd)} spent{_perhaps(context.budget)}); what waits is taken up by a"
            " run that may spend more"
        )
    return Made(rows=rows, passages=passages, lost=lost, outcome=outcome, spent=spent)


def _perhaps(budget: Budget) -> str:
    """Say how much of what was spent the provider need not have billed."""
    if not budget.perhaps_usd:
        return ""
    return f", {dollars(budget.perhaps_usd)} of it for requests that brought nothing and are perhaps billed"


async def _embed(
    passages: Sequence[ChunkText],
    context: RunContext,
    tiers: dict[str, VectorLookup],
    landing_now: Mapping[str, NDArray[np.float32]],
) -> tuple[Outcome, Spent]:
    """Find or make the vectors of passages, and tell what that took."""
    if not passages:
        return Outcome(), Spent()
    began = context.monotonic()
    embedder = await asyncio.to_thread(context.embedder)
    for collection in sorted({each.row.collection for each in passages}):
        await context.collections.begin(
            collection, embedder.space, now=context.clock(), datasets=context.datasets
        )
    await _open_tiers(tiers, embedder.space, context)
    outcome = await embed_now(
        {each.row.text_hash: each.sent for each in passages},
        planned={each.row.text_hash: embedder.bill(each.sent, each.row.tokens) for each in passages},
        embedder=embedder,
        index=_Every(landing_now, list(tiers.values())),
        concurrency=context.concurrency,
        budget=context.budget,
    )
    return outcome, Spent(
        texts=outcome.sent,
        planned=outcome.planned,
        tokens=outcome.tokens,
        cost_usd=outcome.tokens * embedder.price / 1e6,
        seconds=context.monotonic() - began,
    )


async def _record_perhaps(outcome: Outcome, context: ModelContext) -> None:
    """Record what a provider was sent and may bill, though it brought nothing: of no document, and in no run."""
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


async def _open_tiers(tiers: dict[str, VectorLookup], space: Space, context: IndexContext) -> None:
    """Let the indexes of one space be asked: whatever collection a text was embedded for, its vector is the same."""
    for live in await context.collections.all():
        if live.space.fingerprint == space.fingerprint:
            tiers.setdefault(live.collection, VectorLookup(live, context.datasets))


class AtHand:
    """What needs no provider: chunks whose vectors the cache or an index holds are laid down at once."""

    def __init__(self, context: RunContext, tally: RunStats) -> None:
        """Tally into `tally` what is laid down."""
        self._context, self._tally = context, tally
        self._tiers: dict[str, VectorLookup] = {}

    async def land(self, passages: Sequence[ChunkText]) -> set[str]:
        """Lay the passages down that there are vectors for, commit them, and return their text_hashes."""
        context = self._context
        embedder = await asyncio.to_thread(context.embedder)
        for collection in sorted({each.row.collection for each in passages}):
            await context.collections.begin(
                collection, embedder.space, now=context.clock(), datasets=context.datasets
            )
        await _open_tiers(self._tiers, embedder.space, context)
        texts = {each.sent: each.row.text_hash for each in passages}
        found = {
            texts[text]: vector
            for text, vector in (await embedder.lookup(list(texts), purpose="document")).items()
        }
        every = _Every(found, list(self._tiers.values()))
        vectors = await every.get_many(list(texts.values()))
        known = [each for each in passages if each.row.text_hash in vectors]
        if known:
            rows = [each.row for each in known]
            outcome = Outcome(vectors=vectors)
            made = Made(rows=rows, passages=known, lost=(), outcome=outcome, spent=Spent(lane="batch"))
            await land(made, context, self._tally)
        return set(vectors)


@dataclass(frozen=True)
class _Every:
    """What is on its way into the index, then the indexes of several collections, asked one after the other."""

    landing_now: Mapping[str, NDArray[np.float32]]
    tiers: Sequence[VectorLookup]

    async def get_many(self, hashes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        found = {each: self.landing_now[each] for each in hashes if each in self.landing_now}
        for tier in self.tiers:
            found |= await tier.get_many([each for each in hashes if each not in found])
        return found
