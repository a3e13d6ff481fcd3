"""Where one submission ends and the next begins. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbed.embedding.batch_api import JobTerms


@dataclass
class Size:
    """How much one submission asks for."""

    texts: int = 0
    bytes: int = 0
    tokens: int = 0

    def fits(self, terms: JobTerms, *, length: int, tokens: int) -> bool:
        """Tell whether one text more, of so many bytes as a line and so many tokens, still goes into it.

        The first always does: what is too large all by itself, the provider says.
        """
        if not self.texts:
            return True
        return (
            self.texts < terms.texts
            and self.bytes + length <= terms.bytes
            and (terms.tokens is None or self.tokens + tokens <= terms.tokens)
        )

    def add(self, *, length: int, tokens: int) -> None:
        """Take one text in."""
        self.texts += 1
        self.bytes += length
        self.tokens += tokens
