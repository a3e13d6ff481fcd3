"""What processes share through Redis: the room under providers' rate limits, and a tier of the vector cache.

Nothing here has to last: a server that forgets it all costs a few calls that are refused, and vectors to embed again.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured, Transient

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from redis.asyncio import Redis

# Seconds to wait for the server: a call that works without it should not wait for long.
PATIENCE = 2.0

# Connections of one process; who finds all in use waits for one.
CONNECTIONS = 32

# Keys of one command: so many vectors of 1,536 dimensions are 3 MB, which takes milliseconds in which the server
# answers nobody else.
KEYS = 512

# Bytes of the key in front of each value: an answer that belongs to another question is never taken for a vector.
MARK = 8


def open_redis(url: str) -> Redis:
    """Make a client of the server at `url`, which connects when it is first used; `aclose` it in the end.

    Raises:
        Misconfigured: the address is none, or the extra `redis` is not installed.
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
            # Once, for connections that were cut while nobody used them.
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError as error:
        raise Misconfigured(f"the address of Redis is none ({error}); write redis://host:6379/0") from error
    return Redis.from_pool(pool)


class VectorRedis:
    """Vectors by key, for `ttl` seconds each; how much room they have is the server's own setting.

    Let that be `maxmemory` with `maxmemory-policy allkeys-lru`.
    """

    def __init__(self, client: Redis, *, ttl: float, prefix: str = "flowbed:vector:") -> None:
        """Keep vectors under `prefix`."""
        self._client = client
        self._milliseconds = max(1, round(ttl * 1000))
        self._prefix = prefix.encode()

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look keys up; those that are not kept are missing from the answer.

        Raises:
            Transient: the server does not answer.
            Misconfigured: it does not let this client in.
        """
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), KEYS):
            part = keys[start : start + KEYS]
            with redis_errors():
                values: list[Any] = await self._client.mget([self._prefix + key for key in part])
            for key, value in zip(part, values, strict=True):
                if value is not None and value[:MARK] == key[:MARK]:
                    found[key] = value[MARK:]
        return found

    async def put_many(self, vectors: Mapping[bytes, bytes]) -> None:
        """Keep vectors.

        Raises:
            Transient: the server does not answer, or has no room.
            Misconfigured: it does not let this client in.
        """
        items = list(vectors.items())
        for start in range(0, len(items), KEYS):
            async with self._client.pipeline(transaction=False) as pipeline:
                for key, value in items[start : start + KEYS]:
                    pipeline.set(self._prefix + key, key[:MARK] + value, px=self._milliseconds)
                with redis_errors():
                    await pipeline.execute()

    async def clear(self) -> None:
        """Drop every vector.

        Raises:
            Transient: the server does not answer.
            Misconfigured: it does not let this client in.
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
    """Say in our own errors what went wrong."""
    from redis import exceptions  # whoever has a client has it

    try:
        yield
    except (exceptions.AuthenticationError, exceptions.NoPermissionError) as error:
        raise Misconfigured(
            f"Redis does not let us in ({error}); set its address with the password"
        ) from error
    except (exceptions.RedisError, OSError, TimeoutError) as error:
        raise Transient(f"Redis does not answer ({error}); try again") from error
