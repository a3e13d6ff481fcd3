"""The models that the settings name, opened once each: within their providers' limits, and behind the vector cache."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from flowbed import settings, telemetry
from flowbed.embedding import Closes, Rated, open_embedder
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.disk import VectorFile
from flowbed.embedding.cache.memory import VectorMemory
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.embedding.batch_api import BatchApi
    from flowbed.embedding.cache.tiers import VectorTier
    from flowbed.embedding.wrappers.limits import Buckets

# The nearest tier of the vector cache: 40,000 vectors of 384 dimensions, for as long as a run or a server's hour lasts.
MEMORY_BYTES, MEMORY_SECONDS = 64 * 2**20, 3600.0


class Embedders:
    """The models of one project; whoever serves them beside the pipeline shares their weights and connections."""

    def __init__(self, folder: Path, config: settings.Settings) -> None:
        """Open nothing yet; `folder` is where models and vectors are kept."""
        self._folder, self._config = folder, config
        self._cached: Cached | None = None
        self._models: dict[str, Embedder] = {}
        self._jobs: tuple[BatchApi | None] | None = None
        self._vectors: VectorFile | None = None
        self._leave_redis: Callable[[], Awaitable[None]] | None = None
        self._opening = threading.Lock()

    @property
    def vector_file(self) -> Path:
        """The tier of the cache that lies on disk."""
        return self._folder / "vectors" / "vectors.db"

    async def close(self) -> None:
        """Let go of models, connections and files."""
        for model in self._models.values():
            if isinstance(model, Closes):
                await model.aclose()
        if self._jobs is not None and self._jobs[0] is not None:
            await self._jobs[0].aclose()
        if self._vectors is not None:
            await self._vectors.close()
        if self._leave_redis is not None:
            await self._leave_redis()

    async def live(self) -> Cached:
        """Open the model that collections are searched with, or give it where it is open."""
        return self._cached if self._cached is not None else await asyncio.to_thread(self.cached)

    def cached(self) -> Cached:
        """Open the model that collections are filled and searched with, behind its cache; blocks.

        Raises:
            Misconfigured: it cannot be opened.
        """
        with self._opening:
            if self._cached is None:
                near = VectorMemory(limit=MEMORY_BYTES, ttl=MEMORY_SECONDS)
                self._cached = Cached(self._chain(self._config.model), [near, *self._far_tiers()])
            return self._cached

    def jobs(self) -> BatchApi | None:
        """Open the Batch API of the model that collections are filled with; None where it has none. Blocks.

        Raises:
            Misconfigured: it cannot be opened.
        """
        with self._opening:
            if self._jobs is None:
                from flowbed.embedding.batch_api import open_jobs

                model = self._config.model
                target, options = settings.provider_options(self._config, model)
                options |= self._config.model_options
                self._jobs = (open_jobs(target, self._open(model), options=options),)
            return self._jobs[0]

    async def open(self, model: str) -> Embedder:
        """Open the embedder that `model` names as vendor:model, without a cache, or give the one that is open.

        Raises:
            Misconfigured: it cannot be opened.
        """

        def opened() -> Embedder:
            with self._opening:
                return self._open(model)

        return await asyncio.to_thread(opened)

    def account(self, model: str) -> str:
        """Name the account that a model's provider counts requests for, without giving its key away."""
        from flowbed.embedding.wrappers.limits import bucket_name

        _, options = settings.provider_options(self._config, model)
        return bucket_name(model.partition(":")[0], options.get("api_key", ""))

    def tiers(self) -> list[VectorTier]:
        """Give the tiers of the vector cache that processes share."""
        with self._opening:
            return self._far_tiers()

    def _chain(self, model: str) -> Embedder:
        """Open a model within its provider's limits, and those of the same space that stand in for it."""
        crossing = self._config.serve.crossing
        opened = {model: self._open(model), **self._stand_ins(model, crossing=crossing)}
        if crossing:  # which is for requests alone: what is stored is of one space
            space = opened[model].space.fingerprint
            opened = {name: each for name, each in opened.items() if each.space.fingerprint == space}
        if not any(isinstance(each, Rated) for each in opened.values()):
            return opened[model]
        # What stands before providers is loaded for providers alone: a search with a local model is to begin at once.
        from flowbed.embedding.wrappers.breaker import Breaker, Guarded
        from flowbed.embedding.wrappers.fallback import Fallback
        from flowbed.embedding.wrappers.limits import Limited

        buckets = self._buckets(self._config.serve.redis)
        limited = {
            name: Limited(each, each.rates, buckets, name=self.account(name))
            if isinstance(each, Rated)
            else each
            for name, each in opened.items()
        }
        if len(limited) == 1:
            return limited[model]
        return Fallback([Guarded(each, Breaker(name)) for name, each in limited.items()], names=list(limited))

    def _stand_ins(self, model: str, *, crossing: bool) -> dict[str, Embedder]:
        """Open the models that stand in for one; with crossing, which others may be there for, as far as they can be.

        Raises:
            Misconfigured: one cannot be opened, and crossing is not set.
        """
        opened: dict[str, Embedder] = {}
        for name in settings.fallback(self._config).get(model, ()):
            try:
                opened[name] = self._open(name)
            except Misconfigured as error:
                if not crossing:
                    raise Misconfigured(
                        f"{name}, the fallback of {model}, cannot be opened: {error}; or take it out of"
                        " FLOWBED_FALLBACK, or of fallback in [serve]"
                    ) from error
                telemetry.log.warning("%s stands in for %s nowhere: %s", name, model, error)
        return opened

    def _buckets(self, redis: str) -> Buckets:
        """Keep the room under rate limits where all processes see it, if there is such a place."""
        from flowbed.embedding.wrappers.limits import BURST, MemoryBuckets, SharedBuckets

        if not redis:
            return MemoryBuckets()
        from flowbed.embedding.cache.redis import RedisBuckets, open_redis

        client = open_redis(redis)
        self._leave_redis = client.aclose
        return SharedBuckets(RedisBuckets(client, burst=BURST), MemoryBuckets())

    def _open(self, model: str) -> Embedder:
        if model not in self._models:
            target, options = settings.provider_options(self._config, model)
            if model == self._config.model:
                options |= self._config.model_options
            self._models[model] = open_embedder(target, cache=self._folder / "models", options=options)
        return self._models[model]

    def _far_tiers(self) -> list[VectorTier]:
        if self._vectors is None and self._config.vector_cache_mb:
            self._vectors = VectorFile(
                self.vector_file, limit=self._config.vector_cache_mb * 2**20, clock=time.time
            )
        return [] if self._vectors is None else [self._vectors]
