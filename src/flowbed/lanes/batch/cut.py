"""The size limits of a submission. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbed.embedding.batch_api import JobTerms


@dataclass
class Size:
    """The size of a submission."""

    texts: int = 0
    bytes: int = 0
    tokens: int = 0

    def fits(self, terms: JobTerms, *, length: int, tokens: int) -> bool:
        """Tell whether one more text, `length` bytes as a line and with `tokens`, still fits.

        The first text always fits: the provider reports one that is too large by itself.
        """
        if not self.texts:
            return True
        return (
            self.texts < terms.texts
            and self.bytes + length <= terms.bytes
            and (terms.tokens is None or self.tokens + tokens <= terms.tokens)
        )

    def add(self, *, length: int, tokens: int) -> None:
        """Add one text."""
        self.texts += 1
        self.bytes += length
        self.tokens += tokens
