"""A breaker opens when a provider is down, lets one call pass after a rest, and closes when that is answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowbed import telemetry
from flowbed.embedding.wrappers.breaker import Breaker, BreakerState, CircuitBreaking
from flowbed.errors import Error, Misconfigured, Rejected, TooMany, Transient, Unavailable
from flowbed.testing.embedder import Seeded
from flowbed.testing.embedding import EmbedderContract

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.records import Embedded, Purpose

FAILURES, REST = 3, 10.0


class Clock:
    """A clock that the test advances."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Provider(Seeded):
    """A seeded embedder with errors on request, which waits at a gate and counts its calls."""

    def __init__(self) -> None:
        super().__init__(8)
        self.errors: list[BaseException] = []
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        self.calls += 1
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        return await super().embed(texts, purpose=purpose)


class World:
    """A provider behind a breaker, and its clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.provider = Provider()
        self.breaker = Breaker("a model", failures=FAILURES, rest=REST, clock=self.clock)
        self.guarded = CircuitBreaking(self.provider, self.breaker)

    async def call(self, error: BaseException | None = None) -> BaseException | None:
        """Call once, with this error; return what was raised."""
        self.provider.errors = [error] if error else []
        try:
            await self.guarded.embed(["a"], purpose="document")
        except Exception as raised:  # noqa: BLE001 - whatever it is, is looked at
            return raised
        return None

    async def open(self, **facts: float) -> None:
        """Fail until the breaker is open."""
        for _ in range(FAILURES):
            await self.call(Transient("down", **facts))
        assert self.breaker.state is BreakerState.OPEN


@pytest.fixture
def world() -> World:
    return World()


class TestContract(EmbedderContract):
    """An embedder behind a breaker is an embedder."""

    def open_embedder(self, folder: Path) -> Embedder:
        """Put a breaker in front of the seeded one."""
        return CircuitBreaking(Seeded(64), Breaker("seeded"))


async def test_breaker_failures_in_a_row_open_it(world: World) -> None:
    """The provider is not called any more, and callers are told when it will be."""
    await world.open()
    refused = await world.call()
    assert isinstance(refused, Unavailable)
    assert refused.retry_after == REST
    assert "a model is down" in str(refused)
    assert world.provider.calls == FAILURES
    assert world.breaker.opened == 1


async def test_breaker_answer_between_failures_resets_the_count(world: World) -> None:
    for _ in range(5):
        for _ in range(FAILURES - 1):
            await world.call(Transient("down"))
        await world.call()
    assert world.breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("error", [Rejected("bad"), Misconfigured("no key")])
async def test_breaker_refusal_counts_as_an_answer(world: World, error: Error) -> None:
    """It opens nothing, and closes a half-open breaker."""
    for _ in range(2 * FAILURES):
        assert await world.call(error) is error
    assert world.breaker.state is BreakerState.CLOSED
    await world.open()
    world.clock.now += REST
    assert await world.call(error) is error
    assert world.breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("error", [TooMany("slower", retry_after=1.0), Unavailable("down", retry_after=1.0)])
async def test_breaker_rate_limit_decides_nothing(world: World, error: Error) -> None:
    """The trial call that meets one leaves the decision to the next."""
    for _ in range(2 * FAILURES):
        assert await world.call(error) is error
    assert world.breaker.state is BreakerState.CLOSED
    await world.open()
    world.clock.now += REST
    assert await world.call(error) is error
    assert str(world.breaker.state) == "half_open"
    assert await world.call() is None
    assert world.breaker.state is BreakerState.CLOSED


async def test_breaker_half_open_lets_one_call_decide(world: World) -> None:
    await world.open()
    world.clock.now += REST
    world.provider.gate.clear()
    deciding = asyncio.create_task(world.call())
    await asyncio.sleep(0)
    refused = [await world.call() for _ in range(3)]
    assert all(isinstance(error, Unavailable) for error in refused)
    assert world.provider.calls == FAILURES + 1
    world.provider.gate.set()
    assert await deciding is None
    assert world.breaker.state is BreakerState.CLOSED
    assert await world.call() is None


async def test_breaker_failed_trial_call_opens_it_again(world: World) -> None:
    await world.open()
    world.clock.now += REST
    await world.call(Transient("still down"))
    assert world.breaker.state is BreakerState.OPEN
    assert isinstance(await world.call(), Unavailable)


async def test_breaker_rests_as_long_as_the_provider_says(world: World) -> None:
    """Within reason."""
    await world.open(retry_after=42.0)
    refused = await world.call()
    assert isinstance(refused, Unavailable)
    assert refused.retry_after == 42.0
    world.clock.now += 42
    await world.call(Transient("down", retry_after=1e9))
    refused = await world.call()
    assert isinstance(refused, Unavailable)
    assert refused.retry_after == 300.0


async def test_breaker_cancelled_trial_call_leaves_the_decision_to_the_next(world: World) -> None:
    await world.open()
    world.clock.now += REST
    world.provider.gate.clear()
    deciding = asyncio.create_task(world.call())
    await asyncio.sleep(0)
    deciding.cancel()
    await asyncio.wait([deciding])
    world.provider.gate.set()
    assert await world.call() is None
    assert world.breaker.state is BreakerState.CLOSED


async def test_breaker_call_from_before_opening_decides_nothing(world: World) -> None:
    world.provider.gate.clear()
    late = [asyncio.create_task(world.guarded.embed([word], purpose="document")) for word in "abcd"]
    await asyncio.sleep(0)
    world.provider.errors = [Transient("down") for _ in range(FAILURES)]
    world.provider.gate.set()
    await asyncio.gather(*late, return_exceptions=True)
    assert world.breaker.state is BreakerState.OPEN
    assert (await late[-1]).tokens == 1
    assert world.breaker.opened == 1


async def test_breaker_reset_lets_calls_through(world: World) -> None:
    await world.open()
    world.breaker.reset()
    assert await world.call() is None


async def test_breaker_reports_every_change(world: World) -> None:
    heard: list[str] = []
    stop = telemetry.listen(lambda point, facts: heard.append(f"{point} {facts['name']} {facts['state']}"))
    await world.open()
    world.clock.now += REST
    await world.call()
    stop()
    assert heard == [f"breaker a model {state}" for state in ("open", "half_open", "closed")]


class AnyBreaker(RuleBasedStateMachine):
    """Calls that start, end and are cancelled in any order, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker("any", failures=FAILURES, rest=REST, clock=self.clock)
        self.calls: list[tuple[int, BreakerState]] = []
        self.deciding: int | None = None

    @rule(seconds=st.sampled_from([0.5, 3.0, REST, 4 * REST]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def call(self) -> None:
        state = self.breaker.state
        if state is BreakerState.OPEN or self.deciding is not None:
            with pytest.raises(Unavailable) as refused:
                self.breaker.admit()
            assert 0 < (refused.value.retry_after or 0) <= REST
            return
        call = self.breaker.admit()
        if state is BreakerState.HALF_OPEN:
            self.deciding = call
        self.calls.append((call, state))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=st.sampled_from(["answered", "failed", "abandoned"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        place = data.draw(st.integers(0, len(self.calls) - 1))
        call, admitted = self.calls.pop(place)
        before = self.breaker.state
        getattr(self.breaker, outcome)(call)
        after = self.breaker.state
        if call == self.deciding:
            self.deciding = None
            expected = {
                "answered": BreakerState.CLOSED,
                "failed": BreakerState.OPEN,
                "abandoned": BreakerState.HALF_OPEN,
            }
            assert after is expected[outcome]
        elif admitted is BreakerState.HALF_OPEN or before is not BreakerState.CLOSED:
            assert after is before  # it came too late to decide anything

    @rule()
    def reset(self) -> None:
        self.breaker.reset()
        self.deciding = None
        assert self.breaker.state is BreakerState.CLOSED

    @invariant()
    def only_half_open_while_one_decides(self) -> None:
        assert self.deciding is None or self.breaker.state is BreakerState.HALF_OPEN


TestAnyBreaker = AnyBreaker.TestCase
