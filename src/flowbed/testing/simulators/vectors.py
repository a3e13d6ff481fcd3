"""The vectors of simulators: anyone can compute them, and so tell which text a vector belongs to."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# SplitMix64 (Steele, Lea and Flood, 2014): each number of a vector depends only on the seed and its position. It takes
# a third of the time of `seeded`, which matters if a load test shares its cores with the simulator.
STEP = np.uint64(0x9E3779B97F4A7C15)
ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
LAST = np.uint64(31)
# The first 16 bits of each number are kept: their squares and the sums of those are whole numbers that fit float64.
KEPT, MIDDLE = np.uint64(48), 65_535.0


class MakeVectors(Protocol):
    """How a simulator makes vectors: float32 of shape (texts, dimensions), of length 1."""

    def __call__(
        self, model: str, texts: Sequence[str], dimensions: int, input_type: str
    ) -> NDArray[np.float32]:
        """Make one vector for each text."""
        ...


def vector_of(model: str, text: str, dimensions: int, input_type: str = "") -> NDArray[np.float32]:
    """Return the unit vector with which a simulator answers for a text.

    `input_type` is the vendor's own word (`document`, `search_query`), empty if the request has none. Fewer dimensions
    are the first numbers of the full vector, scaled to length 1, as with models that are trained for it.
    """
    vector: NDArray[np.float32] = vectors_of(model, [text], dimensions, input_type)[0]
    return vector


def vectors_of(model: str, texts: Sequence[str], dimensions: int, input_type: str) -> NDArray[np.float32]:
    """Return the vectors of many texts, as `vector_of` does."""
    # No model or input type contains a line break, so no two calls share a seed.
    named = f"{model}\n{input_type}\n"
    seeds = b"".join(blake2b(f"{named}{text}".encode(), digest_size=8).digest() for text in texts)
    numbers = np.frombuffer(seeds, "<u8")[:, None] + _places(dimensions)
    for shift, factor in ROUNDS:
        numbers ^= numbers >> shift
        numbers *= factor
    numbers ^= numbers >> LAST
    # Doubled and shifted by an odd number, so that the mean is 0 and no number is 0: every vector has a direction.
    centred = 2.0 * (numbers >> KEPT) - MIDDLE
    lengths = np.sqrt((centred * centred).sum(axis=1, keepdims=True))
    vectors: NDArray[np.float32] = (centred / lengths).astype(np.float32)
    return vectors


@lru_cache(maxsize=16)
def _places(dimensions: int) -> NDArray[np.uint64]:
    return np.arange(1, dimensions + 1, dtype=np.uint64) * STEP
