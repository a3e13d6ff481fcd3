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
ChromaWrites = Literal["off", "durable", "committed"]
Coalescing = Literal["off", "local", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingsRequest:
    """A parsed request for embeddings.

    `input` is a text, several texts, one array of token ids or several. `crossing` permits an answer by a fallback
    model of another space.
    """

    model: str
    input: Input
    dimensions: int | None = None
    encoding: Literal["float", "base64"] = "float"
    input_type: Purpose = "document"
    crossing: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingsResult:
    """Embeddings in the order of the input.

    `vectors` is float32 of shape (inputs, dimensions). `model`, `space` (the fingerprint) and `provider` name who
    actually answered. `tokens` is the total of the inputs, cached ones included, and `counts` is the tokens of each;
    `cached` is the number of inputs that came from the cache. `padded` marks vectors filled up with zeros, which must
    not be stored.
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
    """Who sends a request: `key` is the id of the API key, or None where none is needed; empty `models` allows all.

    `background` requests wait for no answer, so that they do not count against the requests per minute.
    """

    key: str | None = None
    name: str = ""
    tier: str = "default"
    admin: bool = False
    models: frozenset[str] = frozenset()
    background: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """What a caller has left of its quota; None where there is no limit.

    Requests are per minute, tokens and embeddings per day; `..._reset` is the seconds until the full quota is available
    again.
    """

    requests: int | None = None
    requests_left: int | None = None
    requests_reset: float = 0.0
    tokens: int | None = None
    tokens_left: int | None = None
    tokens_reset: float = 0.0
    embeddings: int | None = None
    embeddings_left: int | None = None
    embeddings_reset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model that requests name by `id`, `spec` or one of `aliases`; `created` is in Unix seconds."""

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
    """State of one dependency of the server; `seconds` is how long the check took."""

    name: str
    state: HealthState
    reason: str = ""
    seconds: float = 0.0
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CacheStats:
    """Hits and misses of one cache tier for one model.

    `vectors` and `bytes` are the tier's contents over all models, where that is known without a scan.
    """

    model: str
    tier: str
    hits: int
    misses: int
    vectors: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class TierLimits:
    """Limits of each key of a tier: requests per minute, tokens and embeddings per day (UTC); None is unlimited.

    `queued` limits the tokens of its waiting jobs, `stored` the bytes of its files. Its keys may `write` collections if
    the server takes writes at all.
    """

    requests: int | None = None
    tokens: int | None = None
    embeddings: int | None = None
    queued: int | None = None
    stored: int | None = None
    write: bool = False


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The operator's choices for serving, as plain values.

    `models` and the entries of `fallback` are vendor:model; `aliases` maps another name to one of `models`.
    `dimensions` decides what happens to a request for other dimensions than the model's. With `allowlist` "enforce", a
    key that names models is limited to them unless it has the admin scope; with "strict", even then. `token_arrays`
    says whose token ids requests contain, `coalescing` for which models concurrent requests are joined. Pages of
    `origins` may send requests without a key while there are no keys. Writes of Chroma's clients are answered when they
    are durable, or committed too, according to `chroma_writes`. Without `execute_jobs`, a server leaves jobs, batches
    and the files of vector stores to workers.
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
    body_bytes: int = 32 * 2**20
    concurrency: int = 1024
    origins: tuple[str, ...] = ()
    chroma_writes: ChromaWrites = "off"
    priority_seconds: float = 20.0
    execute_jobs: bool = True

    def names(self, *specs: str) -> frozenset[str]:
        """Return the names of the served models, of `specs` and of the aliases: vendor:model, and model alone."""
        named = (*self.models, *specs)
        return frozenset((*named, *(spec.partition(":")[2] or spec for spec in named), *self.aliases))
