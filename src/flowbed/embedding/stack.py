"""The wrappers in front of embedders, joined in one place.

Outermost first: `Cached`, `Fallback`, `Coalesced`, `CircuitBreaking`, `RateLimited`, the embedder itself. Wrappers that
only providers need are imported when a provider is opened: a search with a local model loads none of them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.embedding import Rated
from flowbed.embedding.cache.cached import Cached

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis.asyncio import Redis

    from flowbed.embedding import Embedder
    from flowbed.embedding.cache.redis import VectorRedis
    from flowbed.embedding.cache.tiers import VectorTier
    from flowbed.embedding.wrappers.breaker import Breaker
    from flowbed.embedding.wrappers.buckets import Buckets
    from flowbed.embedding.wrappers.fallback import Fallback
    from flowbed.embedding.wrappers.outages import Outages
    from flowbed.embedding.wrappers.request_rates import RequestRates
    from flowbed.records.serving import Coalescing

# Seconds that a request waits for room under a provider's rate limit before its client is told to retry: clients give
# up after 60 s or more, and a waiting request occupies a slot that another could use.
PATIENCE = 20.0
# Joined calls to a provider that are in flight at once: enough that the latency of an answer does not limit throughput.
REMOTE_AT_ONCE = 16
# Seconds that Redis keeps an unused vector. Vectors do not expire; the memory limit of Redis evicts them sooner.
REDIS_TTL = 30 * 86_400.0


@dataclass(frozen=True, kw_only=True)
class ServedStack:
    """The stack of a served model: `embedder` answers from the cache, then from `source`, through the `breakers`."""

    embedder: Cached
    source: Fallback
    breakers: tuple[Breaker, ...]


class Stack:
    """Builds stacks that share, within one process, the rate limits of each account and one connection to Redis."""

    def __init__(self, *, account: Callable[[str], str], redis: str = "") -> None:
        """Connect to nothing yet.

        `account` names the account that a model's provider counts requests for; `redis` is a URL, empty for none.
        """
        self.account = account
        self._url = redis
        self._client: Redis | None = None
        self._buckets: Buckets | None = None
        self._opening = threading.Lock()  # models are opened in threads

    def pipeline(self, models: Mapping[str, Embedder], tiers: Sequence[VectorTier]) -> Cached:
        """Build the stack that collections are filled and searched with.

        `models` are of one space, by name, the preferred one first. Without a provider among them the first is used
        alone; a single provider has no breaker, since a run retries by itself.
        """
        return Cached(self._source(models), tiers)

    def served(
        self, models: Mapping[str, Embedder], tiers: Sequence[VectorTier], *, coalescing: Coalescing
    ) -> ServedStack:
        """Build the stack that answers requests; `models` are of one space, by name, the preferred one first."""
        from flowbed.embedding.wrappers.breaker import Breaker
        from flowbed.embedding.wrappers.fallback import Fallback

        breakers = tuple(map(Breaker, models))
        providers = [
            self._coalesced(models[breaker.name], breaker, coalescing=coalescing) for breaker in breakers
        ]
        source = Fallback(providers, names=list(models))
        return ServedStack(embedder=Cached(source, tiers, counts=True), source=source, breakers=breakers)

    def redis_tier(self) -> VectorRedis | None:
        """Return the cache tier in Redis; None where no Redis is set.

        Raises:
            Misconfigured: the URL is invalid, or the extra `redis` is not installed.
        """
        client = self._redis()
        if client is None:
            return None
        from flowbed.embedding.cache.redis import VectorRedis

        return VectorRedis(client, ttl=REDIS_TTL)

    def request_rates(self) -> RequestRates | None:
        """Return what counts the requests of keys over all servers; None where no Redis is set."""
        client = self._redis()
        if client is None:
            return None
        from flowbed.embedding.wrappers.request_rates import RedisRates

        return RedisRates(client)

    async def aclose(self) -> None:
        """Close the connection to Redis; their owners close models and tiers."""
        if self._client is not None:
            await self._client.aclose()

    def _source(self, models: Mapping[str, Embedder]) -> Embedder:
        if not any(isinstance(model, Rated) for model in models.values()):
            return next(iter(models.values()))
        from flowbed.embedding.wrappers.breaker import Breaker, CircuitBreaking
        from flowbed.embedding.wrappers.fallback import Fallback

        limited = {name: self._limited(name, model) for name, model in models.items()}
        if len(limited) == 1:
            return next(iter(limited.values()))
        return Fallback(
            [CircuitBreaking(model, Breaker(name)) for name, model in limited.items()], names=list(limited)
        )

    def _limited(self, name: str, embedder: Embedder, *, patience: float | None = None) -> Embedder:
        """Put the rate limit of its account in front of a provider; a local model has none."""
        if not isinstance(embedder, Rated):
            return embedder
        from flowbed.embedding.wrappers.limits import RateLimited

        account, buckets = self.account(name), self._shared_buckets()
        return RateLimited(embedder, embedder.rates, buckets, name=account, patience=patience)

    def _coalesced(self, embedder: Embedder, breaker: Breaker, *, coalescing: Coalescing) -> Embedder:
        """Put rate limit, breaker and coalescing in front of one embedder.

        Coalescing is outermost, so that a joined call counts once with the breaker, however many requests it answers.
        """
        from flowbed.embedding.wrappers.breaker import CircuitBreaking
        from flowbed.embedding.wrappers.coalesced import Coalesced

        remote = isinstance(embedder, Rated)
        guarded = CircuitBreaking(
            self._limited(breaker.name, embedder, patience=PATIENCE),
            breaker,
            outages=self._outages(breaker.name) if remote else None,
        )
        if coalescing == "off" or (remote and coalescing == "local"):
            return guarded
        return (
            Coalesced(guarded, at_once=REMOTE_AT_ONCE) if remote else Coalesced(guarded, separate_kinds=True)
        )

    def _shared_buckets(self) -> Buckets:
        from flowbed.embedding.wrappers.buckets import BURST, MemoryBuckets, SharedBuckets

        client = self._redis()
        with self._opening:
            if self._buckets is None:
                self._buckets = MemoryBuckets()
                if client is not None:
                    from flowbed.embedding.wrappers.buckets import RedisBuckets

                    self._buckets = SharedBuckets(RedisBuckets(client, burst=BURST), self._buckets)
            return self._buckets

    def _outages(self, name: str) -> Outages | None:
        """Return what all processes with the account of a model know; None where no Redis is set."""
        client = self._redis()
        if client is None:
            return None
        from flowbed.embedding.wrappers.outages import RedisOutages

        return RedisOutages(client, prefix=f"flowbed:outages:{self.account(name)}:")

    def _redis(self) -> Redis | None:
        with self._opening:
            if self._client is None and self._url:
                from flowbed.embedding.cache.redis import open_redis

                self._client = open_redis(self._url)
            return self._client
