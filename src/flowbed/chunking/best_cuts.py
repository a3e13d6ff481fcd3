"""Find the best place to cut a stretch of blocks, in steps that grow with the logarithm of their number."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class BestCuts:
    """The blocks of a document: their ranks and hashes, and the tokens before each, those of the whole text last.

    A cut before a block of rank below `line` is better than one before any other. Then it counts how many tokens the
    shorter side has, up to `least`; then the rank, lower first; then the hash, higher first. Among equal blocks, such
    as a thousand equal lines of a log, the middle one is best, which keeps the work n log n.
    """

    def __init__(
        self, ranks: Sequence[int], hashes: Sequence[int], before: Sequence[int], *, line: int, least: int
    ) -> None:
        """Put the blocks in order, and build a tree of the best of each range."""
        self._before, self._least = before, least
        keys = [(rank < line, -rank, hash_) for rank, hash_ in zip(ranks, hashes, strict=True)]
        self._keys = keys
        order = {key: number for number, key in enumerate(sorted(set(keys)))}
        self._orders = [order[key] for key in keys]
        self._places: list[list[int]] = [[] for _ in order]
        for place, number in enumerate(self._orders):
            self._places[number].append(place)
        # A node is the better of its two children; the blocks are the leaves.
        self._size = len(keys)
        self._tree = [0] * self._size + self._orders
        for node in range(self._size - 1, 0, -1):
            self._tree[node] = max(self._tree[2 * node], self._tree[2 * node + 1])

    def best(self, first: int, last: int) -> int:
        """Return the block, after `first` and before `last`, before which to cut the blocks from `first` to `last`."""
        before, least = self._before, self._least
        middle = (first + last) // 2
        # Between these, both sides are long enough.
        start = bisect_left(before, before[first] + least, first + 1, last)
        end = bisect_right(before, before[last] - least, first + 1, last)
        if start >= end:
            candidates = list(range(first + 1, last))
        else:
            inner = self._nearest(self._highest(start, end), start, end, middle)
            candidates = [*range(first + 1, start), inner, *range(end, last)]

        def preference(block: int) -> tuple[bool, int, int, int, int]:
            length = min(before[block] - before[first], before[last] - before[block], least)
            above, rank, hash_ = self._keys[block]
            return above, length, rank, hash_, -abs(block - middle)

        return max(candidates, key=preference)

    def _highest(self, start: int, end: int) -> int:
        """Return the highest order among the blocks from `start` to before `end`."""
        highest = 0
        low, high = start + self._size, end + self._size
        while low < high:
            if low % 2:
                highest = max(highest, self._tree[low])
                low += 1
            if high % 2:
                high -= 1
                highest = max(highest, self._tree[high])
            low, high = low // 2, high // 2
        return highest

    def _nearest(self, order: int, start: int, end: int, middle: int) -> int:
        """Return the block of this order that is nearest to the middle, of two the first."""
        places = self._places[order]
        low, high = bisect_left(places, start), bisect_left(places, end)
        after = bisect_left(places, middle, low, high)
        return min(places[max(low, after - 1) : min(high, after + 1)], key=lambda place: abs(place - middle))
