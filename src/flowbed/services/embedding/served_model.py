"""One served model, and who may use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.errors import Forbidden
from flowbed.records.serving import ModelInfo

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from flowbed.embedding import Embedder
    from flowbed.embedding.cache.cached import Cached
    from flowbed.embedding.wrappers.breaker import Breaker
    from flowbed.embedding.wrappers.fallback import Fallback
    from flowbed.records import Embedded, Purpose, Space
    from flowbed.records.serving import Caller, Serving


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One served model.

    `embedder` answers from the cache, then from `source`: the preferred provider or a fallback of the same space.
    `first` is the preferred provider without wrappers. `across` are fallbacks of other spaces, for requests that allow
    crossing.
    """

    spec: str
    embedder: Cached
    source: Fallback
    first: Embedder
    breakers: tuple[Breaker, ...]
    remote: bool
    created: int
    aliases: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    across: tuple[ServedModel, ...] = ()
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Collect the names that requests and allowlists may use."""
        object.__setattr__(self, "names", frozenset((self.id, self.spec, *self.aliases)))

    @property
    def id(self) -> str:
        """The model's name in responses."""
        return self.embedder.space.model

    @property
    def provider(self) -> str:
        """The vendor of the preferred provider."""
        return vendor_of(self.spec)

    @property
    def space(self) -> Space:
        """The space of its vectors."""
        return self.embedder.space

    def served(self) -> ModelInfo:
        """Describe the model."""
        return ModelInfo(
            id=self.id,
            provider=self.provider,
            dimensions=self.space.dimensions,
            space=self.space.fingerprint,
            created=self.created,
            spec=self.spec,
            aliases=self.aliases,
            fallback=self.fallback,
        )

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none, in the model's own space; the result names the `provider` that answered.

        Raises:
            Transient, Rejected, Misconfigured: as the embedder does.
        """
        return await self.embedder.embed(texts, purpose=purpose)


def vendor_of(spec: str) -> str:
    """Return the vendor of vendor:model."""
    return spec.partition(":")[0]


def allow(model: str, names: Collection[str], caller: Caller, serving: Serving) -> None:
    """Require that a caller may use the model of these names: its key lists one of them, or lists no models.

    Raises:
        Forbidden: it may not.
    """
    if not is_allowed(names, caller, serving):
        raise Forbidden(
            f"Key `{caller.name}` does not have access to model `{model}`; it has access to:"
            f" {', '.join(sorted(caller.models))}",
            param="model",
            code="model_not_found",
        )


def is_allowed(names: Collection[str], caller: Caller, serving: Serving) -> bool:
    """Return whether a caller may use the model of these names."""
    if not caller.models or serving.allowlist == "off" or not caller.models.isdisjoint(names):
        return True
    return caller.admin and serving.allowlist != "strict"
