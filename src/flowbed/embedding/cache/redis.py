"""A tier of the vector cache in Redis, and the client that rate limits share.

Nothing here has to last: if Redis loses everything, some calls are refused and some vectors are embedded again.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flowbed.embedding.cache.encoding import sealed, unsealed
from flowbed.errors import Misconfigured, Transient

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from redis.asyncio import Redis

# Seconds to wait for Redis: calls work without it, so they should not wait for long.
PATIENCE = 2.0

# Connections of one process; further calls wait for a free one.
CONNECTIONS = 32

# Keys per command: as many vectors of 1,536 dimensions are 3 MB, for which Redis is busy for milliseconds.
KEYS = 512

# Bytes of its key stored in front of each value, so that a misplaced answer is never taken for a vector.
MARK = 8


def open_redis(url: str) -> Redis:
    """Create a client, which connects when it is first used; `aclose` it.

    Raises:
        Misconfigured: the URL is invalid, or the extra `redis` is not installed.
    """
    try:
        from redis.asyncio import BlockingConnectionPool, Redis  # an extra
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise Misconfigured(
            "sharing through Redis needs the package redis: pip install 'flowbed[redis]'"
        ) from error
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=PATIENCE,
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
            # One retry, for connections that were cut while idle.
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError as error:
        raise Misconfigured(f"invalid Redis URL ({error}); write it as redis://host:6379/0") from error
    return Redis.from_pool(pool)


class VectorRedis:
    """Vectors by key, for `ttl` seconds each; Redis itself limits their memory.

    Set `maxmemory` with `maxmemory-policy allkeys-lru`.
    """

    def __init__(self, client: Redis, *, ttl: float, prefix: str = "flowbed:vector:") -> None:
        """Store vectors under `prefix`."""
        self._client = client
        self._milliseconds = max(1, round(ttl * 1000))
        self._prefix = prefix.encode()

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look keys up; unknown keys and damaged vectors are missing from the result.

        Raises:
            Transient: Redis does not answer.
            Misconfigured: Redis refuses the login.
        """
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), KEYS):
            part = keys[start : start + KEYS]
            with redis_errors():
                values: list[Any] = await self._client.mget([self._prefix + key for key in part])
            for key, value in zip(part, values, strict=True):
                if value is None or value[:MARK] != key[:MARK]:
                    continue
                if (vector := unsealed(key, value[MARK:])) is not None:
                    found[key] = vector
        return found

    async def put_many(self, vectors: Mapping[bytes, bytes]) -> None:
        """Store vectors.

        Raises:
            Transient: Redis does not answer, or is full.
            Misconfigured: Redis refuses the login.
        """
        items = list(vectors.items())
        for start in range(0, len(items), KEYS):
            async with self._client.pipeline(transaction=False) as pipeline:
                for key, value in items[start : start + KEYS]:
                    pipeline.set(self._prefix + key, key[:MARK] + sealed(key, value), px=self._milliseconds)
                with redis_errors():
                    await pipeline.execute()

    async def forget(self, keys: Sequence[bytes]) -> int:
        """Delete vectors, and return how many there were.

        Raises:
            Transient: Redis does not answer.
            Misconfigured: Redis refuses the login.
        """
        gone = 0
        for start in range(0, len(keys), KEYS):
            with redis_errors():
                gone += await self._client.unlink(*(self._prefix + key for key in keys[start : start + KEYS]))
        return gone

    async def clear(self) -> None:
        """Drop every vector.

        Raises:
            Transient: Redis does not answer.
            Misconfigured: Redis refuses the login.
        """
        with redis_errors():
            keys: list[Any] = []
            async for key in self._client.scan_iter(match=self._prefix + b"*", count=KEYS):
                keys.append(key)
                if len(keys) == KEYS:
                    await self._client.unlink(*keys)
                    keys = []
            if keys:
                await self._client.unlink(*keys)


@contextmanager
def redis_errors() -> Iterator[None]:
    """Translate errors of the redis package into Flowbed's."""
    from redis import exceptions  # installed, since there is a client

    try:
        yield
    except (exceptions.AuthenticationError, exceptions.NoPermissionError) as error:
        raise Misconfigured(f"Redis refuses the login ({error}); put the password into its URL") from error
    except (exceptions.RedisError, OSError, TimeoutError) as error:
        raise Transient(f"Redis does not answer ({error}); try again") from error
