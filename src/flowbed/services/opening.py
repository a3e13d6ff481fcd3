"""Opens the models that are served, with their aliases and fallbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.embedding import Rated
from flowbed.errors import Misconfigured
from flowbed.services.embedding.served_model import ServedModel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.embedding.cache.tiers import VectorTier
    from flowbed.records.serving import Serving
    from flowbed.services.project import Project


async def open_models(bed: Project, serving: Serving, tiers: Sequence[VectorTier]) -> list[ServedModel]:
    """Open every model that is served, in the order of the settings; all share the cache `tiers`.

    Raises:
        Misconfigured: a model, an alias or a fallback cannot be used.
    """
    opened = {spec: await bed.open_model(spec) for spec in dict.fromkeys(serving.models)}
    spec_of = {each.space.model: spec for spec, each in reversed(opened.items())}
    spec_of |= {spec: spec for spec in opened}
    aliases: dict[str, list[str]] = {spec: [] for spec in opened}
    for alias, name in serving.aliases.items():
        if name not in spec_of or alias in spec_of:
            raise Misconfigured(
                f"alias {alias!r} of {name!r} cannot be used: an alias is a new name for one of the served models"
                f" ({', '.join(spec_of)})"
            )
        aliases[spec_of[name]].append(alias)
    names = {**spec_of, **{alias: spec_of[name] for alias, name in serving.aliases.items()}}
    fallbacks: Mapping[str, tuple[str, ...]] = {
        names[name]: chain for name, chain in serving.fallback.items() if name in names
    }
    if unknown := set(serving.fallback) - set(names):
        raise Misconfigured(
            f"there is a fallback for {', '.join(sorted(unknown))}, which is not served: add it to models"
        )
    return [
        await _open_model(bed, serving, tiers, spec, fallbacks.get(spec, ()), aliases[spec])
        for spec in opened
    ]


async def _open_model(
    bed: Project,
    serving: Serving,
    tiers: Sequence[VectorTier],
    spec: str,
    fallback: Sequence[str],
    aliases: Sequence[str],
) -> ServedModel:
    first = await bed.open_model(spec)
    same_space, other_spaces = {spec: first}, []
    for name in dict.fromkeys(fallback):
        if name == spec:  # chains of older servers begin with the model itself
            continue
        other = await bed.open_model(name)
        if other.space.fingerprint == first.space.fingerprint:
            same_space[name] = other
        elif serving.crossing:
            other_spaces.append(await _open_model(bed, serving, tiers, name, (), ()))
        else:
            raise Misconfigured(
                f"{name} cannot be a fallback of {spec}: its vectors are of another space ({other.space.space8}, not"
                f" {first.space.space8}). Name a provider of the same model, or set crossing = true in [serve] for"
                " requests that ask for it"
            )
    stack = bed.embedder_stack().served(same_space, tiers, coalescing=serving.coalescing)
    return ServedModel(
        spec=spec,
        embedder=stack.embedder,
        source=stack.source,
        first=first,
        breakers=stack.breakers,
        remote=isinstance(first, Rated),
        created=bed.clock() // 1_000_000,
        aliases=tuple(aliases),
        fallback=tuple(fallback),
        across=tuple(other_spaces),
    )
