"""The base of embedders that wrap another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from flowbed.embedding import Bills, Closes, Rated, Reads
from flowbed.errors import Misconfigured, Transient

if TYPE_CHECKING:
    from flowbed.embedding import Embedder
    from flowbed.records import Reading


Failure = TypeVar("Failure", bound=Exception)


class Wrapper:
    """An embedder around another, with its attributes and methods unless overridden."""

    def __init__(self, embedder: Embedder) -> None:
        """Copy the attributes of `embedder`."""
        self.space = embedder.space
        self.items = embedder.items
        self.tokens = embedder.tokens
        self.price = embedder.price
        # Set by embedders of providers; vectors of others were not trained to be shortened.
        self.matryoshka: bool = getattr(embedder, "matryoshka", False)
        # What the provider allows, None where that is not known.
        self.requests_per_minute: int | None = (
            embedder.rates.requests
            if isinstance(embedder, Rated)
            else getattr(embedder, "requests_per_minute", None)
        )
        self._embedder = embedder
        # Checked once: a check against a protocol takes longer than most calls of `bill`.
        self._bills = embedder if isinstance(embedder, Bills) else None
        self._reads = embedder if isinstance(embedder, Reads) else None

    def count(self, text: str) -> int:
        """Count tokens as the embedder does."""
        return self._embedder.count(text)

    def bill(self, text: str, tokens: int) -> int:
        """Return the tokens billed for `text` as a document; `tokens` is its count."""
        return tokens if self._bills is None else self._bills.bill(text, tokens)

    def read(self, text: str) -> Reading:
        """Read `text` as the embedder does; one that does not say loses nothing."""
        if self._reads is None:
            from flowbed.records import Reading  # which a search by a vector does without

            return Reading(sent=text, tokens=self._embedder.count(text))
        return self._reads.read(text)

    @property
    def wrapped(self) -> Embedder:
        """The embedder inside."""
        return self._embedder

    async def aclose(self) -> None:
        """Close the embedder inside."""
        if isinstance(self._embedder, Closes):
            await self._embedder.aclose()


def copy_error(error: Failure) -> Failure:
    """Copy an error for one of several callers: a shared exception would collect the tracebacks of all."""
    if not isinstance(error, (Transient, Misconfigured)):
        return error
    same = type(error)(str(error))
    vars(same).update(vars(error))
    return same
