"""Limits, vectors and outages that processes share through a real Redis, which is stopped, forgets, and comes back."""

from __future__ import annotations

import asyncio
import shutil
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.support.servers.redis import RedisServer

from flowbed.embedding import Rates
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.memory import VectorMemory
from flowbed.embedding.cache.redis import KEYS, VectorRedis, open_redis
from flowbed.embedding.wrappers.breaker import Breaker, BreakerState, CircuitBreaking
from flowbed.embedding.wrappers.buckets import MemoryBuckets, RedisBuckets, SharedBuckets
from flowbed.embedding.wrappers.limits import RateLimited
from flowbed.embedding.wrappers.outages import RedisOutages
from flowbed.embedding.wrappers.request_rates import RedisRates
from flowbed.errors import Misconfigured, Transient
from flowbed.testing.embedder import Seeded, seeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from typing import NoReturn

    from redis.asyncio import Redis

    from flowbed.records import Embedded, Purpose

BURST = 0.05
SECRET = "secret"  # noqa: S105 - of a server that lives as long as a test


@pytest.fixture(scope="module")
def server(lacking: Callable[[str], NoReturn]) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        lacking("there is no redis-server here: `make services` installs it")
    with RedisServer() as started:
        yield started


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    client = open_redis(server.url)
    await client.flushall()
    yield client
    await client.aclose()


def key(number: int) -> bytes:
    return number.to_bytes(32, "little")


async def test_redis_buckets_never_exceed_the_rate(server: RedisServer, client: Redis) -> None:
    """However many processes take at once."""
    clients = [open_redis(server.url) for _ in range(4)]
    taken: list[tuple[float, float, float]] = []  # before, after, cost

    async def take(number: int, buckets: RedisBuckets) -> None:
        cost = 0.002 + 0.004 * (number % 3)
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            before = time.monotonic()
            wait = await buckets.take("key", {"requests": cost / 2, "tokens": cost})
            if not wait:
                taken.append((before, time.monotonic(), cost))
            await asyncio.sleep(wait)

    await asyncio.gather(
        *(take(number, RedisBuckets(clients[number % 4], burst=BURST)) for number in range(12))
    )
    assert len(taken) > 12
    taken.sort()
    for start in range(len(taken)):
        spent = 0.0
        for _, after, cost in taken[start:]:
            assert spent <= max(0.0, after - taken[start][0]) + BURST + 0.02
            spent += cost
    for each in clients:
        await each.aclose()


async def test_redis_buckets_take_all_units_or_none(client: Redis) -> None:
    """If one unit has no room, nothing is taken of the others; names are independent."""
    buckets = RedisBuckets(client, burst=BURST)
    assert await buckets.take("a", {"requests": 0.0, "tokens": 50.0}) == 0
    wait = await buckets.take("a", {"requests": 20.0, "tokens": 1.0})
    assert 40 < wait < 50
    assert await buckets.take("a", {"requests": 1.0}) == 0
    assert await buckets.take("b", {"tokens": 1.0}) == 0


async def test_redis_buckets_settle_changes_the_wait(client: Redis) -> None:
    buckets = RedisBuckets(client, burst=BURST)
    await buckets.take("a", {"tokens": 10.0})
    await buckets.settle("a", {"tokens": 5.0})
    assert 10 < await buckets.take("a", {"tokens": 1.0}) < 15
    await buckets.settle("a", {"tokens": -12.0})
    assert 0 < await buckets.take("a", {"tokens": 1.0}) < 3


async def test_redis_buckets_pause_applies_to_all_processes(server: RedisServer, client: Redis) -> None:
    """The longest pause counts."""
    mine, other = open_redis(server.url), open_redis(server.url)
    for seconds in (3.0, 60.0, 1.0):
        await RedisBuckets(mine, burst=BURST).settle("a", {}, pause=seconds)
    assert 50 < await RedisBuckets(other, burst=BURST).take("a", {}) <= 60
    assert await RedisBuckets(other, burst=BURST).take("b", {}) == 0
    await mine.aclose()
    await other.aclose()


async def test_redis_buckets_keys_expire_when_irrelevant(client: Redis) -> None:
    buckets = RedisBuckets(client, burst=BURST)
    await buckets.take("a", {"tokens": 10.0})
    await buckets.settle("a", {}, pause=40.0)
    await buckets.take("b", {"tokens": 10.0})
    await buckets.settle("b", {"tokens": -5.0})
    assert 30_000 < await client.pttl("flowbed:limits:a") <= 41_000
    assert 5_000 < await client.pttl("flowbed:limits:b") <= 11_000


async def test_redis_buckets_two_clients_share_one_limit(server: RedisServer, client: Redis) -> None:
    clients = [open_redis(server.url) for _ in range(2)]
    embedders = [
        RateLimited(Seeded(8), Rates(requests=3_000), RedisBuckets(each, burst=BURST), name="key")
        for each in clients
    ]
    began = time.monotonic()
    calls = [embedders[number % 2].embed([f"{number}"], purpose="document") for number in range(30)]
    for number, answer in enumerate(await asyncio.gather(*calls)):
        np.testing.assert_array_equal(answer.vectors, seeded([f"{number}"], 8))
    assert time.monotonic() - began >= 29 / 50 - BURST - 0.01
    for each in clients:
        await each.aclose()


async def test_redis_tier_returns_stored_vectors(client: Redis) -> None:
    """In parts if there are many; unknown keys are missing."""
    tier = VectorRedis(client, ttl=60)
    kept = {key(number): bytes([number % 251]) * 40 for number in range(2 * KEYS + 3)}
    await tier.put_many(kept)
    assert await tier.get_many([*kept, key(10**6)]) == kept
    assert await tier.get_many([]) == {}
    await tier.put_many({key(1): b"new"})
    assert await tier.get_many([key(1)]) == {key(1): b"new"}


async def test_redis_tier_damaged_vector_is_lost(client: Redis) -> None:
    """And no other one."""
    tier = VectorRedis(client, ttl=60)
    first, second = (bytes([place]) * 32 for place in range(2))
    await tier.put_many({first: b"one" * 9, second: b"two" * 9})
    await client.setrange(b"flowbed:vector:" + first, 12, b"x")
    assert await tier.get_many([first, second]) == {second: b"two" * 9}


async def test_redis_tier_vector_expires(client: Redis) -> None:
    tier = VectorRedis(client, ttl=0.05)
    await tier.put_many({key(1): b"one"})
    await asyncio.sleep(0.1)
    assert await tier.get_many([key(1)]) == {}
    assert await client.dbsize() == 0


async def test_redis_tier_clear_drops_only_vectors(client: Redis) -> None:
    tier = VectorRedis(client, ttl=60)
    await client.set("another", "1")
    await tier.put_many({key(number): b"vector" for number in range(2 * KEYS)})
    await tier.clear()
    await tier.clear()
    assert await client.keys() == [b"another"]


async def test_redis_tier_forgets_single_vectors(client: Redis) -> None:
    tier = VectorRedis(client, ttl=60)
    await tier.put_many({key(1): b"one.", key(2): b"two."})
    assert await tier.forget([key(1), key(3)]) == 1
    assert set(await tier.get_many([key(1), key(2)])) == {key(2)}


async def test_redis_tier_misplaced_value_is_ignored(client: Redis) -> None:
    tier = VectorRedis(client, ttl=60)
    await tier.put_many({key(1): b"one"})
    stored = await client.get(b"flowbed:vector:" + key(1))
    assert stored is not None
    await client.set(b"flowbed:vector:" + key(2), stored)
    assert await tier.get_many([key(1), key(2)]) == {key(1): b"one"}


async def test_redis_tier_cancelled_calls_do_not_mix_answers(client: Redis) -> None:
    tier = VectorRedis(client, ttl=60)
    kept = {key(number): number.to_bytes(4, "little") * 100 for number in range(200)}
    await tier.put_many(kept)

    async def look(number: int) -> None:
        keys = [key((number * 7 + step) % 200) for step in range(5)]
        call = asyncio.create_task(tier.get_many(keys))
        if number % 3:
            for _ in range(number % 17):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
        else:
            assert await call == {each: kept[each] for each in keys}

    await asyncio.gather(*(look(number) for number in range(600)))


async def test_redis_down_is_transient_until_it_is_back(lacking: Callable[[str], NoReturn]) -> None:
    if shutil.which("redis-server") is None:
        lacking("there is no redis-server here: `make services` installs it")
    with RedisServer() as server:
        client = open_redis(server.url)
        tier, buckets = VectorRedis(client, ttl=60), RedisBuckets(client, burst=BURST)
        await tier.put_many({key(1): b"one"})
        await buckets.take("a", {"tokens": 10.0})
        server.stop()
        for call in (
            lambda: tier.get_many([key(1)]),
            lambda: tier.put_many({key(1): b"one"}),
            tier.clear,
            lambda: buckets.take("a", {"tokens": 1.0}),
            lambda: buckets.settle("a", {"tokens": 1.0}),
        ):
            with pytest.raises(Transient, match="Redis does not answer"):
                await call()
        server.start()
        assert await tier.get_many([key(1)]) == {}
        assert await buckets.take("a", {"tokens": 1.0}) == 0
        await client.aclose()


async def test_redis_down_cached_and_limited_calls_succeed(lacking: Callable[[str], NoReturn]) -> None:
    if shutil.which("redis-server") is None:
        lacking("there is no redis-server here: `make services` installs it")
    with RedisServer() as server:
        client = open_redis(server.url)
        buckets = SharedBuckets(RedisBuckets(client, burst=BURST), MemoryBuckets())
        limited = RateLimited(Seeded(8), Rates(requests=60_000), buckets, name="key")
        cached = Cached(
            limited, [VectorMemory(limit=2_000, ttl=60), VectorRedis(client, ttl=60)], counts=True
        )
        for round_ in range(4):
            calls = [[f"{number}", f"{number + 1} word"] for number in range(10 * round_, 10 * round_ + 20)]
            answers = await asyncio.gather(*(cached.embed(texts, purpose="document") for texts in calls))
            for texts, answer in zip(calls, answers, strict=True):
                np.testing.assert_array_equal(answer.vectors, seeded(texts, 8))
                assert answer.counts == (1, 2)
            if round_ == 1:
                server.stop()
        await client.aclose()


async def test_redis_wrong_password_is_misconfigured(lacking: Callable[[str], NoReturn]) -> None:
    if shutil.which("redis-server") is None:
        lacking("there is no redis-server here: `make services` installs it")
    with RedisServer(password=SECRET) as server:
        for url in (server.url.replace(SECRET, "wrong"), server.url.replace(f":{SECRET}@", "")):
            client = open_redis(url)
            with pytest.raises(Misconfigured, match="password"):
                await VectorRedis(client, ttl=60).get_many([key(1)])
            await client.aclose()
        client = open_redis(server.url)
        assert await VectorRedis(client, ttl=60).get_many([key(1)]) == {}
        await client.aclose()


def test_open_redis_invalid_url_is_misconfigured() -> None:
    with pytest.raises(Misconfigured, match="redis://"):
        open_redis("localhost:6379")


class Failing(Seeded):
    """A seeded embedder that is down while a test says so, and counts its calls."""

    def __init__(self) -> None:
        super().__init__(8)
        self.down, self.calls = False, 0

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        self.calls += 1
        if self.down:
            raise Transient("the provider is down")
        return await super().embed(texts, purpose=purpose)


class Server:
    """One server's way to a provider: its breaker opens after two failures, for a minute of the test's clock."""

    def __init__(self, client: Redis, *, name: str = "openai:small") -> None:
        self.now = 0.0
        self.provider = Failing()
        self.breaker = Breaker(name, failures=2, rest=60.0, clock=lambda: self.now)
        outages = RedisOutages(client, clock=lambda: self.now)
        self.guarded = CircuitBreaking(self.provider, self.breaker, outages=outages, clock=lambda: self.now)

    async def ask(self) -> str:
        """Send a text, and return what came of it."""
        try:
            await self.guarded.embed(["text"], purpose="query")
        except Transient as error:
            return type(error).__name__
        return "answered"


async def test_outage_seen_by_one_server_is_heeded_by_another(client: Redis) -> None:
    """The second server calls a provider that is down not once; other providers are called."""
    first, second, other = Server(client), Server(client), Server(client, name="voyage:large")
    first.provider.down = second.provider.down = True
    assert [await first.ask() for _ in range(3)] == ["Transient", "Transient", "Unavailable"]
    assert [await second.ask() for _ in range(3)] == ["Unavailable"] * 3
    assert (second.provider.calls, second.breaker.state) == (0, BreakerState.OPEN)
    assert await other.ask() == "answered"


async def test_outage_ends_for_all_with_the_first_answer(client: Redis) -> None:
    first, second, third = Server(client), Server(client), Server(client)
    first.provider.down = True
    for _ in range(2):
        await first.ask()
    assert await second.ask() == "Unavailable"
    second.now += 61.0
    assert await second.ask() == "answered"  # its trial call
    assert await third.ask() == "answered"


async def test_outage_whose_trial_fails_is_prolonged_for_all(client: Redis) -> None:
    first, second = Server(client), Server(client)
    first.provider.down = True
    for _ in range(2):
        await first.ask()
    await client.flushall()
    first.now += 61.0
    assert await first.ask() == "Transient"
    assert await second.ask() == "Unavailable"


async def test_breaker_that_is_reset_ends_the_outage_for_others(client: Redis) -> None:
    first, second = Server(client), Server(client)
    first.provider.down = True
    for _ in range(2):
        await first.ask()
    first.provider.down = False
    first.breaker.reset()
    assert await first.ask() == "answered"
    assert await second.ask() == "answered"


async def test_breakers_work_alone_without_redis() -> None:
    """A Redis that does not answer costs one warning, and no request."""
    lost = open_redis(f"redis://127.0.0.1:{RedisServer().port}/0")
    alone = Server(lost)
    assert await alone.ask() == "answered"
    alone.provider.down = True
    alone.now += 2.0
    assert [await alone.ask() for _ in range(3)] == ["Transient", "Transient", "Unavailable"]
    alone.provider.down = False
    alone.now += 61.0
    assert await alone.ask() == "answered"
    await lost.aclose()


async def test_redis_rates_two_servers_share_the_requests_of_a_minute(
    server: RedisServer, client: Redis
) -> None:
    """Sixty requests at once over two servers: as many are taken as a minute holds, and the rest are told to wait."""
    other = open_redis(server.url)
    servers = [RedisRates(client), RedisRates(other)]
    taken = await asyncio.gather(
        *(servers[n % 2].take("k", cost=6.0, most=60.0) for n in range(60)),
        servers[0].take("another", cost=6.0, most=60.0),
    )
    *taken, alone = taken
    waits = [each.wait for each in taken if each.wait]
    assert len(waits) in {49, 50}  # the clock goes on meanwhile
    assert all(0 < wait <= 6.0 for wait in waits)
    assert all(each.backlog <= 60.0 for each in taken)
    assert alone == (0.0, 6.0)
    assert await client.ttl("flowbed:requests:k") <= 61
    await other.aclose()


async def test_redis_rates_without_redis_are_those_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is said once, and nobody waits for Redis meanwhile."""
    with RedisServer() as gone:
        url = gone.url
    client = open_redis(url)
    rates = RedisRates(client)
    found = [await rates.take("k", cost=30.0, most=60.0) for _ in range(3)]
    assert [each.wait > 0 for each in found] == [False, False, True]
    assert caplog.text.count("requests per minute are counted by this server alone") == 1
    await client.aclose()
