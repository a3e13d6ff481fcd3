"""Shortens or pads vectors where that is meaningful; the result is another space."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from flowbed.errors import Rejected

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowbed.records import Space

Policy = Literal["reduce", "pad", "ignore", "error"]
POLICIES: tuple[Policy, ...] = ("reduce", "pad", "ignore", "error")

# Marks of changed vectors in a space's pooling.
REDUCED = "|reduce"
PADDED = "|pad"


def is_padded(space: Space) -> bool:
    """Return whether vectors of this space were padded with zeros; they must not be stored."""
    return space.pooling.endswith(PADDED)


def resized_space(space: Space, dimensions: int, policy: Policy, *, matryoshka: bool) -> Space:
    """Return the space of the vectors that `policy` makes of those of `space` for a request of `dimensions`.

    `reduce` cuts vectors of models trained for it (`matryoshka`) and scales them to length 1; `pad` appends zeros;
    `ignore` leaves them unchanged; `error` refuses.

    Raises:
        Rejected: the policy does not allow it; `param` is `dimensions`.
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
    """Cut vectors of shape (n, d) to `dimensions`, scaling `normalized` ones to length 1, or pad them with zeros."""
    import numpy as np

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
        # A vector that is zero in these dimensions has no direction, and stays zero.
        np.divide(cut, lengths, out=cut, where=lengths > 0)
    return cut.astype(np.float32)


def _advice(space: Space, dimensions: int, policy: Policy) -> str:
    if policy == "reduce" and 0 < dimensions < space.dimensions:
        return "its vectors were not trained to be shortened, so leave `dimensions` out"
    if policy == "reduce":
        return f"its vectors can be shortened but not extended: request at most {space.dimensions}"
    if policy == "pad":
        return f"its vectors can be padded but not shortened: request at least {space.dimensions}"
    return "leave `dimensions` out, or request that many"
