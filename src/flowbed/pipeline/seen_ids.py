"""Which documents a fetch has listed, a number each, so that millions fit into little memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Listed:
    """The documents listed, by Python's hash of their ids: 8 bytes each.

    Of a million documents, one that is gone is taken for listed with a chance of 1 in 10 million million; the next
    process hashes otherwise, and finds it.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._pages: list[NDArray[np.int64]] = []

    def add(self, documents: Sequence[str]) -> None:
        """Take in the documents of a page."""
        self._pages.append(_hashes(documents))

    @property
    def once(self) -> bool:
        """Whether none of them was listed twice."""
        every = self._sorted()
        return not (every[1:] == every[:-1]).any()

    def missing(self, documents: Sequence[str]) -> list[str]:
        """Name those of `documents` that were not listed, in their order."""
        every, asked = self._sorted(), _hashes(documents)
        if not len(every):
            return list(documents)
        found = every[np.minimum(np.searchsorted(every, asked), len(every) - 1)] == asked
        return [document for document, there in zip(documents, found, strict=True) if not there]

    def _sorted(self) -> NDArray[np.int64]:
        if len(self._pages) != 1:
            every = np.concatenate([np.empty(0, np.int64), *self._pages])
            every.sort()
            self._pages = [every]
        return self._pages[0]


def _hashes(documents: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter(map(hash, documents), np.int64, len(documents))
