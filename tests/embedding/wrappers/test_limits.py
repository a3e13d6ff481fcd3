"""Calls wait for room under a provider's limits: none is exceeded, little is wasted, no call starves."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.support.virtual import run_virtual

from flowbed import telemetry
from flowbed.embedding import Rates
from flowbed.embedding.wrappers.buckets import BURST, MemoryBuckets, SharedBuckets, bucket_name
from flowbed.embedding.wrappers.limits import RateLimited
from flowbed.errors import Rejected, TooMany, Transient
from flowbed.testing.embedder import Seeded, seeded
from flowbed.testing.embedding import EmbedderContract
from flowbed.testing.simulators.limits import Buckets, Limits, in_the_way

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.records import Embedded, Purpose


def now() -> float:
    """Return the loop's time, which is virtual in most of these tests."""
    return asyncio.get_running_loop().time()


class Provider(Seeded):
    """A provider that enforces limits on the loop's clock, with delays like those of a network."""

    def __init__(self, limits: Limits, *, delays: Sequence[float] = (0.0,)) -> None:
        super().__init__(8)
        self.granted: list[tuple[float, int]] = []  # when, tokens
        self.refused = 0
        self.errors: list[Exception] = []
        self._buckets = Buckets(limits, now)
        self._delays = itertools.cycle(delays)

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        await asyncio.sleep(next(self._delays))
        if self.errors:
            raise self.errors.pop(0)
        tokens = sum(map(self.count, texts))
        room = in_the_way(self._buckets.take("key", {"requests": 1, "inputs": len(texts), "tokens": tokens}))
        if room is not None:
            self.refused += 1
            raise Transient("429", retry_after=room.wait)
        self.granted.append((now(), tokens))
        return await super().embed(texts, purpose=purpose)


def limited(provider: Embedder, rates: Rates, **more: Any) -> RateLimited:
    return RateLimited(provider, rates, MemoryBuckets(clock=now), name="seeded:key", **more)


class TestContract(EmbedderContract):
    """A rate-limited embedder is an embedder."""

    def open_embedder(self, folder: Path) -> Embedder:
        """Limit the seeded one, to more than the tests need."""
        return RateLimited(Seeded(64), Rates(requests=10**6, tokens=10**8), MemoryBuckets(), name="seeded")


class AnyBucket(RuleBasedStateMachine):
    """Whatever is taken at any time never exceeds the rate in any period."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.buckets = MemoryBuckets(clock=lambda: self.now)
        self.taken: list[tuple[float, float]] = []
        self.wait = 0.0

    @rule(cost=st.floats(0.001, 20.0))
    def take(self, cost: float) -> None:
        self.wait = asyncio.run(self.buckets.take("key", {"tokens": cost}))
        if not self.wait:
            self.taken.append((self.now, cost))

    @rule(seconds=st.floats(0.0, 5.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def wait_as_told(self) -> None:
        """After the returned wait there is room, unless another call came."""
        if self.wait:
            self.now += self.wait + 1e-9
            assert asyncio.run(self.buckets.take("key", {"tokens": 1.0})) == 0
            self.taken.append((self.now, 1.0))
            self.wait = 0.0

    @invariant()
    def never_more_than_the_rate(self) -> None:
        """In any period: its length, the burst, and the one call that begins a debt."""
        for start in range(len(self.taken)):
            spent = 0.0
            for when, cost in self.taken[start:]:
                assert spent <= when - self.taken[start][0] + BURST + 1e-6
                spent += cost


TestAnyBucket = AnyBucket.TestCase
TestAnyBucket.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    rates=st.builds(
        Limits,
        requests=st.sampled_from([None, 60, 3_000]),
        inputs=st.sampled_from([None, 2_000]),
        tokens=st.sampled_from([None, 10_000, 100_000]),
    ),
    delays=st.lists(st.floats(0.0, 0.4), min_size=1, max_size=5),
    callers=st.integers(1, 30),
)
def test_rate_limited_calls_never_exceed_known_limits(
    sizes: list[int], rates: Limits, delays: list[float], callers: int
) -> None:
    """However many calls, with whatever delays."""

    async def main() -> None:
        provider = Provider(rates, delays=delays)
        embedder = limited(provider, Rates(requests=rates.requests, inputs=rates.inputs, tokens=rates.tokens))
        size = itertools.cycle(sizes)

        async def caller(number: int) -> None:
            for _ in range(5):
                text = f"{number} " + "word " * next(size)
                answer = await embedder.embed([text], purpose="document")
                np.testing.assert_array_equal(answer.vectors, seeded([text], 8))

        await asyncio.gather(*map(caller, range(callers)))
        assert provider.refused == 0
        assert len(provider.granted) == 5 * callers

    run_virtual(main())


@pytest.mark.parametrize("burst", [1.0, 60.0])
def test_rate_limited_calls_use_what_is_allowed(burst: float) -> None:
    """At least 95 % of ten minutes' limit, with not one call in a hundred refused."""

    async def main() -> None:
        provider = Provider(Limits(tokens=60_000, burst=burst), delays=(0.05, 0.2, 0.01, 0.11))
        embedder = limited(provider, Rates(tokens=60_000))

        async def caller(number: int) -> None:
            while now() < 600:
                try:
                    await embedder.embed([f"{number} " + "word " * (50 + number)], purpose="document")
                except Transient as error:
                    await asyncio.sleep(error.retry_after or 1)

        await asyncio.gather(*map(caller, range(40)))
        used = sum(tokens for when, tokens in provider.granted if when < 600)
        assert used >= 0.95 * 10 * 60_000
        assert provider.refused < 0.01 * len(provider.granted)

    run_virtual(main())


def test_rate_limited_provider_count_replaces_the_estimate() -> None:

    class Dear(Provider):
        def count(self, text: str) -> int:
            return len(text.split()) * 2

    class Guessing(Dear):
        async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
            return await self.provider.embed(texts, purpose=purpose)

        def __init__(self, provider: Provider) -> None:
            super().__init__(Limits())
            self.provider = provider

        def count(self, text: str) -> int:
            return len(text.split())

    async def main() -> None:
        provider = Dear(Limits(tokens=6_000))
        embedder = limited(Guessing(provider), Rates(tokens=6_000))
        for _ in range(60):
            await embedder.embed(["word " * 50], purpose="document")
        assert provider.refused == 0
        assert now() == pytest.approx(60 * 100 / 6_000 * 60, rel=0.05)

    run_virtual(main())


def test_rate_limited_retry_after_pauses_the_whole_key() -> None:
    """No call of another key waits."""

    async def main() -> None:
        buckets = MemoryBuckets(clock=now)
        provider = Provider(Limits())
        rates = Rates(requests=6_000)
        mine = [RateLimited(provider, rates, buckets, name="mine") for _ in range(2)]
        other = RateLimited(provider, rates, buckets, name="other")
        provider.errors = [Transient("429", retry_after=7.0)]
        with pytest.raises(Transient):
            await mine[0].embed(["a"], purpose="document")
        await other.embed(["a"], purpose="document")
        assert now() == 0
        await mine[1].embed(["a"], purpose="document")
        assert now() == pytest.approx(7.0)

    run_virtual(main())


@pytest.mark.parametrize(("error", "pause"), [(Transient("503"), 0.0), (TooMany("429"), 1.0)])
def test_rate_limited_pause_without_a_wait_only_after_429(error: Transient, pause: float) -> None:
    """A busy provider is left alone for a second, a failing one is not."""

    async def main() -> None:
        provider = Provider(Limits())
        embedder = limited(provider, Rates())
        provider.errors = [error]
        with pytest.raises(Transient):
            await embedder.embed(["a"], purpose="document")
        await embedder.embed(["a"], purpose="document")
        assert now() == pause

    run_virtual(main())


def test_rate_limited_unknown_limits_let_calls_through() -> None:

    async def main() -> None:
        embedder = limited(Provider(Limits()), Rates())
        await asyncio.gather(*(embedder.embed(["a"], purpose="document") for _ in range(1000)))
        assert now() == 0

    run_virtual(main())


def test_rate_limited_large_call_is_not_overtaken() -> None:

    async def main() -> None:
        embedder = limited(Provider(Limits()), Rates(tokens=6_000))
        done: list[int] = []

        async def call(number: int, size: int) -> None:
            await embedder.embed(["word " * size], purpose="document")
            done.append(number)

        await asyncio.gather(*(call(number, 1_000 if number == 3 else 1) for number in range(20)))
        assert done == list(range(20))

    run_virtual(main())


def test_rate_limited_cancelled_call_leaves_the_line() -> None:

    async def main() -> None:
        provider = Provider(Limits())
        embedder = limited(provider, Rates(requests=60), patience=30)
        calls = [asyncio.create_task(embedder.embed(["a"], purpose="document")) for _ in range(10)]
        await asyncio.sleep(0.1)
        for call in calls[1:9]:
            call.cancel()
        await asyncio.wait(calls)
        assert now() == pytest.approx(1.0 - BURST, abs=0.01)
        assert len(provider.granted) == 2
        await embedder.embed(["a"], purpose="document")
        assert embedder._queued == 0

    run_virtual(main())


def test_rate_limited_impatient_call_is_refused_at_once() -> None:
    """The error has the time it would have waited."""

    async def main() -> None:
        provider = Provider(Limits())
        embedder = limited(provider, Rates(requests=60), patience=5)
        calls = [asyncio.create_task(embedder.embed(["a"], purpose="document")) for _ in range(20)]
        done, _ = await asyncio.wait(calls, timeout=0.01)
        refused = [call.exception() for call in done if call.exception()]
        assert all(isinstance(error, TooMany) for error in refused)
        assert len(refused) == 20 - 7
        await asyncio.gather(*calls, return_exceptions=True)
        assert now() < 7
        provider.errors = [Transient("429", retry_after=60.0)]
        with pytest.raises(Transient):
            await embedder.embed(["a"], purpose="document")
        with pytest.raises(TooMany) as told:
            await embedder.embed(["a"], purpose="document")
        assert told.value.retry_after == pytest.approx(60.0)

    run_virtual(main())


def test_rate_limited_large_call_is_split() -> None:

    async def main() -> None:
        provider = Provider(Limits(tokens=1_000, inputs=100))
        embedder = limited(provider, Rates(tokens=1_000, inputs=100))
        texts = [f"{number} and seven more words to make ten" for number in range(300)]
        answer = await embedder.embed(texts, purpose="document")
        np.testing.assert_array_equal(answer.vectors, seeded(texts, 8))
        assert answer.tokens == sum(map(provider.count, texts))
        assert provider.refused == 0
        assert len(provider.granted) == 12
        with pytest.raises(Rejected):
            await embedder.embed([*texts, "POISON"], purpose="document")

    run_virtual(main())


def test_rate_limited_wait_is_reported_without_the_key() -> None:

    async def main() -> None:
        heard: list[Mapping[str, Any]] = []
        stop = telemetry.listen(
            lambda point, facts: heard.append(facts) if point == telemetry.LIMITED else None
        )
        embedder = limited(Provider(Limits()), Rates(requests=60))
        for _ in range(2):
            await embedder.embed(["a"], purpose="document")
        stop()
        assert heard == [{"name": "seeded", "seconds": pytest.approx(1.0 - BURST)}]

    run_virtual(main())


class Failing(MemoryBuckets):
    """Shared buckets that fail on request, and count their calls."""

    error: Transient | None = None
    asked = 0

    async def take(self, name: str, costs: Mapping[str, float]) -> float:
        self.asked += 1
        if self.error:
            raise self.error
        return await super().take(name, costs)

    async def settle(self, name: str, costs: Mapping[str, float], *, pause: float = 0.0) -> None:
        self.asked += 1
        if self.error:
            raise self.error
        await super().settle(name, costs, pause=pause)


def test_shared_buckets_down_fall_back_to_own(caplog: pytest.LogCaptureFixture) -> None:
    """They are tried again later."""

    async def main() -> None:
        shared = Failing(clock=now)
        shared.error = Transient("no connection")
        buckets = SharedBuckets(shared, MemoryBuckets(clock=now), clock=now)
        embedder = RateLimited(Provider(Limits()), Rates(requests=60), buckets, name="key")
        for _ in range(5):
            await embedder.embed(["a"], purpose="document")
        assert now() == pytest.approx(4.0 - BURST)
        assert shared.asked == 1
        assert caplog.text.count("this process alone") == 1
        await asyncio.sleep(10)
        shared.error = None
        await embedder.embed(["a"], purpose="document")
        assert shared.asked > 1
        # This process keeps the pause too, in case the shared ones fail during it.
        await buckets.settle("key", {}, pause=30.0)
        shared.error = Transient("no connection")
        assert await buckets.take("key", {"requests": 1.0}) == pytest.approx(30.0)

    run_virtual(main())


def test_bucket_name_hides_the_key() -> None:
    names = {bucket_name(provider, key) for provider in ("openai", "voyage") for key in ("sk-one", "sk-two")}
    assert len(names) == 4
    assert not any("one" in name or "two" in name for name in names)
