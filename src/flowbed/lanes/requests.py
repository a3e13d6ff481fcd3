"""Cut texts into requests so that progress shows early, and a run that is stopped loses little. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Requests for the texts of a run, and for each place in flight: the count moves as often, and a run that is stopped
# loses one part in so many.
REQUESTS, WAVES = 64, 6
# Smaller requests would cost more than they show: a provider takes about a second for any.
SMALLEST = 64


def cut(parts: Sequence[slice], *, concurrency: int, per_minute: int | None = None) -> list[slice]:
    """Cut parts of texts, sorted by length, further, and put them in the order in which to send them.

    `per_minute` is how many requests the provider allows, None where that is not known.

    The texts of the first requests have all lengths, so that the time left can be estimated from their answers. The
    first `concurrency` requests have growing sizes: answers then arrive one by one, and not all at the same moments.
    """
    total = sum(part.stop - part.start for part in parts)
    wanted = max(REQUESTS, WAVES * concurrency)
    # More than one minute's requests would make the texts of a minute take longer.
    most = max(SMALLEST, ceil(total / (wanted if per_minute is None else min(wanted, per_minute))))
    pieces = [
        slice(start, min(start + most, part.stop))
        for part in parts
        for start in range(part.start, part.stop, most)
    ]
    mixed = [pieces[place] for place in sorted(range(len(pieces)), key=_spread)]
    if len(mixed) < max(2, concurrency) or max(piece.stop - piece.start for piece in mixed) < SMALLEST:
        return mixed
    first: list[slice] = []
    rest: list[slice] = []
    for place, piece in enumerate(mixed[:concurrency], start=1):
        middle = piece.start + ceil((piece.stop - piece.start) * place / concurrency)
        first.append(slice(piece.start, middle))
        rest += [slice(middle, piece.stop)] if middle < piece.stop else []
    # The rests come last and the shortest of them first: in the other order all would be answered at the same moment.
    return [*first, *mixed[concurrency:], *reversed(rest)]


def _spread(place: int) -> float:
    """Return the place's digits in base 2 mirrored at the point: any few places in this order lie far apart."""
    mirrored, digit = 0.0, 0.5
    while place:
        mirrored += digit * (place & 1)
        place, digit = place >> 1, digit / 2
    return mirrored


class Pending:
    """Requests not sent yet. Once the provider limits their rate, what is left of a part goes in one."""

    def __init__(self, parts: Sequence[slice], pieces: Sequence[slice]) -> None:
        """Send `pieces` in their order; each lies within one of `parts`, the largest requests, which ascend."""
        self._starts = [part.start for part in parts]
        self._pieces = list(pieces)

    def __len__(self) -> int:
        """Return how many are left."""
        return len(self._pieces)

    def take(self, *, limited: bool) -> list[slice]:
        """Remove what to send next, and return it: one piece, or if `limited` all that is left of its part."""
        if not self._pieces:
            return []
        part = self._part(self._pieces[0])
        if not limited:
            return [self._pieces.pop(0)]
        taken = [piece for piece in self._pieces if self._part(piece) == part]
        self._pieces = [piece for piece in self._pieces if self._part(piece) != part]
        return sorted(taken, key=lambda piece: piece.start)

    def _part(self, piece: slice) -> int:
        return bisect_right(self._starts, piece.start)
