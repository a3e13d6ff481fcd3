"""The served models: found by name, probed, listed with their caches and breakers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from flowbed.embedding.cache.memory import VectorMemory
from flowbed.embedding.cache.tiers import Remembering
from flowbed.embedding.cache.write_behind import WriteBehind
from flowbed.embedding.wrappers.coalesced import Coalesced
from flowbed.errors import Error, Misconfigured, NotFound
from flowbed.records.serving import CacheStats, Health, ModelInfo
from flowbed.services.embedding.popular_texts import PopularTexts
from flowbed.services.embedding.served_model import is_allowed
from flowbed.services.opening import open_models
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.embedding.cache.redis import VectorRedis
    from flowbed.embedding.cache.tiers import VectorTier
    from flowbed.embedding.wrappers.breaker import Breaker
    from flowbed.records.serving import Caller, Serving
    from flowbed.services.embedding.served_model import ServedModel
    from flowbed.services.project import Project

# Seconds after which a model without an answer is unhealthy; a cold local model loads its weights in less.
PROBE_SECONDS = 20.0
# Seconds that the result of a probe is reused, so that many health checks cost one probe: of local models, and of
# providers, which bill every probe.
LOCAL_HOLDS, REMOTE_HOLDS = 2.0, 30.0
PROBE = "ready"
UNUSED_KEY = bytes(32)  # no vector has this key
NEAREST = VectorMemory.__name__
# Vectors that a new server takes into memory: about 10 MB, which are read in some 20 ms.
WARMED = 2_000


class Models:
    """The served models, by every name of each."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        serving: Serving,
        *,
        memory: VectorMemory,
        far: Sequence[WriteBehind] = (),
        redis: VectorRedis | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take open models in the order of the settings, and the tiers of their cache: `memory` and `far`.

        Raises:
            Misconfigured: two of them share a name.
        """
        self._models = tuple(models)
        self._serving = serving
        self._memory = memory
        self._far = tuple(far)
        self._redis = redis
        self._monotonic = monotonic
        self._by_name: dict[str, ServedModel] = {}
        for model in models:
            for name in model.names:
                if self._by_name.setdefault(name, model) is not model:
                    raise Misconfigured(
                        f"{self._by_name[name].spec} and {model.spec} are both served as {name!r}: serve only one"
                        " of them, or make the other its fallback"
                    )
        self._probes: dict[str, tuple[Health, float]] = {}
        self._probing = asyncio.Lock()
        self.uses = PopularTexts()

    @classmethod
    async def open(
        cls, bed: Project, serving: Serving, *, monotonic: Callable[[], float] = time.monotonic
    ) -> Self:
        """Open every model that the settings name.

        Raises:
            Misconfigured: a model, an alias or a fallback cannot be used.
        """
        memory = VectorMemory(limit=serving.cache_bytes, ttl=serving.cache_seconds)
        # Writing a vector to disk or Redis takes longer than the rest of a request, so requests do not wait for it.
        shared = bed.vector_tiers()
        far = [WriteBehind(tier) for tier in shared]
        models = await open_models(bed, serving, [memory, *far])
        await _fill(memory, shared)
        redis = bed.embedder_stack().redis_tier()
        return cls(models, serving, memory=memory, far=far, redis=redis, monotonic=monotonic)

    def named(self, name: str) -> ServedModel:
        """Return the model of that name.

        Raises:
            NotFound: no served model has that name.
        """
        model = self._by_name.get(name)
        if model is None:
            raise NotFound(
                f"The model `{name}` does not exist or you do not have access to it. Served here:"
                f" {', '.join(each.id for each in self._models)}",
                param="model",
                code="model_not_found",
            )
        return model

    def listed(self, caller: Caller | None = None) -> list[ModelInfo]:
        """Describe all models, or those that `caller` may use, in the order of the settings."""
        return [
            model.served()
            for model in self._models
            if caller is None or is_allowed(model.names, caller, self._serving)
        ]

    async def ready(self) -> list[Health]:
        """Probe Redis and each model: it embeds a token past the cache, unless it did so a moment ago."""
        async with self._probing:  # concurrent callers share the result
            found = await asyncio.gather(*(self._probe(model) for model in self._models))
            redis = [] if self._redis is None else [await _redis_health(self._redis)]
        if all(each.state == "unhealthy" for each in found):
            return [*found, *redis]
        # While one model answers, a load balancer should keep the server in service.
        return [
            *(replace(each, state="degraded") if each.state == "unhealthy" else each for each in found),
            *redis,
        ]

    def breakers(self) -> list[Breaker]:
        """Return the breaker of every provider and model."""
        return [breaker for model in self._models for breaker in model.breakers]

    def waiting(self) -> dict[str, int]:
        """Return how many texts wait for each provider and model whose calls are coalesced."""
        return {
            name: embedder.waiting
            for model in self._models
            for embedder, name in model.source.members
            if isinstance(embedder, Coalesced)
        }

    def reset(self, name: str) -> Breaker:
        """Close a breaker, so that its provider is called again at once, and return it.

        Raises:
            NotFound: no breaker has that name.
        """
        for breaker in self.breakers():
            if breaker.name == name:
                breaker.reset()
                return breaker
        known = ", ".join(breaker.name for breaker in self.breakers())
        raise NotFound(f"there is no breaker {name!r}; there are: {known or 'none'}")

    def caches(self) -> list[CacheStats]:
        """Return the hits and misses of each cache tier for each model since the server started."""
        vectors, size = self._memory.size
        return [
            CacheStats(
                model=model.id,
                tier=stats.tier,
                hits=stats.hits,
                misses=stats.misses,
                vectors=vectors if stats.tier == NEAREST else None,
                bytes=size if stats.tier == NEAREST else None,
            )
            for model in self._models
            for stats in model.embedder.tiers.stats
        ]

    async def clear(self) -> None:
        """Empty the cache tiers that can be cleared; vectors on disk were paid for, and stay."""
        for model in self._models:
            await model.embedder.clear()

    async def warm(self, name: str, *, most: int = 1_000) -> int:
        """Embed the `most` texts requested most often since the server started, so that they are cached again.

        Return how many these were.

        Raises:
            NotFound: no served model has that name.
            Transient, Rejected, Misconfigured: as the model does.
        """
        model = self.named(name)
        found = self.uses.top(model.id, most=most)
        for purpose, texts in found.items():
            await model.embed(texts, purpose=purpose)
        return sum(map(len, found.values()))

    async def close(self) -> None:
        """Write pending vectors; the project closes models, tiers and connections."""
        for tier in self._far:
            await tier.aclose()

    async def _probe(self, model: ServedModel) -> Health:
        facts = {breaker.name: breaker.state.value for breaker in model.breakers}
        known = self._probes.get(model.spec)
        # A breaker that changed state since is newer information than the last probe.
        if known is not None and self._monotonic() < known[1] and known[0].facts == facts:
            return known[0]
        before = self._monotonic()
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                answer = await model.source.embed([PROBE], purpose="query")
        except TimeoutError:
            health = Health(
                name=model.id, state="unhealthy", reason=f"no answer within {PROBE_SECONDS:g} s", facts=facts
            )
        except Error as error:
            health = Health(name=model.id, state="unhealthy", reason=str(error), facts=facts)
        else:
            down = [name for name, state in facts.items() if state != "closed"]
            health = Health(
                name=model.id,
                state="degraded" if down else "ok",
                reason=f"{', '.join(down)} is down; {answer.provider} answers" if down else "",
                facts=facts,
            )
        health = replace(health, seconds=self._monotonic() - before)
        holds = REMOTE_HOLDS if model.remote and health.state != "unhealthy" else LOCAL_HOLDS
        self._probes[model.spec] = health, self._monotonic() + holds
        return health


async def _fill(memory: VectorMemory, tiers: Sequence[VectorTier]) -> None:
    """Fill the memory with the vectors that were used last, so that a new server need not look for them on disk."""
    for tier in tiers:
        if isinstance(tier, Remembering):
            try:
                found = await tier.recent(WARMED)
            except Error as error:  # they are looked up one by one
                log.warning("the cache in memory begins empty: %s", error)
            else:
                # The last one that is put in is the last to be evicted.
                await memory.put_many(dict(reversed(found.items())))


async def _redis_health(redis: VectorRedis) -> Health:
    """Look a key up in Redis; without Redis, answers are slower and each server keeps rate limits by itself."""
    before = time.monotonic()
    try:
        await redis.get_many([UNUSED_KEY])
    except Error as error:
        return Health(name="redis", state="degraded", reason=str(error), seconds=time.monotonic() - before)
    return Health(name="redis", state="ok", seconds=time.monotonic() - before)
