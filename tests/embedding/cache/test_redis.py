"""Limits and vectors that processes share through Redis: a real server, which is stopped, forgets, and comes back."""

from __future__ import annotations

import asyncio
import shutil
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.support.redis import RedisServer

from flowbed.embedding import Rates
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.memory import VectorMemory
from flowbed.embedding.cache.redis import KEYS, VectorRedis, open_redis
from flowbed.embedding.wrappers.buckets import MemoryBuckets, RedisBuckets, SharedBuckets
from flowbed.embedding.wrappers.limits import RateLimited
from flowbed.errors import Misconfigured, Transient
from flowbed.testing.embedder import Seeded, seeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import NoReturn

    from redis.asyncio import Redis

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


async def test_no_stretch_of_time_allows_more_than_its_length(server: RedisServer, client: Redis) -> None:
    """However many processes take at once, together they take no more than the rate allows."""
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


async def test_room_is_taken_whole_or_not_at_all(client: Redis) -> None:
    """Where one unit has no room, nothing of the others is taken; names do not share."""
    buckets = RedisBuckets(client, burst=BURST)
    assert await buckets.take("a", {"requests": 0.0, "tokens": 50.0}) == 0
    wait = await buckets.take("a", {"requests": 20.0, "tokens": 1.0})
    assert 49 < wait < 50
    assert await buckets.take("a", {"requests": 1.0}) == 0
    assert await buckets.take("b", {"tokens": 1.0}) == 0


async def test_what_was_taken_is_corrected(client: Redis) -> None:
    """A bill that is larger or smaller than the guess lengthens or shortens the wait."""
    buckets = RedisBuckets(client, burst=BURST)
    await buckets.take("a", {"tokens": 10.0})
    await buckets.settle("a", {"tokens": 5.0})
    assert 14 < await buckets.take("a", {"tokens": 1.0}) < 15
    await buckets.settle("a", {"tokens": -12.0})
    assert 2 < await buckets.take("a", {"tokens": 1.0}) < 3


async def test_a_pause_holds_for_everybody(server: RedisServer, client: Redis) -> None:
    """What one process is told holds back all, for as long as the longest of what was told."""
    mine, other = open_redis(server.url), open_redis(server.url)
    for seconds in (3.0, 60.0, 1.0):
        await RedisBuckets(mine, burst=BURST).settle("a", {}, pause=seconds)
    assert 59 < await RedisBuckets(other, burst=BURST).take("a", {}) <= 60
    assert await RedisBuckets(other, burst=BURST).take("b", {}) == 0
    await mine.aclose()
    await other.aclose()


async def test_nothing_is_kept_longer_than_it_matters(client: Redis) -> None:
    """Keys go when what they say has passed, and not before."""
    buckets = RedisBuckets(client, burst=BURST)
    await buckets.take("a", {"tokens": 10.0})
    await buckets.settle("a", {}, pause=40.0)
    await buckets.take("b", {"tokens": 10.0})
    await buckets.settle("b", {"tokens": -5.0})
    assert 40_000 < await client.pttl("flowbed:limits:a") <= 41_000
    assert 9_000 < await client.pttl("flowbed:limits:b") <= 11_000


async def test_calls_of_two_processes_share_one_limit(server: RedisServer, client: Redis) -> None:
    """Two limited embedders with clients of their own are together as fast as one alone may be."""
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


async def test_vectors_come_back(client: Redis) -> None:
    """What is kept is found, in parts where it is much, and what is not kept is missing."""
    tier = VectorRedis(client, ttl=60)
    kept = {key(number): bytes([number % 251]) * 40 for number in range(2 * KEYS + 3)}
    await tier.put_many(kept)
    assert await tier.get_many([*kept, key(10**6)]) == kept
    assert await tier.get_many([]) == {}
    await tier.put_many({key(1): b"new"})
    assert await tier.get_many([key(1)]) == {key(1): b"new"}


async def test_vectors_go_after_their_time(client: Redis) -> None:
    """A vector is kept for its time and no longer."""
    tier = VectorRedis(client, ttl=0.05)
    await tier.put_many({key(1): b"one"})
    await asyncio.sleep(0.1)
    assert await tier.get_many([key(1)]) == {}
    assert await client.dbsize() == 0


async def test_clearing_drops_vectors_and_nothing_else(client: Redis) -> None:
    """Clearing leaves what others keep on the server."""
    tier = VectorRedis(client, ttl=60)
    await client.set("another", "1")
    await tier.put_many({key(number): b"vector" for number in range(2 * KEYS)})
    await tier.clear()
    await tier.clear()
    assert await client.keys() == [b"another"]


async def test_a_value_of_another_key_is_no_vector(client: Redis) -> None:
    """A value that does not begin with its key's mark is passed over, wherever it came from."""
    tier = VectorRedis(client, ttl=60)
    await tier.put_many({key(1): b"one"})
    stored = await client.get(b"flowbed:vector:" + key(1))
    assert stored is not None
    await client.set(b"flowbed:vector:" + key(2), stored)
    assert await tier.get_many([key(1), key(2)]) == {key(1): b"one"}


async def test_calls_that_are_given_up_mix_nothing_up(client: Redis) -> None:
    """However many calls are cancelled at whatever moment, every other gets its own vectors."""
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


async def test_a_server_that_is_gone_is_told_and_comes_back(lacking: Callable[[str], NoReturn]) -> None:
    """Without the server each call fails as one that may succeed later, and does when it is back."""
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


async def test_nothing_is_felt_when_the_server_goes(lacking: Callable[[str], NoReturn]) -> None:
    """Calls through cache and limits go on without the server, each with its own vectors."""
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


async def test_a_server_that_lets_nobody_in(lacking: Callable[[str], NoReturn]) -> None:
    """A missing or wrong password is a setting to change, and the right one lets in."""
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


def test_an_address_that_is_none_is_refused_at_once() -> None:
    """What is no address of Redis is a setting to change."""
    with pytest.raises(Misconfigured, match="redis://"):
        open_redis("localhost:6379")
