"""What several servers share through Redis: vectors, and the room under providers' rate limits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.embedding.cache.redis import RedisBuckets, VectorRedis, open_redis
from flowbed.embedding.wrappers.limits import BURST, MemoryBuckets, SharedBuckets
from flowbed.errors import Error
from flowbed.records.serving import Health

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.embedding.wrappers.limits import Buckets

# Seconds for which Redis keeps a vector that nobody asks for. Vectors do not age; what has to go earlier, the server's
# own limit on its memory decides.
KEPT = 30 * 86_400.0
NOBODY = bytes(32)  # a key that no vector has


@dataclass(frozen=True)
class Shared:
    """One connection to Redis, and what goes through it."""

    vectors: VectorRedis
    buckets: Buckets
    aclose: Callable[[], Awaitable[None]]

    async def health(self) -> Health:
        """Ask Redis for a vector; without it, answers are slower, and limits are each server's own."""
        before = time.monotonic()
        try:
            await self.vectors.get_many([NOBODY])
        except Error as error:
            return Health(
                name="redis", state="degraded", reason=str(error), seconds=time.monotonic() - before
            )
        return Health(name="redis", state="ok", seconds=time.monotonic() - before)


def open_shared(url: str) -> Shared:
    """Make a connection to Redis, which is used when it is first needed.

    Raises:
        Misconfigured: the address is none, or the extra `redis` is not installed.
    """
    client = open_redis(url)
    return Shared(
        VectorRedis(client, ttl=KEPT),
        SharedBuckets(RedisBuckets(client, burst=BURST), MemoryBuckets()),
        client.aclose,
    )
