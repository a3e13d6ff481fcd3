"""One call in several requests: everything once, in order, or nothing at all."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.embedding.splitting import AT_ONCE, call_in_parts, halves, split
from flowbed.errors import Rejected, Transient
from flowbed.records import Embedded

SIZES = st.lists(st.integers(0, 50), max_size=60)


def answer(part: slice) -> Embedded:
    """Give each text the vector of its place."""
    return Embedded(
        vectors=np.arange(part.start, part.stop, dtype=np.float32)[:, None], tokens=part.stop - part.start
    )


@given(sizes=SIZES, items=st.integers(1, 9), tokens=st.integers(1, 80))
def test_every_text_is_in_one_run_and_in_order(sizes: list[int], items: int, tokens: int) -> None:
    """The parts together are all the texts, each once, in their order."""
    parts = split(sizes, items=items, tokens=tokens)
    assert [place for part in parts for place in range(part.start, part.stop)] == list(range(len(sizes)))


@given(sizes=SIZES, items=st.integers(1, 9), tokens=st.integers(1, 80))
def test_no_run_is_more_than_a_request_holds(sizes: list[int], items: int, tokens: int) -> None:
    """Neither by texts nor by tokens, save for a text that is too large alone."""
    for part in split(sizes, items=items, tokens=tokens):
        held = sizes[part]
        assert 1 <= len(held) <= items
        assert sum(held) <= tokens or len(held) == 1


@given(sizes=SIZES, items=st.integers(1, 9), tokens=st.integers(1, 80))
def test_no_run_could_have_held_the_next_text(sizes: list[int], items: int, tokens: int) -> None:
    """As few requests are sent as the order allows."""
    parts = split(sizes, items=items, tokens=tokens)
    for part, following in pairwise(parts):
        grown = sizes[part.start : following.start + 1]
        assert len(grown) > items or sum(grown) > tokens


@given(count=st.integers(2, 1_000))
def test_halves_are_all_of_it(count: int) -> None:
    """Both hold something, and nothing is lost between them."""
    first, second = halves(count)
    assert (first.start, first.stop, second.stop) == (0, second.start, count)
    assert first.stop > 0
    assert second.stop > second.start


async def test_answers_are_joined_in_the_order_of_the_texts() -> None:
    """Whichever part is answered first."""
    parts = split([1] * 10, items=3, tokens=100)

    async def ask(part: slice) -> Embedded:
        await asyncio.sleep(0.01 * (10 - part.start))
        return answer(part)

    found = await call_in_parts(parts, ask)
    assert found.vectors[:, 0].tolist() == list(range(10))
    assert found.tokens == 10


async def test_positions_of_refused_texts_are_those_of_the_call() -> None:
    """A part tells places of its own; the caller is told places of the call."""

    async def ask(part: slice) -> Embedded:
        if part.start == 3:
            raise Rejected("poison", inputs=(0, 2))
        return answer(part)

    with pytest.raises(Rejected) as refused:
        await call_in_parts(split([1] * 10, items=3, tokens=100), ask)
    assert refused.value.inputs == (3, 5)


async def test_the_first_failure_ends_the_others() -> None:
    """What is still waiting is not sent, and what is under way is given up."""
    begun: list[int] = []
    ended: list[int] = []

    async def ask(part: slice) -> Embedded:
        begun.append(part.start)
        if part.start == 0:
            await asyncio.sleep(0)
            raise Transient("busy", retry_after=7)
        await asyncio.sleep(60)
        ended.append(part.start)
        return answer(part)

    with pytest.raises(Transient) as busy:
        await call_in_parts(split([1] * 100, items=1, tokens=1), ask)
    assert busy.value.retry_after == 7
    assert len(begun) == AT_ONCE
    assert not ended


async def test_only_a_few_runs_are_under_way_at_once() -> None:
    """So that a failure loses little of what was paid."""
    now = most = 0

    async def ask(part: slice) -> Embedded:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return answer(part)

    await call_in_parts(split([1] * 50, items=1, tokens=1), ask)
    assert most == AT_ONCE
