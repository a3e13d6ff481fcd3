"""What every embedder that stands in front of another has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from flowbed.embedding import Bills, Closes
from flowbed.errors import Misconfigured, Transient

if TYPE_CHECKING:
    from flowbed.embedding import Embedder


Failure = TypeVar("Failure", bound=Exception)


class Wrapper:
    """An embedder in front of another, which it is like in everything that it does not say itself."""

    def __init__(self, embedder: Embedder) -> None:
        """Take over what is known of `embedder`."""
        self.space = embedder.space
        self.items = embedder.items
        self.tokens = embedder.tokens
        self.price = embedder.price
        # Said by embedders of providers; others have vectors that were never made to be cut.
        self.matryoshka: bool = getattr(embedder, "matryoshka", False)
        self._embedder = embedder
        # Found out once: such a question takes longer than most answers to it.
        self._bills = embedder if isinstance(embedder, Bills) else None

    def count(self, text: str) -> int:
        """Count tokens as the embedder does."""
        return self._embedder.count(text)

    def bill(self, text: str, tokens: int) -> int:
        """Tell what embedding `text` as a document is billed with; `tokens` is its own count."""
        return tokens if self._bills is None else self._bills.bill(text, tokens)

    @property
    def wrapped(self) -> Embedder:
        """The embedder that this one stands in front of."""
        return self._embedder

    async def aclose(self) -> None:
        """Let go of what the embedder holds."""
        if isinstance(self._embedder, Closes):
            await self._embedder.aclose()


def copy_error(error: Failure) -> Failure:
    """Make another error like one that several callers get: a shared one would gather the traces of all."""
    if not isinstance(error, (Transient, Misconfigured)):
        return error
    same = type(error)(str(error))
    vars(same).update(vars(error))
    return same
