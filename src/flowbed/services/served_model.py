"""One model that is served, and who may use it."""

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
class Model:
    """One model that is served.

    `embedder` answers from the cache and then from `source`, whatever provider of its space that is; `first` is the
    first of them, bare. `across` are the models of other spaces that may stand in for it where a request says so.
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
    across: tuple[Model, ...] = ()
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Gather the names that requests and allowlists may use."""
        object.__setattr__(self, "names", frozenset((self.id, self.spec, *self.aliases)))

    @property
    def id(self) -> str:
        """The model's own name, as answers have it."""
        return self.embedder.space.model

    @property
    def provider(self) -> str:
        """The vendor that is asked first."""
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
        """Embed every text or none, in the model's own space; `provider` of the answer names whose model did.

        Raises:
            Transient, Rejected, Misconfigured: as the embedder does.
        """
        return await self.embedder.embed(texts, purpose=purpose)


def vendor_of(spec: str) -> str:
    """Tell the vendor of vendor:model."""
    return spec.partition(":")[0]


def allow(model: str, names: Collection[str], caller: Caller, serving: Serving) -> None:
    """Let a caller use the model that goes by these names: one that its key names, or any where the key names none.

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
    """Tell whether a caller may use the model that goes by these names."""
    if not caller.models or serving.allowlist == "off" or not caller.models.isdisjoint(names):
        return True
    return caller.admin and serving.allowlist != "strict"
