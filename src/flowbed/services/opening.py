"""Opening the models that are served: the wrappers of each provider, and the providers of each model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.embedding import Rated
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.wrappers.breaker import Breaker, Guarded
from flowbed.embedding.wrappers.coalesced import Coalesced
from flowbed.embedding.wrappers.fallback import Fallback
from flowbed.embedding.wrappers.limits import Limited
from flowbed.errors import Misconfigured
from flowbed.services.served_model import Model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.embedding import Embedder
    from flowbed.embedding.cache.tiers import VectorTier
    from flowbed.embedding.wrappers.limits import Buckets
    from flowbed.records.serving import Serving
    from flowbed.services.project import Project

# Seconds that a request waits for room under a provider's rate limit, before its client is told to come again: clients
# give up after 60 s and more, and what waits here takes a place that others could have.
PATIENCE = 20.0
# Joined calls to a provider that are under way at once: enough that the time an answer takes is no limit.
REMOTE_AT_ONCE = 16


class Opening:
    """What is needed to open models, each once."""

    def __init__(
        self, bed: Project, serving: Serving, *, tiers: Sequence[VectorTier], buckets: Buckets
    ) -> None:
        """Take the project whose models they are, the tiers of their cache, and where rate limits are kept."""
        self._bed, self._serving, self._tiers, self._buckets = bed, serving, tiers, buckets
        self._created = bed.clock() // 1_000_000

    async def models(self) -> list[Model]:
        """Open every model that is served, then join those that stand in for others."""
        opened = {spec: await self._open(spec) for spec in dict.fromkeys(self._serving.models)}
        spec_of = {each.space.model: spec for spec, each in reversed(opened.items())}
        spec_of |= {spec: spec for spec in opened}
        aliases: dict[str, list[str]] = {spec: [] for spec in opened}
        for alias, name in self._serving.aliases.items():
            if name not in spec_of or alias in spec_of:
                raise Misconfigured(
                    f"alias {alias!r} leads to {name!r}: an alias is a name of its own, and leads to one of the models"
                    f" that are served ({', '.join(spec_of)})"
                )
            aliases[spec_of[name]].append(alias)
        names = {**spec_of, **{alias: spec_of[name] for alias, name in self._serving.aliases.items()}}
        chains: Mapping[str, tuple[str, ...]] = {
            names[name]: chain for name, chain in self._serving.fallback.items() if name in names
        }
        if unknown := set(self._serving.fallback) - set(names):
            raise Misconfigured(
                f"there is a fallback for {', '.join(sorted(unknown))}, which is not served: add it to models"
            )
        return [await self._model(spec, chains.get(spec, ()), aliases[spec]) for spec in opened]

    async def _model(self, spec: str, chain: Sequence[str], aliases: Sequence[str]) -> Model:
        first = await self._open(spec)
        same, across = [spec], []
        for each in dict.fromkeys(chain):
            if each == spec:  # as chains of older servers have it, which begin with who is asked first
                continue
            other = await self._open(each)
            if other.space.fingerprint == first.space.fingerprint:
                same.append(each)
            elif self._serving.crossing:
                across.append(await self._model(each, (), ()))
            else:
                raise Misconfigured(
                    f"{each} cannot stand in for {spec}: its vectors are of another space ({other.space.space8}, not"
                    f" {first.space.space8}). Name a provider of the same model, or set crossing = true in [serve] for"
                    " requests that ask for it"
                )
        breakers = [Breaker(each) for each in same]
        providers = [self._provider(each, await self._open(each.name)) for each in breakers]
        source = Fallback(providers, names=same)
        return Model(
            spec=spec,
            embedder=Cached(source, self._tiers, counts=True),
            source=source,
            first=first,
            breakers=tuple(breakers),
            remote=isinstance(first, Rated),
            created=self._created,
            aliases=tuple(aliases),
            fallback=tuple(chain),
            across=tuple(across),
        )

    async def _open(self, spec: str) -> Embedder:
        return await self._bed.open_model(spec)

    def _provider(self, breaker: Breaker, embedder: Embedder) -> Embedder:
        """Put rate limit, breaker and coalescing in front of a provider.

        Coalescing is outermost: a joined call counts once with the breaker, however many wait for it.
        """
        remote = isinstance(embedder, Rated)
        if isinstance(embedder, Rated):
            account = self._bed.account(breaker.name)
            embedder = Limited(embedder, embedder.rates, self._buckets, name=account, patience=PATIENCE)
        guarded = Guarded(embedder, breaker)
        if self._serving.coalescing == "off" or (remote and self._serving.coalescing == "local"):
            return guarded
        return Coalesced(guarded, at_once=REMOTE_AT_ONCE) if remote else Coalesced(guarded, apart=True)
