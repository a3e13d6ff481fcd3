"""The tokens of a call, told text by text."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Characters in a token of English prose: near enough where a size only decides how calls are cut and joined.
CHARACTERS = 4


def estimate_tokens(text: str) -> int:
    """Guess the tokens of a text, which takes no time."""
    return len(text) // CHARACTERS + 1


def share_tokens(total: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """Divide `total` in proportion to `sizes`, into whole numbers that add up to it.

    A total of 0 was not told: then the sizes are the best that is known.
    """
    whole = sum(sizes)
    if total in (0, whole):
        return tuple(sizes)
    if not whole:
        sizes, whole = [1] * len(sizes), len(sizes)
    # Where the running sum stands, rounded, is where the shares so far have to end.
    ends = [0]
    seen = 0
    for size in sizes:
        seen += size
        ends.append((2 * total * seen + whole) // (2 * whole))
    return tuple(end - start for start, end in pairwise(ends))
