"""What is served, and how: `[serve]`, and the variables of the same meaning that older servers read."""

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
SWITCHED_ON = ("true", "1", "yes", "on")
SWITCHES = (*SWITCHED_ON, "false", "0", "no", "off")


def serving(config: Settings) -> Serving:
    """Say what is served and how, by `[serve]` and the variables of the same meaning that older servers read.

    Raises:
        Misconfigured: one of these variables cannot be used.
    """
    from flowbed.records.serving import DimensionPolicy, Serving, TierLimits  # a search has no use for them

    said = config.serve
    models = tuple(said.models) or (config.model,)
    return Serving(
        models=models,
        aliases=said.aliases,
        fallback=fallback(config),
        crossing=said.crossing,
        dimensions=said.dimensions
        or _older("EMBEDDINGS_DIMENSION_POLICY", get_args(DimensionPolicy))
        or "error",
        allowlist=said.allowlist or _older_allowlist(),
        token_arrays=said.token_arrays,
        coalescing=said.coalescing,
        tiers={
            name: TierLimits(
                requests=tier.requests_per_minute,
                tokens=tier.tokens_per_day,
                queued=tier.queued_tokens,
                stored=None if tier.stored_mb is None else tier.stored_mb * 2**20,
            )
            for name, tier in said.tiers.items()
        },
        cache_bytes=said.cache_mb * 2**20,
        cache_seconds=said.cache_seconds,
        redis=said.redis,
        body_bytes=said.body_mb * 2**20,
        concurrency=said.concurrency,
    )


def fallback(config: Settings) -> dict[str, tuple[str, ...]]:
    """Say which models stand in for which, in order: by `FLOWBED_FALLBACK`, as older servers have it, or `[serve]`.

    Either variable is a list, whose first is what the others stand in for, or a JSON object of such lists. Older
    servers lead from one vendor to others.

    Raises:
        Misconfigured: a variable cannot be used.
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
    from pydantic import Field, TypeAdapter, ValidationError  # slow, and rarely asked for

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
            f"{name}={text} cannot be used; write vendor:model,vendor:model or a JSON object of lists of them"
        ) from error


def _older_model(said: str, model: str) -> str:
    """Write what an older chain says as vendor:model: a vendor alone offers the model of the same name."""
    if ":" in said:
        return said
    return f"{'compatible' if said == 'local_api' else said}:{model.partition(':')[2]}"


def _older_allowlist() -> Allowlist:
    if _older("EMBEDDINGS_ENFORCE_POLICY_STRICT", SWITCHES) in SWITCHED_ON:
        return "strict"
    enforced = _older("EMBEDDINGS_ENFORCE_POLICY", SWITCHES)
    return "enforce" if enforced is None or enforced in SWITCHED_ON else "off"


def _older(name: str, values: Sequence[str]) -> Any:  # one of `values`, or None
    """Read a variable that older servers have, where it is set."""
    value = os.environ.get(name, "").strip().lower()
    if value and value not in values:
        raise Misconfigured(f"{name}={value} cannot be used; write one of: {', '.join(values)}")
    return value or None
