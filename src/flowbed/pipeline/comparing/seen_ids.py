"""The documents that a fetch has listed, as one number each, so that millions fit into memory."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Listed:
    """The documents listed, by Python's hash of their ids: 8 bytes each.

    Of a million documents, one that is gone is taken for listed with a chance of 1 in 10 million million. The next
    process hashes differently and finds it.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._hashes = array("q")
        self._sorted = True

    def add(self, documents: Sequence[str]) -> None:
        """Add the documents of a page."""
        self._hashes.extend(map(hash, documents))
        self._sorted = False

    @property
    def once(self) -> bool:
        """Whether no document was listed twice."""
        return all(one != other for one, other in pairwise(self._in_order()))

    def missing(self, documents: Sequence[str]) -> list[str]:
        """Return those of `documents` that were not listed, in their order."""
        hashes = self._in_order()
        places = ((document, bisect_left(hashes, hash(document))) for document in documents)
        return [
            document for document, place in places if place == len(hashes) or hashes[place] != hash(document)
        ]

    def _in_order(self) -> array[int]:
        if not self._sorted:
            self._hashes, self._sorted = array("q", sorted(self._hashes)), True
        return self._hashes
