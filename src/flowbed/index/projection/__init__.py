"""A collection as points in a plane: its vectors projected, with source, topic and time of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.index.search.rows import Selection


@dataclass(frozen=True, kw_only=True)
class Times:
    """The field that says when a row is from, and its first and last time in seconds since 1970."""

    field: str
    first: float
    last: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """The points of a version of a collection; point n is row n of `selection`.

    `points` is float32 of shape (points, 2), in [0, 1] with equal scales. `source` and `topic` are places in `sources`
    and `topics`, uint8; the last source is all others where there are more than 255. `time` is float64 in seconds since
    1970, NaN where a row has none, and `times` None if few rows have one. `explained` is the share of the variance that
    each axis has, `rows` how many there are of which the points are a sample.
    """

    collection: str
    version: int
    rows: int
    points: NDArray[np.float32]
    source: NDArray[np.uint8]
    sources: Sequence[str]
    topic: NDArray[np.uint8]
    topics: Sequence[str]
    time: NDArray[np.float64]
    times: Times | None
    explained: tuple[float, float]
    selection: Selection
