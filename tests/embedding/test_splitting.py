"""One call as several requests: everything once, in order, or nothing at all."""

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
    """Return for each text the vector of its position."""
    return Embedded(
        vectors=np.arange(part.start, part.stop, dtype=np.float32)[:, None], tokens=part.stop - part.start
    )


@given(sizes=SIZES, items=st.integers(1, 9), tokens=st.integers(1, 80))
def test_split_keeps_every_text_in_order(sizes: list[int], items: int, tokens: int) -> None:
    parts = split(sizes, items=items, tokens=tokens)
    assert [place for part in parts for place in range(part.start, part.stop)] == list(range(len(sizes)))


@given(sizes=SIZES, items=st.integers(1, 9), tokens=st.integers(1, 80))
def test_split_parts_fit_into_a_request(sizes: list[int], items: int, tokens: int) -> None:
    """Only a text that is too large by itself may exceed the tokens."""
    for part in split(sizes, items=items, tokens=tokens):
        held = sizes[part]
        assert 1 <= len(held) <= items
        assert sum(held) <= tokens or len(held) == 1


@given(sizes=SIZES, items=st.integers(1, 9), tokens=st.integers(1, 80))
def test_split_makes_as_few_parts_as_possible(sizes: list[int], items: int, tokens: int) -> None:
    parts = split(sizes, items=items, tokens=tokens)
    for part, following in pairwise(parts):
        grown = sizes[part.start : following.start + 1]
        assert len(grown) > items or sum(grown) > tokens


@given(count=st.integers(2, 1_000))
def test_halves_cover_everything(count: int) -> None:
    first, second = halves(count)
    assert (first.start, first.stop, second.stop) == (0, second.start, count)
    assert first.stop > 0
    assert second.stop > second.start


async def test_call_in_parts_joins_answers_in_order() -> None:
    parts = split([1] * 10, items=3, tokens=100)

    async def ask(part: slice) -> Embedded:
        await asyncio.sleep(0.01 * (10 - part.start))
        return answer(part)

    found = await call_in_parts(parts, ask)
    assert found.vectors[:, 0].tolist() == list(range(10))
    assert found.tokens == 10


async def test_call_in_parts_rejected_positions_are_those_of_the_call() -> None:

    async def ask(part: slice) -> Embedded:
        if part.start == 3:
            raise Rejected("poison", inputs=(0, 2))
        return answer(part)

    with pytest.raises(Rejected) as refused:
        await call_in_parts(split([1] * 10, items=3, tokens=100), ask)
    assert refused.value.inputs == (3, 5)


async def test_call_in_parts_first_failure_cancels_the_others() -> None:
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


async def test_call_in_parts_runs_few_parts_at_once() -> None:
    """A failure then loses little of what was paid for."""
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
