"""Estimate the cost and duration of each lane from earlier runs and submissions."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from flowbed.embedding import Rated
from flowbed.embedding.wrappers import Wrapper
from flowbed.lanes.choice import Choice, choose, estimate_seconds, guess_seconds
from flowbed.lanes.requests import REQUESTS, SMALLEST
from flowbed.records import Lane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.embedding import Embedder
    from flowbed.embedding.batch_api import JobTerms
    from flowbed.lanes.choice import LaneOption
    from flowbed.lanes.contexts import ModelContext
    from flowbed.ledger import RunRow, SubmissionRow

# Used until a run of this ledger was timed: the speed of the local model on two ordinary cores.
TOKENS_PER_SECOND = 8_000.0
# Of the newest runs, those whose mean text length differs by at most this factor count: short texts take longer per
# token.
RECENT_RUNS, SIMILAR = 50, 2.0
# Providers are faster on some days than on others, so the newest submissions count, by their 90th percentile.
RECENT_SUBMISSIONS, PERCENTILE = 20, 0.9
MINUTE = 60.0  # seconds


@runtime_checkable
class Exact(Protocol):
    """An embedder that knows whether the provider bills the tokens that it counts."""

    exact: bool


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is known of the lanes before anything is sent.

    `terms` are None where the model has no Batch API, and `price` is that of the realtime lane. `queued` tokens wait in
    the account's queue. `typical` is the p90 of the seconds that the last `timed` submissions took, None without any.
    """

    terms: JobTerms | None
    price: float
    queued: int = 0
    typical: float | None = None
    timed: int = 0

    def choose(self, asked: LaneOption, *, tokens: int, texts: int, deadline: float | None) -> Choice:
        """Choose the lane for these tokens and texts; `deadline` is in seconds from now."""
        return choose(
            asked=asked,
            tokens=tokens,
            texts=texts,
            terms=self.terms,
            price=self.price,
            deadline_seconds=deadline,
            queued=self.queued,
            typical_seconds=self.typical,
        )

    def batch(self, tokens: int) -> Lane | None:
        """Estimate what the batch lane would take; None where there is none."""
        if self.terms is None:
            return None
        each = guess_seconds(self.terms) if self.typical is None else self.typical
        seconds = estimate_seconds(tokens, self.terms, queued=self.queued, each=each) if tokens else 0.0
        return Lane(cost_usd=tokens * self.terms.price / 1e6, seconds=round(seconds, 1))


async def outlook(context: ModelContext) -> Outlook:
    """Read from the ledger what the choice of a lane depends on.

    Raises:
        Misconfigured: the model, or its Batch API, cannot be opened.
    """
    price, api = context.embedder().price, context.batch_api()
    if api is None:
        return Outlook(terms=None, price=price)
    account = api.terms.account
    newest: deque[float] = deque(maxlen=RECENT_SUBMISSIONS)
    async for page in context.ledger.submissions.pages(live=False):
        newest.extend(_took(row) for row in page if row.account == account and _is_whole(row))
    return Outlook(
        terms=api.terms,
        price=price,
        queued=await context.ledger.submissions.queued(account),
        typical=sorted(newest)[int(PERCENTILE * (len(newest) - 1))] if newest else None,
        timed=len(newest),
    )


def _is_whole(row: SubmissionRow) -> bool:
    return row.state == "completed" and 0 < row.submitted < row.ended


def _took(row: SubmissionRow) -> float:
    # Until the results were in the index, which takes a poll: users wait for that, not for the provider alone.
    return (row.ended - row.submitted) / 1e6


@dataclass(frozen=True, kw_only=True)
class Past:
    """What the newest runs of a model say about the next one.

    `rate` is tokens per second on the realtime lane, from `timed` runs; `error` is the share by which more was billed
    than planned, None where nothing was billed.
    """

    rate: float
    timed: int
    error: float | None


async def past(context: ModelContext, *, tokens: int, texts: int) -> Past:
    """Estimate from the newest runs of this model what this many tokens in this many texts take."""
    if not tokens:
        return Past(rate=TOKENS_PER_SECOND, timed=0, error=None)
    space = context.embedder().space.to_json()
    runs = [
        row
        for row in await context.ledger.runs.recent(limit=RECENT_RUNS)
        if row.space == space and row.tokens and row.texts
    ]
    timed = [row for row in runs if row.lane == "realtime" and row.seconds > 0]
    mean = tokens / texts
    chosen = [row for row in timed if 1 / SIMILAR <= row.tokens / row.texts / mean <= SIMILAR] or timed
    rate = TOKENS_PER_SECOND
    if chosen:
        rate = sum(row.tokens for row in chosen) / sum(row.seconds for row in chosen)
    return Past(rate=rate, timed=len(chosen), error=_error(runs))


def least_seconds(embedder: Embedder, *, tokens: int, texts: int) -> float:
    """Return the least time that the provider's rate limits allow for this many tokens in this many texts."""
    behind = embedder
    while isinstance(behind, Wrapper):
        behind = behind.wrapped
    if not isinstance(behind, Rated) or not texts:
        return 0.0
    rates = behind.rates
    # A run sends small requests where it may send many, and no fewer than it has to.
    few = max(ceil(texts / embedder.items), ceil(tokens / embedder.tokens))
    requests = max(few, min(ceil(texts / SMALLEST), rates.requests or REQUESTS))
    costs = [
        (amount * MINUTE / limit)
        # The first request goes at once.
        for amount, limit in ((requests - 1, rates.requests), (texts, rates.inputs), (tokens, rates.tokens))
        if limit
    ]
    return max(costs, default=0.0)


def counts_as_billed(embedder: Embedder) -> bool:
    """Tell whether an embedder is known to count the tokens that its provider bills."""
    behind = embedder
    while isinstance(behind, Wrapper):
        behind = behind.wrapped
    return isinstance(behind, Exact) and behind.exact


def _error(runs: Sequence[RunRow]) -> float | None:
    both = [row for row in runs if row.planned]
    planned = sum(row.planned for row in both)
    return (sum(row.tokens for row in both) - planned) / planned if planned else None
