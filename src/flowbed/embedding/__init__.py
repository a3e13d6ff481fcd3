"""Texts to vectors: one protocol, one module for each vendor, wrappers that add behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from flowbed.embedding.vendors import open_embedder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.records import Embedded, Purpose, Space


__all__ = ["Bills", "Closes", "Embedder", "Rated", "Rates", "open_embedder"]


class Embedder(Protocol):
    """Texts to vectors of one space.

    `items` is the largest number of texts one call may carry, `tokens` about how many tokens it should; `price` is US
    dollars per million tokens.
    """

    space: Space
    items: int
    tokens: int
    price: float

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none.

        Raises:
            Transient: the same call may succeed later.
            Rejected: a text will never be accepted; `inputs` says which, where the vendor does.
            Misconfigured: no call can succeed until a setting changes.
        """
        ...

    def count(self, text: str) -> int:
        """Count the tokens of `text` as the model's own tokenizer does, without special tokens."""
        ...


@runtime_checkable
class Bills(Protocol):
    """An embedder that bills a text with other than its own tokens: with a prompt, or without what it cuts off."""

    def bill(self, text: str, tokens: int) -> int:
        """Tell the tokens that embedding `text` as a document is billed with; `tokens` is what `count` says of it."""
        ...


@runtime_checkable
class Closes(Protocol):
    """An embedder that holds connections or processes, and lets go of them when it is asked to."""

    async def aclose(self) -> None:
        """Let go of them; nothing is embedded after that."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a provider lets one key do in a minute; None is not known, so not kept to.

    An embedder of a provider says so in `rates`, and in `matryoshka` whether its vectors may be cut shorter.
    """

    requests: int | None = None
    inputs: int | None = None
    tokens: int | None = None


@runtime_checkable
class Rated(Embedder, Protocol):
    """An embedder of a provider elsewhere, which says how much it does in a minute; what runs here does not."""

    rates: Rates
