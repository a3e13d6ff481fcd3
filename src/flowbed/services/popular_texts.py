"""Which texts are asked for most. They are kept in this process's memory alone: never logged, never stored."""

from __future__ import annotations

from heapq import nlargest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.records import Purpose

# At most so many texts of so many characters are counted: some 16 MB at worst.
TEXTS = 4_096
LONGEST = 1_000
# Requests with more texts come from programs that fill an index, and hardly come again.
TOGETHER = 16


class Uses:
    """Counts of texts by model and purpose. Where they get too many, all are halved, and those that were rare go."""

    def __init__(self, *, texts: int = TEXTS) -> None:
        """Count at most so many texts."""
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
        """Tell the texts of a model that were asked for most, by purpose."""
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
        """Halve every count, and keep at most half as many texts as may be counted."""
        kept = nlargest(self._texts // 2, self._counts.items(), key=lambda each: each[1])
        self._counts = {key: count // 2 for key, count in kept if count > 1}
