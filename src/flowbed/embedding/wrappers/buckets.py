"""Room under rate limits, kept by the generic cell rate algorithm (GCRA): in memory, or in Redis for several processes.

Room is measured in seconds: a call that needs a tenth of what a minute allows costs 6 s of it. Buckets therefore know
neither limits nor units, and each is one number: when everything taken from it will have been made up for.
"""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

from flowbed import telemetry
from flowbed.embedding.cache.redis import redis_errors
from flowbed.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from redis.asyncio import Redis

# Seconds of room that an idle key may use at once. OpenAI sometimes enforces limits within a fraction of a second; half
# a second leaves the same for bursts caused by the network, and makes up for timers that fire late.
BURST = 0.5

# Seconds that failed shared buckets are left alone.
FALLBACK_SECONDS = 10.0

# The algorithm of `MemoryBuckets`, on the clock of the server, since those of the processes differ. Seconds are written
# with six decimals, as Redis tells the time.
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


class Buckets(Protocol):
    """The room of several keys. Costs are seconds of room, by unit (requests, inputs, tokens)."""

    async def take(self, name: str, costs: Mapping[str, float]) -> float:
        """Take `costs` from the room of `name` and return 0, or take nothing and return the seconds to wait.

        There is room once earlier costs have been made up for, however large the new ones are: a large call waits no
        longer than a small one, and the next call waits for what it took.
        """
        ...

    async def settle(self, name: str, costs: Mapping[str, float], *, pause: float = 0.0) -> None:
        """Take more, or give back (negative costs), and block `name` for `pause` seconds."""
        ...


class Gcra:
    """The generic cell rate algorithm: per key, the time at which everything taken will have been made up for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start with all room free; `clock` returns seconds."""
        self._clock = clock
        self._full_at: dict[Hashable, float] = {}

    def backlog(self, key: Hashable) -> float:
        """Return the seconds until everything taken has been made up for."""
        now = self._clock()
        return max(0.0, self._full_at.get(key, now) - now)

    def set(self, key: Hashable, backlog: float) -> None:
        """Take note of the seconds until everything taken has been made up for, as others counted it."""
        self._full_at[key] = self._clock() + backlog

    def take(self, key: Hashable, cost: float) -> None:
        """Take `cost` seconds of room; a negative cost gives room back."""
        now = self._clock()
        self._full_at[key] = max(now, self._full_at.get(key, now)) + cost


class MemoryBuckets:
    """The room of keys that only this process uses."""

    def __init__(self, *, burst: float = BURST, clock: Callable[[], float] = time.monotonic) -> None:
        """Let an idle key use `burst` seconds of room at once; `clock` returns seconds."""
        self._burst = burst
        self._clock = clock
        self._taken = Gcra(clock)
        self._paused_until: dict[str, float] = {}

    async def take(self, name: str, costs: Mapping[str, float]) -> float:
        """Take room, or return the seconds until there is some."""
        now = self._clock()
        wait = self._paused_until.get(name, now) - now
        for unit in costs:
            wait = max(wait, self._taken.backlog((name, unit)) - self._burst)
        if wait > 0:
            return wait
        await self.settle(name, costs)
        return 0.0

    async def settle(self, name: str, costs: Mapping[str, float], *, pause: float = 0.0) -> None:
        """Correct what was taken."""
        for unit, cost in costs.items():
            self._taken.take((name, unit), cost)
        if pause > 0:
            now = self._clock()
            self._paused_until[name] = max(self._paused_until.get(name, now), now + pause)


class RedisBuckets:
    """The room of keys that all processes share which use one Redis and `prefix`."""

    def __init__(self, client: Redis, *, burst: float, prefix: str = "flowbed:limits:") -> None:
        """Let an idle key use `burst` seconds of room at once."""
        self._burst = burst
        self._prefix = prefix
        self._take = client.register_script(TAKE)
        self._settle = client.register_script(SETTLE)

    async def take(self, name: str, costs: Mapping[str, float]) -> float:
        """Take `costs` (seconds of room, by unit) and return 0, or take nothing and return the seconds to wait.

        Raises:
            Transient: Redis does not answer.
            Misconfigured: Redis refuses the login.
        """
        with redis_errors():
            wait = await self._take(keys=[self._prefix + name], args=[self._burst, *_flat(costs)])
        return float(wait)

    async def settle(self, name: str, costs: Mapping[str, float], *, pause: float = 0.0) -> None:
        """Take more, or give back (negative costs), and block `name` for `pause` seconds.

        Raises:
            Transient: Redis does not answer.
            Misconfigured: Redis refuses the login.
        """
        with redis_errors():
            await self._settle(keys=[self._prefix + name], args=[pause, *_flat(costs)])


class SharedBuckets:
    """Buckets that processes share, and this process's own while the shared ones fail."""

    def __init__(self, shared: Buckets, own: Buckets, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Use `own` for some seconds after `shared` failed; `clock` returns seconds."""
        self._shared = shared
        self._own = own
        self._clock = clock
        self._own_until = float("-inf")

    async def take(self, name: str, costs: Mapping[str, float]) -> float:
        """Take room from the buckets in use."""
        if self._clock() >= self._own_until:
            try:
                return await self._shared.take(name, costs)
            except Error as error:
                self._fall_back(error)
        return await self._own.take(name, costs)

    async def settle(self, name: str, costs: Mapping[str, float], *, pause: float = 0.0) -> None:
        """Correct what was taken in the buckets in use."""
        if self._clock() >= self._own_until:
            try:
                await self._shared.settle(name, costs, pause=pause)
            except Error as error:
                self._fall_back(error)
            else:
                costs = {}
        # This process keeps the pause too, in case the shared buckets fail during it.
        await self._own.settle(name, costs, pause=pause)

    def _fall_back(self, error: Error) -> None:
        self._own_until = self._clock() + FALLBACK_SECONDS
        telemetry.log.warning(
            "rate limits are kept by this process alone for %d s: %s", FALLBACK_SECONDS, error
        )


def bucket_name(provider: str, key: str) -> str:
    """Name the buckets of one provider and API key; the key cannot be read out of the name."""
    return f"{provider}:{sha256(key.encode()).hexdigest()[:16]}"


def _flat(costs: Mapping[str, float]) -> list[Any]:
    return [part for unit, cost in costs.items() for part in (unit, f"{cost:.6f}")]
