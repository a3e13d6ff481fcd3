"""The most requested texts, kept only in this process's memory: never logged, never stored."""

from __future__ import annotations

from heapq import nlargest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.records import Purpose

# At most this many texts of this many characters are counted: 16 MB in the worst case.
TEXTS = 4_096
LONGEST = 1_000
# Requests with more texts come from indexing programs and rarely repeat.
TOGETHER = 16


class PopularTexts:
    """Counts of texts by model and purpose. When there are too many, all counts are halved and rare texts dropped."""

    def __init__(self, *, texts: int = TEXTS) -> None:
        """Count at most `texts` texts."""
        self._texts = texts
        self._counts: dict[tuple[str, Purpose, str], int] = {}

    def note(self, model: str, purpose: Purpose, texts: Sequence[str]) -> None:
        """Count the texts of one request."""
        if len(texts) > TOGETHER:
            return
        counts = self._counts
        for text in texts:
            if len(text) <= LONGEST:
                key = (model, purpose, text)
                counts[key] = counts.get(key, 0) + 1
        if len(counts) > self._texts:
            self._forget()

    def top(self, model: str, *, most: int) -> dict[Purpose, list[str]]:
        """Return the most requested texts of a model by purpose."""
        mine = (
            (count, purpose, text) for (name, purpose, text), count in self._counts.items() if name == model
        )
        found: dict[Purpose, list[str]] = {}
        for _, purpose, text in nlargest(most, mine, key=lambda each: each[0]):
            found.setdefault(purpose, []).append(text)
        return found

    def clear(self) -> None:
        """Forget every text."""
        self._counts.clear()

    def _forget(self) -> None:
        """Halve every count, and keep at most half of the texts."""
        kept = nlargest(self._texts // 2, self._counts.items(), key=lambda each: each[1])
        self._counts = {key: count // 2 for key, count in kept if count > 1}
