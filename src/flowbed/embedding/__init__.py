"""Turns texts into vectors: one protocol, one module per vendor, and wrappers that add behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from flowbed.embedding.vendors import open_embedder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.records import Embedded, Purpose, Reading, Space


__all__ = ["Bills", "Closes", "Embedder", "Rated", "Rates", "Reads", "open_embedder"]


class Embedder(Protocol):
    """Turns texts into vectors of one space.

    A call may have at most `items` texts and should have about `tokens` tokens; `price` is US dollars per million
    tokens.
    """

    space: Space
    items: int
    tokens: int
    price: float

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none.

        Raises:
            Transient: the same call may succeed later.
            Rejected: a text will never be accepted; `inputs` are the positions of such texts, if the vendor names them.
            Misconfigured: no call can succeed until a setting changes.
        """
        ...

    def count(self, text: str) -> int:
        """Count the tokens of `text` as the model's own tokenizer does, without special tokens."""
        ...


@runtime_checkable
class Bills(Protocol):
    """An embedder that bills more or fewer tokens than a text has: with a prompt, or without what is cut off."""

    def bill(self, text: str, tokens: int) -> int:
        """Return the tokens billed for embedding `text` as a document; `tokens` is its `count`."""
        ...


@runtime_checkable
class Reads(Protocol):
    """An embedder whose tokenizer does not know every character."""

    def read(self, text: str) -> Reading:
        """Break the words of `text` that would be lost as a whole, and count what is lost all the same."""
        ...


@runtime_checkable
class Closes(Protocol):
    """An embedder that has connections or processes to close."""

    async def aclose(self) -> None:
        """Close them; nothing can be embedded afterwards."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a provider allows one key per minute; None is unknown, and not enforced.

    An embedder of a provider has it as `rates`, and says in `matryoshka` whether its vectors may be shortened.
    """

    requests: int | None = None
    inputs: int | None = None
    tokens: int | None = None


@runtime_checkable
class Rated(Embedder, Protocol):
    """An embedder of a remote provider, which has rate limits; a local model has none."""

    rates: Rates
