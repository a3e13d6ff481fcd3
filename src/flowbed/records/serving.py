"""Records of serving: requests for embeddings and their results, callers, quotas, health, and the serving settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.records import Purpose

Input = str | list[str] | list[int] | list[list[int]]
HealthState = Literal["ok", "degraded", "unhealthy"]
DimensionPolicy = Literal["reduce", "pad", "ignore", "error"]
Allowlist = Literal["off", "enforce", "strict"]
TokenArrays = Literal["cl100k", "model"]
Coalescing = Literal["off", "local", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingsRequest:
    """One request for embeddings, parsed and not yet judged.

    `input` is a text, texts, one array of token ids or several. `crossing` is the request's own leave to be answered by
    a model of another space.
    """

    model: str
    input: Input
    dimensions: int | None = None
    encoding: Literal["float", "base64"] = "float"
    input_type: Purpose = "document"
    crossing: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingsResult:
    """One answer, in the order of the input.

    `vectors` is float32 of shape (inputs, dimensions). `model`, `space` (the fingerprint) and `provider` are those that
    really answered. `tokens` counts every input, those from the cache too, and `counts` each of them; `cached` says how
    many inputs came from there. `padded` marks vectors that were filled up with zeros, which nobody may store.
    """

    vectors: NDArray[np.float32]
    model: str
    space: str
    provider: str
    tokens: int
    cached: int = 0
    padded: bool = False
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Whoever asks: the id of the key, or None where no key is needed; no `models` means all of them.

    Who is `unhurried` waits for no answer, so that its requests have no place among those of a minute.
    """

    key: str | None = None
    name: str = ""
    tier: str = "default"
    admin: bool = False
    models: frozenset[str] = frozenset()
    unhurried: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """What a caller may still ask for; None where there is no limit.

    Requests are per minute, tokens per day; resets are seconds until all of it is there again.
    """

    requests: int | None = None
    requests_left: int | None = None
    requests_reset: float = 0.0
    tokens: int | None = None
    tokens_left: int | None = None
    tokens_reset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One model that requests may name by `id`, `spec` or one of `aliases`; `created` is Unix seconds."""

    id: str
    provider: str
    dimensions: int
    space: str
    created: int
    spec: str = ""
    aliases: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Health:
    """How one thing that answers depend on is; `seconds` is how long finding out took."""

    name: str
    state: HealthState
    reason: str = ""
    seconds: float = 0.0
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CacheStats:
    """How often one tier of the cache was asked for vectors of a model, and had them or not.

    `vectors` and `bytes` are what it holds of all models, where that is known without looking.
    """

    model: str
    tier: str
    hits: int
    misses: int
    vectors: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class TierLimits:
    """What each key of a tier may use: requests per minute and tokens per day (UTC); None is without limit.

    `queued` is how many tokens its jobs may have waiting, `stored` how many bytes its files may have together.
    """

    requests: int | None = None
    tokens: int | None = None
    queued: int | None = None
    stored: int | None = None


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What the operator has settled about serving, as plain values.

    `models` and the entries of `fallback` are written as vendor:model; `aliases` leads from another name to one of
    `models`. `dimensions` says what becomes of a request for other dimensions than a model has. Where the `allowlist`
    is enforced, a key that names models may use no others, unless it has the admin scope; where it is strict, not even
    then. `token_arrays` says whose token ids requests send, `coalescing` for which models requests at once are joined.
    """

    models: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    fallback: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    crossing: bool = False
    dimensions: DimensionPolicy = "error"
    allowlist: Allowlist = "enforce"
    token_arrays: TokenArrays = "cl100k"  # noqa: S105 - tokens of text
    coalescing: Coalescing = "local"
    tiers: Mapping[str, TierLimits] = field(default_factory=dict)
    cache_bytes: int = 256 * 2**20
    cache_seconds: float = 3600.0
    redis: str = ""
    body_bytes: int = 32 * 2**20
    concurrency: int = 1024
