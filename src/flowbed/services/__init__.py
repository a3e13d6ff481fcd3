"""What a server offers beyond the pipeline: models by name, API keys, quotas, files and jobs, the story of a request.

Nothing here knows of HTTP: `server` turns requests into `EmbeddingsRequest`, answers into bytes, and errors into status codes.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.embedding import Embedder
    from flowbed.embedding.cache.tiers import VectorTier
    from flowbed.ledger import Ledger
    from flowbed.records import Purpose, SearchResults
    from flowbed.services.batches.jobs import Jobs
    from flowbed.services.embeddings import Embeddings
    from flowbed.services.files import Files
    from flowbed.services.keys import Keys
    from flowbed.services.models import Models
    from flowbed.services.quotas import Quotas
    from flowbed.services.search import Search
    from flowbed.storage import Store

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
    model_processes: int = 0
    body_bytes: int = 32 * 2**20
    concurrency: int = 1024


class Project(Protocol):
    """What serving needs of the project that is served; `flowbed.bed.Flowbed` is one."""

    def keys(self) -> Keys:
        """Give what tells whom a secret belongs to."""
        ...

    def clock(self) -> int:
        """Tell the time in microseconds since 1970."""
        ...

    def secret(self) -> str:
        """Make 32 random bytes, as 43 characters of URL-safe base64."""
        ...

    @property
    def model(self) -> str:
        """The model that collections are searched with, as vendor:model."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Where keys, quotas, files and jobs are kept."""
        ...

    @property
    def store(self) -> Store:
        """Where the bytes of files are kept."""
        ...

    def worker(self) -> str:
        """Name a piece of this process's work, so that others can tell whether it lives."""
        ...

    def dead(self, name: str) -> bool:
        """Tell whether the process that `worker` named is known to have ended."""
        ...

    @property
    def serving(self) -> Serving:
        """What the operator has settled."""
        ...

    async def open_model(self, model: str, *, processes: int = 0) -> Embedder:
        """Open the embedder that `model` names as vendor:model, or give the one that is open.

        With `processes`, a model that runs here does so in as many of its own.
        """
        ...

    def account(self, model: str) -> str:
        """Name the account that a model's provider counts requests for, without giving its key away."""
        ...

    def vector_tiers(self) -> Sequence[VectorTier]:
        """Give the tiers of the vector cache that this process shares with others."""
        ...

    @property
    def find(self) -> Callable[..., Awaitable[SearchResults]]:
        """Find what is nearest to a text or a vector; takes what `Flowbed.find` takes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Service:
    """Everything that a server needs, opened and joined."""

    bed: Project
    serving: Serving
    embeddings: Embeddings
    files: Files
    jobs: Jobs
    keys: Keys
    models: Models
    quotas: Quotas
    search: Search

    async def ready(self) -> list[Health]:
        """Ask everything that answers depend on how it is: each model embeds a real token, the ledger is read."""
        return [*await self.models.ready(), await self.keys.health()]


@asynccontextmanager
async def open_service(bed: Project) -> AsyncIterator[Service]:
    """Open what the project's settings name, and close it in the end: what was counted is then in the ledger.

    Raises:
        Misconfigured: a model, an alias or a fallback cannot be used; the message names it.
        Transient: the ledger cannot be reached.
    """
    from flowbed.services.batches.jobs import Jobs
    from flowbed.services.embeddings import Embeddings  # settings load this module, and no numpy
    from flowbed.services.files import Files
    from flowbed.services.models import Models
    from flowbed.services.quotas import Quotas
    from flowbed.services.search import Search

    serving = bed.serving
    models = await Models.open(bed, serving)
    files = Files(bed.store, bed.ledger.files, clock=bed.clock, secret=bed.secret)
    async with Quotas(bed.ledger, tiers=serving.tiers, clock=bed.clock) as quotas:
        try:
            yield Service(
                bed=bed,
                serving=serving,
                embeddings=Embeddings(models, quotas, serving),
                files=files,
                jobs=Jobs(bed.ledger.jobs, files, clock=bed.clock, secret=bed.secret),
                keys=bed.keys(),
                models=models,
                quotas=quotas,
                search=Search(bed, models, quotas, serving),
            )
        finally:
            await models.close()
