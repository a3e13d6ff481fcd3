"""Concurrent calls with faults: every vector belongs to its text, none is computed twice at once, no call hangs."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.virtual import run_virtual

from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.encoding import Layout
from flowbed.embedding.cache.memory import OVERHEAD, VectorMemory
from flowbed.embedding.token_counts import share_tokens
from flowbed.errors import Error, Misconfigured, Rejected, Transient
from flowbed.records import Embedded, Space
from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from flowbed.records import Purpose

DIMENSIONS = 4
TEXTS = ["a", "b b", "c c c", "d", "bad", "bad too", "long e"]
PURPOSES: list[Purpose] = ["document", "query"]


def vectors_of(texts: Sequence[str], purpose: Purpose) -> NDArray[np.float32]:
    return seeded([f"{purpose} {text}" for text in texts], DIMENSIONS)


@dataclass(frozen=True)
class Answering:
    """How the provider treats one request: its delay, and its error if any."""

    after: float = 0.0
    error: type[Error] | None = None


@dataclass(frozen=True)
class Calling:
    """One call: when it starts, its texts, and when its caller gives up."""

    at: float
    texts: tuple[str, ...]
    purpose: Purpose
    gives_up: float | None = None


class Provider:
    """An embedder that answers as ordered, and checks that no text is in flight twice."""

    space = Space(model="m", dimensions=DIMENSIONS)
    items, tokens, price = 100, 1_000, 0.0

    def __init__(self, script: Sequence[Answering], *, names_inputs: bool = True) -> None:
        self.script = script
        self.requests = 0
        self.billed = 0
        self.under_way: Counter[tuple[Purpose, str]] = Counter()
        self.names_inputs = names_inputs

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        answering = self.script[self.requests % len(self.script)]
        self.requests += 1
        self.under_way.update((purpose, text) for text in texts)
        assert max(self.under_way.values()) == 1, "a text is computed twice at once"
        try:
            await asyncio.sleep(answering.after)
        finally:
            self.under_way -= Counter((purpose, text) for text in texts)
        if answering.error:
            raise answering.error("to order")
        bad = [place for place, text in enumerate(texts) if text.startswith("bad")]
        if bad:
            raise Rejected("bad", inputs=bad if self.names_inputs else ())
        tokens = sum(map(self.count, texts))
        self.billed += tokens
        return Embedded(
            vectors=vectors_of(texts, purpose),
            tokens=tokens,
            truncated=tuple(place for place, text in enumerate(texts) if text.startswith("long")),
        )

    def count(self, text: str) -> int:
        return len(text.split())


class Slow(VectorMemory):
    """A slow far tier that fails now and then."""

    def __init__(self, faults: Sequence[bool]) -> None:
        super().__init__(limit=2**20, ttl=1e9)
        self.faults = faults
        self.calls = 0

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        await self._turn()
        return await super().get_many(keys)

    async def put_many(self, vectors: Mapping[bytes, bytes]) -> None:
        await self._turn()
        await super().put_many(vectors)

    async def _turn(self) -> None:
        self.calls += 1
        await asyncio.sleep(0.5)
        if self.faults[self.calls % len(self.faults)]:
            raise ConnectionError("to order")


CALLS = st.lists(
    st.builds(
        Calling,
        at=st.integers(0, 6).map(float),
        texts=st.lists(st.sampled_from(TEXTS), max_size=6).map(tuple),
        purpose=st.sampled_from(PURPOSES),
        gives_up=st.none() | st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    ),
    max_size=12,
)
SCRIPT = st.lists(
    st.builds(
        Answering,
        after=st.sampled_from([0.0, 1.0, 4.0]),
        error=st.sampled_from([None, None, None, Transient, Misconfigured]),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(
    calls=CALLS,
    script=SCRIPT,
    names_inputs=st.booleans(),
    faults=st.lists(st.booleans(), min_size=1, max_size=5),
    room=st.sampled_from([0, 2, 100]),
)
def test_cache_any_failures_and_cancellations_keep_vectors_right(
    calls: list[Calling], script: list[Answering], names_inputs: bool, faults: list[bool], room: int
) -> None:
    """Calls overlap, fail and are cancelled, tiers fail and forget: every answer is right, and every call ends."""
    provider = Provider(script, names_inputs=names_inputs)
    memory = VectorMemory(limit=room * (DIMENSIONS * 4 + 4 + OVERHEAD), ttl=1e9)
    outcomes: list[tuple[Calling, Embedded | Error]] = []

    async def caller(cached: Cached, calling: Calling) -> None:
        await asyncio.sleep(calling.at)
        try:
            async with asyncio.timeout(calling.gives_up):
                answer = await cached.embed(calling.texts, purpose=calling.purpose)
        except TimeoutError:
            return
        except Error as error:
            outcomes.append((calling, error))
        else:
            outcomes.append((calling, answer))

    async def main() -> None:
        cached = Cached(provider, [memory, Slow(faults)], counts=True, clock=asyncio.get_running_loop().time)
        async with asyncio.TaskGroup() as group:
            for calling in calls:
                group.create_task(caller(cached, calling))
        assert not cached._flights

    run_virtual(main())
    for calling, outcome in outcomes:
        check(calling, outcome, script)
    answered = [outcome.tokens for _, outcome in outcomes if isinstance(outcome, Embedded)]
    assert sum(answered) <= provider.billed


def check(calling: Calling, outcome: Embedded | Error, script: Sequence[Answering]) -> None:
    """Assert that an answer belongs to its texts, and that an error is explained by them or by the provider."""
    texts = calling.texts
    if isinstance(outcome, Embedded):
        np.testing.assert_array_equal(outcome.vectors, vectors_of(texts, calling.purpose))
        assert outcome.counts == tuple(len(text.split()) for text in texts)
        assert outcome.truncated == tuple(i for i, text in enumerate(texts) if text.startswith("long"))
        assert not any(text.startswith("bad") for text in texts)
        assert 0 <= outcome.cached <= len(texts)
    elif isinstance(outcome, Rejected):
        assert any(text.startswith("bad") for text in texts)
        assert all(texts[place].startswith("bad") for place in outcome.inputs)
    else:
        assert type(outcome) in {answering.error for answering in script}


def test_cache_many_waiters_of_a_down_provider_fail_soon() -> None:
    """None of a thousand calls for one text waits for all before it to try in turn."""

    async def main() -> None:
        provider = Provider([Answering(after=30.0, error=Transient)])
        cached = Cached(provider, [])
        calls = [cached.embed(["a"], purpose="document") for _ in range(1000)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(type(outcome) is Transient for outcome in outcomes)
        assert len({id(outcome) for outcome in outcomes}) == 1000
        assert asyncio.get_running_loop().time() == 60.0
        assert provider.requests == 2

    run_virtual(main())


@pytest.mark.parametrize("names_inputs", [True, False])
def test_cache_many_waiters_of_a_rejected_text_fail_at_once(names_inputs: bool) -> None:
    """A text that was refused for one call is not sent again by those that wait for it."""

    async def main() -> None:
        provider = Provider([Answering(after=1.0)], names_inputs=names_inputs)
        cached = Cached(provider, [])
        crowd = [cached.embed(["bad"], purpose="document") for _ in range(100)]
        mixed = cached.embed(["a", "bad", "bad"], purpose="document")
        *outcomes, last = await asyncio.gather(*crowd, mixed, return_exceptions=True)
        assert all(isinstance(outcome, Rejected) for outcome in outcomes)
        assert isinstance(last, Rejected)
        assert last.inputs == (1, 2)
        assert provider.requests == 2  # the bad text, and the good one beside it

    run_virtual(main())


async def test_cache_counts_every_text_on_hits_too() -> None:
    """Every text counts in every call, sent or cached; only what is sent is billed."""
    provider = Provider([Answering()])
    cached = Cached(provider, [VectorMemory(limit=2**20, ttl=60)], counts=True)
    first = await cached.embed(["a", "b b"], purpose="document")
    second = await cached.embed(["b b", "c c c", "b b", "a"], purpose="document")
    third = await cached.embed(["b b", "a"], purpose="document")
    assert [(each.tokens, each.counts, each.cached) for each in (first, second, third)] == [
        (3, (1, 2), 0),
        (3, (2, 3, 2, 1), 3),
        (0, (2, 1), 2),
    ]
    assert [(each.hits, each.misses) for each in cached.tiers.stats] == [(4, 3)]


async def test_cache_hit_is_not_counted_again() -> None:
    """The count is stored with the vector; a vector stored without it is counted once."""
    provider = Provider([Answering()])
    memory, far = VectorMemory(limit=2**20, ttl=60), VectorMemory(limit=2**20, ttl=60)
    before = Cached(provider, [far])
    await before.embed(["a", "long b"], purpose="document")
    counted: list[str] = []

    class Counting(Provider):
        def count(self, text: str) -> int:
            counted.append(text)
            return super().count(text)

    cached = Cached(Counting([Answering()]), [memory, far], counts=True)
    for _ in range(3):
        answer = await cached.embed(["long b", "a"], purpose="document")
        assert (answer.counts, answer.tokens, answer.truncated) == ((2, 1), 0, (0,))
        np.testing.assert_array_equal(answer.vectors, vectors_of(["long b", "a"], "document"))
    assert sorted(counted) == ["a", "long b"]
    # Without `counts` nothing is counted.
    assert (await before.embed(["a"], purpose="document")).counts == ()


async def test_cache_provider_total_is_shared_among_texts() -> None:

    class Dear(Provider):
        async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
            answer = await super().embed(texts, purpose=purpose)
            return Embedded(vectors=answer.vectors, tokens=10)

    cached = Cached(Dear([Answering()]), [VectorMemory(limit=2**20, ttl=60)], counts=True)
    for _ in range(2):
        assert (await cached.embed(["a", "b b", "c c c"], purpose="document")).counts == (2, 3, 5)


async def test_cache_clear_empties_memory() -> None:
    """A tier that cannot be cleared, or fails to be, stays unchanged."""
    provider = Provider([Answering()])
    memory = VectorMemory(limit=2**20, ttl=60)

    class Failing(VectorMemory):
        async def clear(self) -> None:
            raise ConnectionError("to order")

    cached = Cached(provider, [memory, Failing(limit=0, ttl=60)])
    await cached.embed(["a"], purpose="document")
    assert memory.size[0] == 1
    await cached.clear()
    assert memory.size == (0, 0)
    await cached.embed(["a"], purpose="document")
    assert provider.requests == 2


@given(total=st.integers(0, 10**6), sizes=st.lists(st.integers(0, 10**4), max_size=30))
def test_share_tokens_adds_up_to_the_total(total: int, sizes: list[int]) -> None:
    """Shares are whole and never negative; equal totals leave the sizes unchanged."""
    divided = share_tokens(total, sizes)
    assert len(divided) == len(sizes)
    assert all(share >= 0 for share in divided)
    if sizes:
        assert sum(divided) == (total or sum(sizes))
        exact = [total * size / sum(sizes) for size in sizes] if total and sum(sizes) else None
        assert exact is None or all(abs(a - b) < 1 for a, b in zip(divided, exact, strict=True))
    assert share_tokens(sum(sizes), sizes) == tuple(sizes)


@given(count=st.none() | st.integers(0, 2**32 - 1), cut_off=st.booleans(), dimensions=st.integers(1, 9))
def test_layout_value_decodes_to_what_was_encoded(count: int | None, cut_off: bool, dimensions: int) -> None:
    """Vector, token count and mark, also if the count was added later."""
    layout = Layout(dimensions)
    vector = seeded(["a"], dimensions)[0]
    value = layout.pack(vector, count=count, cut_off=cut_off)
    if count is None:
        assert layout.count(value) is None
        late = layout.counted(value, 7)
        assert layout.is_valid(late)
        assert (layout.count(late), layout.is_cut_off(late)) == (7, cut_off)
    assert layout.is_valid(value)
    assert layout.is_finite(value)
    assert (layout.count(value), layout.is_cut_off(value)) == (count, cut_off)
    np.testing.assert_array_equal(layout.vectors([value, value]), np.array([vector, vector]))
    assert not layout.is_valid(value[:-1] + b"\x02") or not cut_off
