"""The models that the settings name, each opened once."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from flowbed import settings, telemetry
from flowbed.embedding import Closes, open_embedder
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.embedding.batch_api import BatchApi
    from flowbed.embedding.cache.cached import Cached
    from flowbed.embedding.cache.disk import VectorFile
    from flowbed.embedding.cache.tiers import Forgetful, VectorTier
    from flowbed.embedding.stack import Stack
    from flowbed.records import Space

# The nearest tier of the vector cache: 40,000 vectors of 384 dimensions, kept for a run or for an hour of a server.
MEMORY_BYTES, MEMORY_SECONDS = 64 * 2**20, 3600.0


class Embedders:
    """The models of one project. A server of the project shares their weights, connections and rate limits."""

    def __init__(self, folder: Path, config: settings.Settings, *, hidden: Path) -> None:
        """Open nothing yet; `folder` is the project's, and `hidden` the folder in it that keeps vectors."""
        self._folder, self._config, self._hidden = folder, config, hidden
        self._cached: Cached | None = None
        self._models: dict[str, Embedder] = {}
        self._others: dict[str, Cached] = {}  # by the fingerprint of their space
        self._jobs: tuple[BatchApi | None] | None = None
        self._vectors: VectorFile | None = None
        self._stack: Stack | None = None
        self._opening = threading.Lock()

    @property
    def vector_file(self) -> Path:
        """The tier of the cache that is on disk."""
        return self._hidden / "vectors" / "vectors.db"

    async def close(self) -> None:
        """Close models, connections and files."""
        for model in self._models.values():
            if isinstance(model, Closes):
                await model.aclose()
        if self._jobs is not None and self._jobs[0] is not None:
            await self._jobs[0].aclose()
        if self._vectors is not None:
            await self._vectors.close()
        if self._stack is not None:
            await self._stack.aclose()

    async def live(self) -> Cached:
        """Return the model that collections are searched with, opened if need be."""
        return self._cached if self._cached is not None else await asyncio.to_thread(self.cached)

    async def of(self, space: Space) -> Cached | None:
        """Return the model of a space: the project's or one that it serves, behind its cache; None where none is."""
        if (live := await self.live()).space.fingerprint == space.fingerprint:
            return live
        if space.fingerprint not in self._others:
            for spec in self._config.serve.models:
                try:
                    found = await self.open(spec)
                except Misconfigured as error:  # it may be another one
                    telemetry.log.info("model %s cannot be opened: %s", spec, error)
                    continue
                if found.space.fingerprint == space.fingerprint:
                    cached = self.stack().pipeline({spec: found}, self.shared_tiers())
                    self._others[space.fingerprint] = cached
                    break
        return self._others.get(space.fingerprint)

    def cached(self) -> Cached:
        """Return the model that collections are filled and searched with, behind its cache; blocks.

        Raises:
            Misconfigured: it cannot be opened.
        """
        with self._opening:
            if self._cached is None:
                from flowbed.embedding.cache.memory import VectorMemory

                memory = VectorMemory(limit=MEMORY_BYTES, ttl=MEMORY_SECONDS)
                # Redis comes last: it is what workers on other machines have in common with this one.
                redis = self._shared_stack().redis_tier()
                tiers = [memory, *self._disk_tier(), *([] if redis is None else [redis])]
                self._cached = self._shared_stack().pipeline(self._with_fallbacks(self._config.model), tiers)
            return self._cached

    def jobs(self) -> BatchApi | None:
        """Return the Batch API of the model that collections are filled with; None where it has none. Blocks.

        Raises:
            Misconfigured: it cannot be opened.
        """
        with self._opening:
            if self._jobs is None:
                from flowbed.embedding.vendors import open_jobs

                model = self._config.model
                target, options = settings.provider_options(self._config, model)
                options |= self._config.model_options
                self._jobs = (open_jobs(target, self._open(model), options=options),)
            return self._jobs[0]

    async def open(self, model: str) -> Embedder:
        """Return the embedder that `model` names as vendor:model, bare, opened if need be.

        Raises:
            Misconfigured: it cannot be opened.
        """

        def opened() -> Embedder:
            with self._opening:
                return self._open(model)

        return await asyncio.to_thread(opened)

    def stack(self) -> Stack:
        """Return what builds the wrappers in front of this process's models."""
        with self._opening:
            return self._shared_stack()

    def shared_tiers(self) -> list[VectorTier]:
        """Return the cache tiers that processes share: Redis where it is set, otherwise the file on disk."""
        with self._opening:
            redis = self._shared_stack().redis_tier()
            return self._disk_tier() if redis is None else [redis]

    def forgetful_tiers(self) -> dict[str, Forgetful]:
        """Return the cache tiers from which single vectors can be deleted, by where they are."""
        with self._opening:
            tiers: dict[str, Forgetful] = {}
            if self._disk_tier() and self._vectors is not None:
                tiers[str(self.vector_file)] = self._vectors
            if (redis := self._shared_stack().redis_tier()) is not None:
                tiers["Redis"] = redis
            return tiers

    def _with_fallbacks(self, model: str) -> dict[str, Embedder]:
        """Open a model and its fallbacks of the same space, in order.

        Raises:
            Misconfigured: one cannot be opened; a fallback only where crossing is not set.
        """
        crossing = self._config.serve.crossing
        opened = {model: self._open(model)}
        for name in self._fallbacks(model, id_=opened[model].space.model):
            try:
                opened[name] = self._open(name)
            except Misconfigured as error:
                if not crossing:
                    raise Misconfigured(
                        f"{name}, the fallback of {model}, cannot be opened: {error}; or take it out of"
                        " FLOWBED_FALLBACK, or of fallback in [serve]"
                    ) from error
                telemetry.log.warning("fallback %s of %s is skipped: %s", name, model, error)
        if not crossing:  # the stack then refuses a fallback of another space
            return opened
        # Crossing is for requests only: stored vectors are of one space.
        space = opened[model].space.fingerprint
        return {name: each for name, each in opened.items() if each.space.fingerprint == space}

    def _fallbacks(self, model: str, *, id_: str) -> Sequence[str]:
        """Return the fallbacks of a model, which the settings name as vendor:model, by its own name or by an alias."""
        names = {model, id_}
        names |= {alias for alias, name in self._config.serve.aliases.items() if name in names}
        chains = [chain for name, chain in settings.fallback(self._config).items() if name in names]
        return chains[-1] if chains else ()  # as the server: the last one

    def _account(self, model: str) -> str:
        """Name the account that a model's provider counts requests for, without revealing its key.

        Other projects may share a Redis with this one, and have another provider under the same name.
        """
        from flowbed.embedding.wrappers.buckets import bucket_name

        _, options = settings.provider_options(self._config, model)
        whose = [options.get(each, "") for each in ("api_key", "base_url", "endpoint")]
        return bucket_name(model.partition(":")[0], "\n".join(whose))

    def _open(self, model: str) -> Embedder:
        if model not in self._models:
            target, options = settings.provider_options(self._config, model)
            if model == self._config.model:
                options |= self._config.model_options
            cache = settings.model_cache(self._config, folder=self._folder, hidden=self._hidden)
            self._models[model] = open_embedder(target, cache=cache, options=options)
        return self._models[model]

    def _shared_stack(self) -> Stack:
        if self._stack is None:
            from flowbed.embedding.stack import Stack

            self._stack = Stack(account=self._account, redis=self._config.serve.redis)
        return self._stack

    def _disk_tier(self) -> list[VectorTier]:
        if self._vectors is None and self._config.vector_cache_mb:
            from flowbed.embedding.cache.disk import VectorFile

            limit = self._config.vector_cache_mb * 2**20
            self._vectors = VectorFile(self.vector_file, limit=limit, clock=time.time)
        return [] if self._vectors is None else [self._vectors]
