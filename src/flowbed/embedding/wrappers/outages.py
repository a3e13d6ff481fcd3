"""Which providers are down, told by the breakers of one process to those of others through Redis."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from flowbed import telemetry
from flowbed.embedding.cache.redis import redis_errors
from flowbed.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

# Seconds that a Redis which failed is left alone: each breaker then knows only what its process has seen.
ALONE_SECONDS = 10.0


class Outages(Protocol):
    """The outages of providers, by name."""

    async def left(self, name: str) -> float:
        """Return for how many seconds a provider is still to be left alone; 0 if it is not known to be down."""
        ...

    async def begin(self, name: str, seconds: float) -> None:
        """Tell that a provider is to be left alone for some seconds."""
        ...

    async def end(self, name: str) -> None:
        """Tell that a provider answers again."""
        ...


class RedisOutages:
    """The outages that all processes share which use one Redis and `prefix`; without Redis there are none."""

    def __init__(
        self,
        client: Redis,
        *,
        prefix: str = "flowbed:outages:",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep them in Redis, which forgets each at its end; `clock` returns seconds."""
        self._client, self._prefix, self._clock = client, prefix, clock
        self._alone_until = float("-inf")

    async def left(self, name: str) -> float:
        """Return for how many seconds a provider is still to be left alone."""
        if self._clock() < self._alone_until:
            return 0.0
        try:
            with redis_errors():
                milliseconds = await self._client.pttl(self._prefix + name)
        except Error as error:
            self._leave_alone(error)
            return 0.0
        return max(0, int(milliseconds)) / 1000

    async def begin(self, name: str, seconds: float) -> None:
        """Tell that a provider is to be left alone for some seconds."""
        if self._clock() < self._alone_until:
            return
        try:
            with redis_errors():
                await self._client.set(self._prefix + name, b"1", px=max(1, round(seconds * 1000)))
        except Error as error:
            self._leave_alone(error)

    async def end(self, name: str) -> None:
        """Tell that a provider answers again."""
        if self._clock() < self._alone_until:
            return
        try:
            with redis_errors():
                await self._client.delete(self._prefix + name)
        except Error as error:
            self._leave_alone(error)

    def _leave_alone(self, error: Error) -> None:
        self._alone_until = self._clock() + ALONE_SECONDS
        telemetry.log.warning(
            "what other servers know of providers that are down is not read for %d s: %s",
            ALONE_SECONDS,
            error,
        )
