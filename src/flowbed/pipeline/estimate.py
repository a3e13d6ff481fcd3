"""Outlook: what each lane would cost and how long it would take, from what earlier runs and submissions took."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from flowbed.embedding.wrappers import Wrapper
from flowbed.lanes.choice import Choice, choose, estimate_seconds, guess_seconds
from flowbed.records import Lane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.embedding import Embedder
    from flowbed.embedding.batch_api import JobTerms
    from flowbed.lanes.choice import LaneOption
    from flowbed.lanes.contexts import ModelContext
    from flowbed.ledger import RunRow, SubmissionRow

# Where no run of this ledger has been timed yet: what the local model does on two ordinary cores.
TOKENS_PER_SECOND = 8_000.0
# Of the newest runs, those whose texts were at most so many times shorter or longer say most: short lines take longer
# for each of their tokens.
RECENT_RUNS, ALIKE = 50, 2.0
# Providers are faster on some days than on others: the newest submissions say most, and of ten one may take longer.
RECENT_SUBMISSIONS, MOST = 20, 0.9


@runtime_checkable
class Exact(Protocol):
    """An embedder that says whether the provider bills what it counts."""

    exact: bool


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is known of the lanes before anything is sent.

    `terms` are None where the model has no Batch API, and `price` is the realtime lane's. `queued` tokens stand in the
    account's queue. `typical` is the seconds in which nine of ten of the last `timed` submissions were done, None where
    there were none.
    """

    terms: JobTerms | None
    price: float
    queued: int = 0
    typical: float | None = None
    timed: int = 0

    def choose(self, asked: LaneOption, *, tokens: int, texts: int, deadline: float | None) -> Choice:
        """Choose the lane of so much work; `deadline` is in seconds from now."""
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
        """Tell what the batch lane would take; None where there is none."""
        if self.terms is None:
            return None
        each = guess_seconds(self.terms) if self.typical is None else self.typical
        seconds = estimate_seconds(tokens, self.terms, queued=self.queued, each=each) if tokens else 0.0
        return Lane(cost_usd=tokens * self.terms.price / 1e6, seconds=round(seconds, 1))


async def outlook(context: ModelContext) -> Outlook:
    """Ask the ledger for what the choice of a lane depends on.

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
        typical=sorted(newest)[int(MOST * (len(newest) - 1))] if newest else None,
        timed=len(newest),
    )


def _is_whole(row: SubmissionRow) -> bool:
    return row.state == "completed" and 0 < row.submitted < row.ended


def _took(row: SubmissionRow) -> float:
    # Until the index had it, which somebody has to ask for: that is what is waited for, not the provider's own time.
    return (row.ended - row.submitted) / 1e6


@dataclass(frozen=True, kw_only=True)
class Past:
    """What the newest runs of a model say of the next one.

    `rate` is tokens in a second on the realtime lane, taken from `timed` runs; `error` is by which part more was billed
    than was planned, None where nothing was.
    """

    rate: float
    timed: int
    error: float | None


async def past(context: ModelContext, *, tokens: int, texts: int) -> Past:
    """Look through the newest runs of this model for what so many tokens in so many texts would take."""
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
    chosen = [row for row in timed if 1 / ALIKE <= row.tokens / row.texts / mean <= ALIKE] or timed
    rate = TOKENS_PER_SECOND
    if chosen:
        rate = sum(row.tokens for row in chosen) / sum(row.seconds for row in chosen)
    return Past(rate=rate, timed=len(chosen), error=_error(runs))


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
