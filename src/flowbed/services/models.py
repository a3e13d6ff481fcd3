"""The models that are served: found by name, probed, looked after."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from flowbed.embedding.cache.memory import VectorMemory
from flowbed.embedding.cache.write_behind import WriteBehind
from flowbed.embedding.wrappers.coalesced import Coalesced
from flowbed.embedding.wrappers.limits import MemoryBuckets
from flowbed.errors import Error, Misconfigured, NotFound
from flowbed.records.serving import CacheStats, Health, ModelInfo
from flowbed.services.opening import Opening
from flowbed.services.popular_texts import Uses
from flowbed.services.served_model import is_allowed
from flowbed.services.shared import open_shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.embedding.wrappers.breaker import Breaker
    from flowbed.records.serving import Caller, Serving
    from flowbed.services.project import Project
    from flowbed.services.served_model import Model
    from flowbed.services.shared import Shared

# Seconds after which a model that says nothing is called unhealthy; a cold one loads its weights within them.
PROBE_SECONDS = 20.0
# Seconds for which a probe's answer holds, so that many who ask cost no more than one: of what runs here, and of
# providers, who bill every probe that they answer.
LOCAL_HOLDS, REMOTE_HOLDS = 2.0, 30.0
PROBE = "ready"
NEAREST = VectorMemory.__name__


class Models:
    """The models that are served, by every name they go by."""

    def __init__(
        self,
        models: Sequence[Model],
        serving: Serving,
        *,
        memory: VectorMemory,
        far: Sequence[WriteBehind] = (),
        shared: Shared | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take models that are open, in the order of the settings, and the nearest tier of their cache.

        Raises:
            Misconfigured: two of them go by one name.
        """
        self._models = tuple(models)
        self._serving = serving
        self._memory = memory
        self._far = tuple(far)
        self._shared = shared
        self._monotonic = monotonic
        self._by_name: dict[str, Model] = {}
        for model in models:
            for name in model.names:
                if self._by_name.setdefault(name, model) is not model:
                    raise Misconfigured(
                        f"{self._by_name[name].spec} and {model.spec} are both served as {name!r}: serve one of"
                        " them, or let the other be a fallback"
                    )
        self._probes: dict[str, tuple[Health, float]] = {}
        self._probing = asyncio.Lock()
        self.uses = Uses()

    @classmethod
    async def open(
        cls, bed: Project, serving: Serving, *, monotonic: Callable[[], float] = time.monotonic
    ) -> Self:
        """Open every model that the settings name.

        Raises:
            Misconfigured: a model, an alias or a fallback cannot be used.
        """
        memory = VectorMemory(limit=serving.cache_bytes, ttl=serving.cache_seconds)
        shared = open_shared(serving.redis) if serving.redis else None
        # Reading and writing a vector on disk takes most of a millisecond, which is more than all else in a request.
        far = [WriteBehind(tier) for tier in ([shared.vectors] if shared else bed.vector_tiers())]
        opening = Opening(
            bed,
            serving,
            tiers=[memory, *far],
            buckets=shared.buckets if shared else MemoryBuckets(),
        )
        try:
            models = await opening.models()
            return cls(models, serving, memory=memory, far=far, shared=shared, monotonic=monotonic)
        except BaseException:
            if shared is not None:
                await shared.aclose()
            raise

    def named(self, name: str) -> Model:
        """Find a model by any of its names.

        Raises:
            NotFound: no model goes by that name.
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
        """Describe every model, or those that a caller may use, in the order of the settings."""
        return [
            model.served()
            for model in self._models
            if caller is None or is_allowed(model.names, caller, self._serving)
        ]

    async def ready(self) -> list[Health]:
        """Let each model embed a real token, past every cache, unless it did a moment ago, and Redis answer."""
        async with self._probing:  # who comes while others are asked gets what these were told
            found = await asyncio.gather(*(self._probe(model) for model in self._models))
            shared = [] if self._shared is None else [await self._shared.health()]
        if all(each.state == "unhealthy" for each in found):
            return [*found, *shared]
        # While one model answers, the server has something to offer, and is not to be taken out of service.
        return [
            *(replace(each, state="degraded") if each.state == "unhealthy" else each for each in found),
            *shared,
        ]

    def breakers(self) -> list[Breaker]:
        """Give the breaker of every provider and model."""
        return [breaker for model in self._models for breaker in model.breakers]

    def waiting(self) -> dict[str, int]:
        """Tell how many texts wait for each provider and model whose calls are joined."""
        return {
            name: embedder.waiting
            for model in self._models
            for embedder, name in model.source.members
            if isinstance(embedder, Coalesced)
        }

    def reset(self, name: str) -> Breaker:
        """Close a breaker, so that its provider is asked again at once.

        Raises:
            NotFound: there is no breaker of that name.
        """
        for breaker in self.breakers():
            if breaker.name == name:
                breaker.reset()
                return breaker
        known = ", ".join(breaker.name for breaker in self.breakers())
        raise NotFound(f"there is no breaker {name!r}; there are: {known or 'none'}")

    def caches(self) -> list[CacheStats]:
        """Tell how often each tier of the cache was asked for vectors of each model since the server began."""
        vectors, size = self._memory.size
        return [
            CacheStats(
                model=model.id,
                tier=looked.tier,
                hits=looked.hits,
                misses=looked.misses,
                vectors=vectors if looked.tier == NEAREST else None,
                bytes=size if looked.tier == NEAREST else None,
            )
            for model in self._models
            for looked in model.embedder.tiers.looked
        ]

    async def clear(self) -> None:
        """Empty the tiers of the cache that can be emptied; what is kept on disk was paid for, and stays."""
        for model in self._models:
            await model.embedder.clear()

    async def warm(self, name: str, *, most: int = 1_000) -> int:
        """Embed the texts that were asked for most since the server began, so that the cache holds them again.

        Returns how many these were.

        Raises:
            NotFound: no model goes by that name.
            Transient, Rejected, Misconfigured: as the model does.
        """
        model = self.named(name)
        found = self.uses.top(model.id, most=most)
        for purpose, texts in found.items():
            await model.embed(texts, purpose=purpose)
        return sum(map(len, found.values()))

    async def close(self) -> None:
        """Write what waits to be kept, and let go of Redis; what belongs to the project, the project closes."""
        for tier in self._far:
            await tier.aclose()
        if self._shared is not None:
            await self._shared.aclose()

    async def _probe(self, model: Model) -> Health:
        facts = {breaker.name: breaker.state.value for breaker in model.breakers}
        known = self._probes.get(model.spec)
        # A breaker that has opened since knows better than the probe, which would hold for as long as that is open.
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
                reason=f"{', '.join(down)} is down, and {answer.provider} answers" if down else "",
                facts=facts,
            )
        health = replace(health, seconds=self._monotonic() - before)
        holds = REMOTE_HOLDS if model.remote and health.state != "unhealthy" else LOCAL_HOLDS
        self._probes[model.spec] = health, self._monotonic() + holds
        return health
