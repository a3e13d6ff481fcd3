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

# One number for each unit of a key: when everything that was taken will have been made up for. The server's own clock
# decides, since those of the processes differ. Seconds are written with six decimals, as Redis tells the time.
TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local burst = tonumber(ARGV[1])
local wait = tonumber(redis.call('HGET', KEYS[1], 'paused') or now) - now
local last = now
local full = {}
for at = 2, #ARGV, 2 do
  full[at] = tonumber(redis.call('HGET', KEYS[1], ARGV[at]) or now)
  wait = math.max(wait, full[at] - now - burst)
end
if wait > 0 then return string.format('%.6f', wait) end
for at = 2, #ARGV, 2 do
  full[at] = math.max(now, full[at]) + ARGV[at + 1]
  last = math.max(last, full[at])
  redis.call('HSET', KEYS[1], ARGV[at], string.format('%.6f', full[at]))
end
redis.call('PEXPIRE', KEYS[1], math.ceil((last - now) * 1000) + 1000)
return '0'
"""

SETTLE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local last = tonumber(redis.call('HGET', KEYS[1], 'paused') or now)
if tonumber(ARGV[1]) > 0 then
  last = math.max(last, now + ARGV[1])
  redis.call('HSET', KEYS[1], 'paused', string.format('%.6f', last))
end
for at = 2, #ARGV, 2 do
  local full = math.max(now, tonumber(redis.call('HGET', KEYS[1], ARGV[at]) or now)) + ARGV[at + 1]
  last = math.max(last, full)
  redis.call('HSET', KEYS[1], ARGV[at], string.format('%.6f', full))
end
local left = redis.call('PTTL', KEYS[1])
redis.call('PEXPIRE', KEYS[1], math.max(left, math.ceil((last - now) * 1000) + 1000))
"""


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


class RedisBuckets:
    """Room under rate limits that all processes share which use this server and `prefix`."""

    def __init__(self, client: Redis, *, burst: float, prefix: str = "flowbed:limits:") -> None:
        """Let a key that was quiet use `burst` seconds of room at once."""
        self._burst = burst
        self._prefix = prefix
        self._take = client.register_script(TAKE)
        self._settle = client.register_script(SETTLE)

    async def take(self, name: str, costs: Mapping[str, float]) -> float:
        """Take `costs` (seconds of room, by unit) and return 0, or take nothing and return the seconds to wait.

        Raises:
            Transient: the server does not answer.
            Misconfigured: it does not let this client in.
        """
        with _translated():
            wait = await self._take(keys=[self._prefix + name], args=[self._burst, *_flat(costs)])
        return float(wait)

    async def settle(self, name: str, costs: Mapping[str, float], *, pause: float = 0.0) -> None:
        """Take more, or less than nothing, and let nobody take any for `pause` seconds.

        Raises:
            Transient: the server does not answer.
            Misconfigured: it does not let this client in.
        """
        with _translated():
            await self._settle(keys=[self._prefix + name], args=[pause, *_flat(costs)])


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
            with _translated():
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
                with _translated():
                    await pipeline.execute()

    async def clear(self) -> None:
        """Drop every vector.

        Raises:
            Transient: the server does not answer.
            Misconfigured: it does not let this client in.
        """
        with _translated():
            keys: list[Any] = []
            async for key in self._client.scan_iter(match=self._prefix + b"*", count=KEYS):
                keys.append(key)
                if len(keys) == KEYS:
                    await self._client.unlink(*keys)
                    keys = []
            if keys:
                await self._client.unlink(*keys)


def _flat(costs: Mapping[str, float]) -> list[Any]:
    return [part for unit, cost in costs.items() for part in (unit, f"{cost:.6f}")]


@contextmanager
def _translated() -> Iterator[None]:
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
