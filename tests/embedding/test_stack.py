"""All wrappers together over HTTP, with simulators of failing providers: every vector belongs to its text."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flowbed.embedding import Closes, Rates, open_embedder
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.memory import VectorMemory
from flowbed.embedding.cache.redis import open_redis
from flowbed.embedding.stack import Stack
from flowbed.embedding.wrappers.breaker import Breaker, BreakerState, CircuitBreaking
from flowbed.embedding.wrappers.buckets import MemoryBuckets
from flowbed.embedding.wrappers.coalesced import Coalesced
from flowbed.embedding.wrappers.fallback import Fallback
from flowbed.embedding.wrappers.limits import RateLimited
from flowbed.errors import TooMany, Transient
from flowbed.testing.simulators import Fault, Limits, OpenAI, Simulator, running, vector_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from redis.asyncio import Redis

    from flowbed.embedding import Embedder
    from flowbed.records import Embedded
    from flowbed.testing.simulators.faults import Kind

MODEL = "text-embedding-3-small"
DIMENSIONS = 64


@asynccontextmanager
async def provider(simulator: Simulator, folder: Path) -> AsyncIterator[Embedder]:
    """Open OpenAI's model at a simulator."""
    async with running(simulator) as url:
        options = {"base_url": f"{url}/v1", "api_key": "any", "dimensions": str(DIMENSIONS), "timeout": "5"}
        embedder = open_embedder(f"openai:{MODEL}", cache=folder, options=options)
        yield embedder
        assert isinstance(embedder, Closes)
        await embedder.aclose()


def wrapped(embedder: Embedder, breaker: Breaker) -> Coalesced:
    limited = RateLimited(embedder, Rates(requests=120_000, tokens=10**7), MemoryBuckets(), name=breaker.name)
    return Coalesced(CircuitBreaking(limited, breaker), items=16, at_once=4)


async def persistent(cached: Cached, texts: list[str]) -> Embedded:
    """Embed like a patient caller, which retries when told to, for at most two minutes."""
    async with asyncio.timeout(120):
        while True:
            try:
                return await cached.embed(texts, purpose="document")
            except Transient as error:
                await asyncio.sleep(min(0.1, error.retry_after or 0.01))


async def test_stack_failing_providers_keep_vectors_right(tmp_path: Path) -> None:
    """Many concurrent calls with duplicates, cancellations and faults: vectors are right, no text is sent twice."""
    kinds: tuple[Kind, ...] = (
        "rate_limited",
        "error",
        "truncated",
        "cut",
        "garbled",
        "wrong_order",
        "wrong_index",
        "missing",
    )
    faults = [Fault(kind=kind, probability=0.04, retry_after=0.02) for kind in kinds]
    first, second = (Simulator(OpenAI(), faults=faults, seed=seed) for seed in (1, 2))
    chance = random.Random(7)
    distinct = [f"text {number} " + "word " * (number % 9) for number in range(120)]
    wanted = [chance.choices(distinct, k=chance.randint(1, 8)) for _ in range(400)]
    async with provider(first, tmp_path) as one, provider(second, tmp_path) as two:
        breakers = [Breaker(name, rest=0.05) for name in ("one", "two")]
        chain = Fallback(
            [wrapped(each, breaker) for each, breaker in zip((one, two), breakers, strict=True)],
            names=["one", "two"],
        )
        cached = Cached(chain, [VectorMemory(limit=2**22, ttl=60)], counts=True)
        calls = [asyncio.create_task(persistent(cached, texts)) for texts in wanted]
        for number, call in enumerate(calls):
            if number % 10 == 0:
                call.cancel()
            await asyncio.sleep(0.001)
        answers = await asyncio.gather(*calls, return_exceptions=True)
    vectors = {text: vector_of(MODEL, text, DIMENSIONS) for text in distinct}
    for number, (texts, answer) in enumerate(zip(wanted, answers, strict=True)):
        if number % 10 == 0 and isinstance(answer, asyncio.CancelledError):
            continue
        assert not isinstance(answer, BaseException), answer
        np.testing.assert_allclose(answer.vectors, [vectors[text] for text in texts], atol=1e-6)
        assert answer.counts == tuple(one.count(text) for text in texts)
    for simulator in (first, second):
        assert simulator.account.totals().twice_at_once == 0


async def test_stack_rate_limit_pauses_the_key_and_opens_no_breaker(tmp_path: Path) -> None:
    simulator = Simulator(OpenAI(), limits=Limits())
    simulator.order(Fault(kind="rate_limited", calls=(1,), retry_after=0.3, retry_header="milliseconds"))
    async with provider(simulator, tmp_path) as embedder:
        breaker = Breaker("one", failures=1)
        guarded = CircuitBreaking(RateLimited(embedder, Rates(), MemoryBuckets(), name="key"), breaker)
        with pytest.raises(TooMany) as refused:
            await guarded.embed(["a"], purpose="document")
        assert refused.value.retry_after == pytest.approx(0.3)
        began = time.monotonic()
        await asyncio.gather(*(guarded.embed([word], purpose="document") for word in "abc"))
        assert time.monotonic() - began >= 0.29
    assert breaker.state is BreakerState.CLOSED
    assert sorted(simulator.account.totals().statuses.items()) == [(200, 3), (429, 1)]


async def test_stack_known_limits_are_never_exceeded(tmp_path: Path) -> None:
    simulator = Simulator(OpenAI(), limits=Limits(tokens=300_000, requests=3_000, burst=1.0))
    async with provider(simulator, tmp_path) as embedder:
        limited = RateLimited(embedder, Rates(tokens=300_000, requests=3_000), MemoryBuckets(), name="key")
        texts = [f"{number} " + "word " * (number % 50) for number in range(200)]
        calls = [limited.embed(texts[start : start + 4], purpose="document") for start in range(0, 200, 4)]
        answers = await asyncio.gather(*calls)
    assert simulator.account.totals().statuses == {200: 50}
    assert sum(answer.tokens for answer in answers) == simulator.account.totals().billed


async def test_stack_many_threads_open_redis_once_and_close_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The cache tier and the rate limits of all models of a process use one connection pool."""
    opened: list[Redis] = []
    closed: list[Redis] = []

    def opening(url: str) -> Redis:
        client = open_redis(url)
        opened.append(client)
        close = client.aclose

        async def closing() -> None:
            closed.append(client)
            await close()

        monkeypatch.setattr(client, "aclose", closing)
        time.sleep(0.02)  # other threads come meanwhile
        return client

    monkeypatch.setattr("flowbed.embedding.cache.redis.open_redis", opening)
    stack = Stack(account=str, redis="redis://localhost:1")
    models = {
        name: open_embedder(f"openai:{MODEL}", cache=tmp_path, options={"api_key": name})
        for name in ("one", "two")
    }
    await asyncio.gather(
        *(asyncio.to_thread(stack.pipeline, models, []) for _ in range(4)),
        *(asyncio.to_thread(stack.served, models, [], coalescing="all") for _ in range(4)),
        *(asyncio.to_thread(stack.redis_tier) for _ in range(4)),
    )
    assert (len(opened), closed) == (1, [])
    await stack.aclose()
    assert closed == opened


async def test_stack_without_a_provider_opens_no_redis(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A search with a local model loads nothing that only providers need."""
    monkeypatch.setattr("flowbed.embedding.cache.redis.open_redis", None)
    stack = Stack(account=str, redis="redis://localhost:1")
    seeded = open_embedder("seeded:8", cache=tmp_path, options={})
    answer = await stack.pipeline({"seeded:8": seeded}, []).embed(["a"], purpose="query")
    assert answer.vectors.shape == (1, 8)
    await stack.aclose()
