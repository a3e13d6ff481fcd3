"""Estimates the tokens of texts, and divides the tokens of a call among its texts."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Characters per token of English prose: precise enough for deciding how calls are split and joined.
CHARACTERS = 4


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text from its length, which takes no time."""
    return len(text) // CHARACTERS + 1


def share_tokens(total: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """Divide `total` in proportion to `sizes`, into whole numbers that add up to it.

    A total of 0 means that it is unknown: then the sizes are the best estimate.
    """
    whole = sum(sizes)
    if total in (0, whole):
        return tuple(sizes)
    if not whole:
        sizes, whole = [1] * len(sizes), len(sizes)
    # Each share ends where the rounded running sum is.
    ends = [0]
    seen = 0
    for size in sizes:
        seen += size
        ends.append((2 * total * seen + whole) // (2 * whole))
    return tuple(end - start for start, end in pairwise(ends))
