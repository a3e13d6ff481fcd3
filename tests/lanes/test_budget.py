"""A budget is never passed: not by requests in flight together, nor by texts that come again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.embedding.cache.cached import Cached
from flowbed.errors import Misconfigured
from flowbed.lanes.budget import Budget, dollars
from flowbed.lanes.realtime import embed
from flowbed.records import Embedded, text_hash
from flowbed.testing.embedder import Seeded

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from flowbed.lanes.outcome import Outcome
    from flowbed.records import Purpose

PRICE = 1_000_000.0  # US dollars per million words: a dollar a word


class Watched(Seeded):
    """A model at a dollar a word that records the words of its requests, and how many are in flight at once."""

    def __init__(self, *, items: int = 2, wait: float = 0.01, more: int = 0) -> None:
        super().__init__(8, items=items, price=PRICE)
        self.requests: list[int] = []
        self.in_flight = self.most = 0
        self._wait, self._more = wait, more

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        words = sum(map(self.count, texts))
        self.requests.append(words)
        self.in_flight += words
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(self._wait)
        self.in_flight -= words
        answer = await super().embed(texts, purpose=purpose)
        return Embedded(vectors=answer.vectors, tokens=answer.tokens + self._more)


async def run(model: Seeded, texts: Sequence[str], budget: Budget, *, concurrency: int = 10) -> Outcome:
    """Embed texts within a budget."""
    named = {text_hash(text): text for text in texts}
    return await embed(named, embedder=Cached(model, []), index=None, concurrency=concurrency, budget=budget)


def sentences(count: int, words: int = 3) -> list[str]:
    """Make texts of `words` words each."""
    return [" ".join([f"w{number}"] * words) for number in range(count)]


async def test_budget_requests_in_flight_count_before_they_are_sent() -> None:
    """Ten concurrent requests stop at the budget together, though none of them exceeds it alone."""
    model = Watched(items=1)
    budget = Budget(10.0)
    outcome = await run(model, sentences(10), budget)
    assert sum(model.requests) == 9 == budget.spent_usd
    assert (outcome.sent, len(outcome.vectors), len(outcome.unsent), outcome.tokens) == (3, 3, 7, 9)
    assert model.most > 3  # they were in flight together


async def test_budget_request_too_large_is_cut_to_what_fits() -> None:
    """Of a request that exceeds the budget the first texts are sent, and the others are not."""
    model = Watched(items=100)
    outcome = await run(model, sentences(10), Budget(14.0))
    assert model.requests == [12]
    assert len(outcome.unsent) == 6
    assert outcome.failures == {}


async def test_budget_zero_sends_nothing_that_costs() -> None:
    """With a budget of 0 a paid model is sent nothing, and one that costs nothing is sent all."""
    model = Watched()
    assert len((await run(model, sentences(4), Budget(0.0))).unsent) == 4
    assert model.requests == []
    free = Seeded(8)
    assert len((await run(free, sentences(4), Budget(0.0))).vectors) == 4


async def test_budget_exactly_enough_sends_everything() -> None:
    """A budget of exactly the cost lets everything through, also where the sums of the costs are not round."""
    model = Seeded(8, items=3, price=0.02)
    texts = sentences(1_000, words=7)
    outcome = await run(model, texts, Budget(7_000 * 0.02 / 1e6))
    assert (len(outcome.vectors), outcome.unsent) == (1_000, set())


async def test_budget_refused_texts_are_not_billed() -> None:
    """The reservation of a refused request can be spent by later ones."""
    budget = Budget(6.0)
    outcome = await run(Seeded(8, items=1, price=PRICE), ["POISON", *sentences(2)], budget, concurrency=1)
    assert (len(outcome.vectors), len(outcome.failures), outcome.unsent) == (2, 1, set())
    assert budget.spent_usd == 6.0


async def test_budget_billed_more_than_counted_stops_earlier() -> None:
    """A provider that bills more than its tokenizer counts is noticed with its response."""
    model = Watched(items=1, more=2)
    budget = Budget(10.0)
    outcome = await run(model, sentences(10), budget, concurrency=1)
    assert (len(outcome.vectors), budget.spent_usd) == (2, 10.0)


async def test_budget_failed_request_releases_its_reservation() -> None:
    """An error that ends the lane leaves no reservation behind."""

    class Broken(Seeded):
        async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
            raise Misconfigured("no")

    budget = Budget(3.0)
    with pytest.raises(Misconfigured):
        await run(Broken(8, price=PRICE), sentences(1), budget)
    assert budget.spent_usd == 0.0
    assert budget.reserve([3.0]) == 1


@given(
    limit=st.floats(0, 100),
    requests=st.lists(st.lists(st.floats(0, 10), max_size=6), max_size=12),
    order=st.randoms(use_true_random=False),
)
def test_budget_reserved_and_spent_never_exceed_the_limit(
    limit: float, requests: list[list[float]], order: random.Random
) -> None:
    """However requests overlap and end, in whatever order, all of them together stay within the limit."""
    budget = Budget(limit)
    open_: list[float] = []
    for costs in requests:
        fitting = budget.reserve(costs)
        open_.append(sum(costs[:fitting]))
        assert budget.spent_usd + sum(open_) <= limit + 1e-9
        assert fitting == len(costs) or budget.exhausted
        if order.random() < 0.5:
            reserved = open_.pop(order.randrange(len(open_)))
            budget.settle(reserved, reserved * order.choice([0, 1]))
    for reserved in open_:
        budget.settle(reserved, reserved)
    assert budget.spent_usd <= limit + 1e-9


@pytest.mark.parametrize(
    ("amount", "said"),
    [(0, "$0.0000"), (6.6e-07, "$0.00000066"), (0.0001, "$0.0001"), (1234.56789, "$1,234.5679")],
)
def test_dollars_small_amounts_keep_two_digits(amount: float, said: str) -> None:
    """The cost of a few texts has as many decimals as it needs."""
    assert dollars(amount) == said
