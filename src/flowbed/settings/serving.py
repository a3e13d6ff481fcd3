"""Settings of the server: `[serve]`, and the variables of the same meaning that older servers read."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Annotated, Any, get_args

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.records.serving import Allowlist, Serving
    from flowbed.settings.project import Settings

OLDER_FALLBACK = "EMBEDDINGS_FALLBACK_CHAIN"
# Embeddings a day of the tiers that there are without settings; a table of the same name may say otherwise.
EMBEDDINGS = {"free": 1_000, "premium": 10_000}
SWITCHED_ON = ("true", "1", "yes", "on")
SWITCHES = (*SWITCHED_ON, "false", "0", "no", "off")


def serving(config: Settings) -> Serving:
    """Return what is served and how, from `[serve]` and the equivalent variables of older servers.

    Raises:
        Misconfigured: one of these variables is invalid.
    """
    from flowbed.records.serving import DimensionPolicy, Serving, TierLimits  # a search needs none of them
    from flowbed.settings.project import TierSettings

    serve = config.serve
    models = tuple(serve.models) or (config.model,)
    return Serving(
        models=models,
        aliases=serve.aliases,
        fallback=fallback(config),
        crossing=serve.crossing,
        dimensions=serve.dimensions
        or _older("EMBEDDINGS_DIMENSION_POLICY", get_args(DimensionPolicy))
        or "error",
        allowlist=serve.allowlist or _older_allowlist(),
        token_arrays=serve.token_arrays,
        coalescing=serve.coalescing,
        tiers={
            name: TierLimits(
                requests=tier.requests_per_minute,
                tokens=tier.tokens_per_day,
                embeddings=EMBEDDINGS.get(name)
                if tier.embeddings_per_day is None
                else tier.embeddings_per_day,
                queued=tier.queued_tokens,
                write=tier.write,
                stored=None if tier.stored_mb is None else tier.stored_mb * 2**20,
            )
            for name, tier in {**dict.fromkeys(EMBEDDINGS, TierSettings()), **serve.tiers}.items()
        },
        cache_bytes=serve.cache_mb * 2**20,
        cache_seconds=serve.cache_seconds,
        body_bytes=serve.body_mb * 2**20,
        concurrency=serve.concurrency,
        origins=tuple(origin.lower().rstrip("/") for origin in serve.origins),
        chroma_writes=serve.chroma_writes,
        priority_seconds=serve.priority_seconds,
        execute_jobs=serve.execute_jobs,
    )


def fallback(config: Settings) -> dict[str, tuple[str, ...]]:
    """Return the fallback models of each model, in order: from `FLOWBED_FALLBACK`, its older name, or `[serve]`.

    Either variable is a list, of a model followed by its fallbacks, or a JSON object of fallbacks by model. The older
    variable may name vendors only.

    Raises:
        Misconfigured: a variable is invalid.
    """
    name = next((each for each in ("FLOWBED_FALLBACK", OLDER_FALLBACK) if os.environ.get(each)), None)
    chains = {} if name is None else _chains(name, os.environ[name])
    if name == OLDER_FALLBACK:
        chains = {
            model: tuple(_older_model(each, model) for each in chain)
            for model in config.serve.models or (config.model,)
            for key, chain in chains.items()
            if key in (model, model.partition(":")[0])
        }
    return chains or {model: tuple(chain) for model, chain in config.serve.fallback.items()}


def _chains(name: str, text: str) -> dict[str, tuple[str, ...]]:
    from pydantic import Field, TypeAdapter, ValidationError  # slow to load

    model = Annotated[str, Field(pattern="^[^{}]+$")]
    chains: TypeAdapter[dict[str, tuple[str, ...]]] = TypeAdapter(dict[model, tuple[model, ...]])
    first, *others = [each.strip() for each in text.split(",")]
    found: Any = {first: others}
    if text.lstrip().startswith("{"):
        with contextlib.suppress(ValueError):
            found = json.loads(text)
    try:
        return chains.validate_python(found)
    except ValidationError as error:
        raise Misconfigured(
            f"invalid {name}={text}: write a model and its fallbacks as vendor:model,vendor:model, or JSON such as"
            ' {"vendor:model": ["vendor:model"]}'
        ) from error


def _older_model(entry: str, model: str) -> str:
    """Write an entry of an older chain as vendor:model; a vendor alone means its model of the same name."""
    if ":" in entry:
        return entry
    return f"{'compatible' if entry == 'local_api' else entry}:{model.partition(':')[2]}"


def _older_allowlist() -> Allowlist:
    if _older("EMBEDDINGS_ENFORCE_POLICY_STRICT", SWITCHES) in SWITCHED_ON:
        return "strict"
    enforced = _older("EMBEDDINGS_ENFORCE_POLICY", SWITCHES)
    return "enforce" if enforced is None or enforced in SWITCHED_ON else "off"


def _older(name: str, values: Sequence[str]) -> Any:
    """Return the value of an older server's variable, in lower case, or None where it is not set."""
    value = os.environ.get(name, "").strip().lower()
    if value and value not in values:
        raise Misconfigured(f"invalid {name}={value}: write one of {', '.join(values)}")
    return value or None
