"""What serving needs of the project that it serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from flowbed.embedding import Embedder
    from flowbed.embedding.cache.tiers import VectorTier
    from flowbed.ledger import Ledger
    from flowbed.records import SearchResults
    from flowbed.records.serving import Serving
    from flowbed.services.keys import Keys
    from flowbed.storage import Store


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

    async def open_model(self, model: str) -> Embedder:
        """Open the embedder that `model` names as vendor:model, or give the one that is open."""
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
