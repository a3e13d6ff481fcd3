"""Requests per minute of a server's keys: counted by one process, or in Redis for all servers that share it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from flowbed import telemetry
from flowbed.embedding.cache.redis import redis_errors
from flowbed.embedding.wrappers.buckets import FALLBACK_SECONDS, Gcra
from flowbed.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

# The rule of `MemoryRates`, on the clock of the server, since those of the processes differ. `full` is when everything
# taken will have been made up for.
TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local full = math.max(now, tonumber(redis.call('GET', KEYS[1]) or now))
local over = full - now + ARGV[1] - ARGV[2]
if over > 1e-6 then return {string.format('%.6f', over), string.format('%.6f', full - now)} end
full = full + ARGV[1]
redis.call('SET', KEYS[1], string.format('%.6f', full), 'PX', math.ceil((full - now) * 1000) + 1000)
return {'0', string.format('%.6f', full - now)}
"""
# What adding floats loses.
LOST = 1e-9


class Taken(NamedTuple):
    """The seconds to wait, 0 if the request was taken, and those until everything taken is made up for."""

    wait: float
    backlog: float


class RequestRates(Protocol):
    """What requests of keys have taken of their time: each costs some seconds, and a key may be `most` ahead."""

    async def take(self, key: str, *, cost: float, most: float) -> Taken:
        """Take `cost` seconds of a key, or if it would be more than `most` ahead, nothing."""
        ...


class MemoryRates:
    """The requests that this process has seen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing taken; `clock` returns seconds."""
        self._taken = Gcra(clock)

    async def take(self, key: str, *, cost: float, most: float) -> Taken:
        """Take `cost` seconds of a key, or nothing."""
        backlog = self._taken.backlog(key)
        over = backlog + cost - most
        if over > LOST:
            return Taken(over, backlog)
        self._taken.take(key, cost)
        return Taken(0.0, backlog + cost)


class RedisRates:
    """The requests that all servers have seen which use one Redis and `prefix`; this one's while Redis fails."""

    def __init__(
        self,
        client: Redis,
        *,
        prefix: str = "flowbed:requests:",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count in Redis; `clock` returns seconds."""
        self._prefix, self._clock = prefix, clock
        self._take = client.register_script(TAKE)
        self._own = MemoryRates(clock)
        self._own_until = float("-inf")

    async def take(self, key: str, *, cost: float, most: float) -> Taken:
        """Take `cost` seconds of a key, or nothing."""
        if self._clock() >= self._own_until:
            try:
                with redis_errors():
                    wait, backlog = await self._take(keys=[self._prefix + key], args=[cost, most])
            except Error as error:
                self._own_until = self._clock() + FALLBACK_SECONDS
                telemetry.log.warning(
                    "requests per minute are counted by this server alone for %d s: %s",
                    FALLBACK_SECONDS,
                    error,
                )
            else:
                return Taken(float(wait), float(backlog))
        return await self._own.take(key, cost=cost, most=most)
