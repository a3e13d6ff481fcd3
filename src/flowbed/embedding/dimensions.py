"""Vectors of other dimensions than a model gives, where that has a meaning; the result is another space."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowbed.records import Space

Policy = Literal["reduce", "pad", "ignore", "error"]
POLICIES: tuple[Policy, ...] = ("reduce", "pad", "ignore", "error")

# What a space's pooling says of vectors that were changed.
REDUCED = "|reduce"
PADDED = "|pad"


def is_padded(space: Space) -> bool:
    """Whether vectors of this space were filled up with zeros, so that nobody may store them."""
    return space.pooling.endswith(PADDED)


def resized_space(space: Space, dimensions: int, policy: Policy, *, matryoshka: bool) -> Space:
    """Tell the space of vectors that `policy` makes of those of `space` when `dimensions` are asked for.

    `reduce` cuts vectors of models that were trained for it (`matryoshka`) and makes them unit length again; `pad`
    fills up with zeros; `ignore` leaves them as they are; `error` refuses.

    Raises:
        Rejected: the policy does not lead from the one to the other; `param` is `dimensions`.
    """
    if dimensions == space.dimensions or policy == "ignore":
        return space
    if 0 < dimensions < space.dimensions and policy == "reduce" and matryoshka:
        return replace(space, dimensions=dimensions, pooling=space.pooling + REDUCED)
    if dimensions > space.dimensions and policy == "pad":
        return replace(space, dimensions=dimensions, pooling=space.pooling + PADDED)
    raise Rejected(
        f"{space.model} has {space.dimensions} dimensions, not {dimensions}; {_advice(space, dimensions, policy)}",
        param="dimensions",
    )


def resize(vectors: NDArray[np.float32], dimensions: int, *, normalized: bool) -> NDArray[np.float32]:
    """Cut vectors of shape (n, d) to `dimensions`, `normalized` ones to length 1 again, or fill them up with zeros."""
    rows, width = vectors.shape
    if dimensions == width:
        return vectors
    if dimensions > width:
        padded = np.zeros((rows, dimensions), dtype=np.float32)
        padded[:, :width] = vectors
        return padded
    cut = vectors[:, :dimensions].astype(np.float64)
    if normalized:
        lengths = np.linalg.norm(cut, axis=1, keepdims=True)
        # A vector that has nothing in these dimensions has no direction, and is not given one.
        np.divide(cut, lengths, out=cut, where=lengths > 0)
    return cut.astype(np.float32)


def _advice(space: Space, dimensions: int, policy: Policy) -> str:
    if policy == "reduce" and 0 < dimensions < space.dimensions:
        return "its vectors were not trained to be cut, so leave `dimensions` out"
    if policy == "reduce":
        return f"it can be cut to fewer, but not give more: ask for at most {space.dimensions}"
    if policy == "pad":
        return f"it can be filled up to more, but not cut: ask for at least {space.dimensions}"
    return "leave `dimensions` out, or ask for as many"
