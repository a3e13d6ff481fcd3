"""Vectors as points in a plane (principal components), and groups of near ones (k-means). No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Components that groups are found in: the rest of a text embedding's are mostly noise.
COMPONENTS = 16
GROUPS = 8  # as many as people tell apart by colour
# Rows for each group at least, below which there are fewer groups.
ROWS = 12
STEPS = 65_535  # places on each axis that a map has as bytes
ROUNDS = 25  # k-means has settled by then, on vectors of texts
SEED = 7  # the same rows give the same map


class Axes(NamedTuple):
    """The directions in which a sample differs most: float32 of shape (dimensions, components), around a centre.

    `shares` is the share of the variance that each has.
    """

    centre: NDArray[np.float32]
    directions: NDArray[np.float32]
    shares: NDArray[np.float64]

    def project(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return vectors along the axes: float32 of shape (vectors, components)."""
        found: NDArray[np.float32] = ((vectors - self.centre) @ self.directions).astype(np.float32)
        return found


def fit(sample: NDArray[np.float32]) -> Axes:
    """Find the axes of a sample of vectors, float32 of shape (vectors, dimensions); as many as there are at most."""
    centre = sample.mean(axis=0)
    spread = (sample - centre).astype(np.float64)
    values, vectors = np.linalg.eigh(spread.T @ spread)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    kept = min(COMPONENTS, len(values))
    directions = vectors[:, :kept]
    # An axis has no sign of its own: its largest part is positive, so that a map is not mirrored by the next version.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.where(directions[largest, np.arange(kept)] < 0, -1.0, 1.0)
    total = values.sum()
    shares = values[:kept] / total if total else np.zeros(kept)
    return Axes(centre.astype(np.float32), directions.astype(np.float32), shares)


def groups(positions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Find the centres of groups of near positions, float32 of shape (positions, components); the largest first."""
    number = int(min(GROUPS, max(1, len(positions) // ROWS)))
    random = np.random.default_rng(SEED)
    centres = _spread(positions, number, random)
    for _ in range(ROUNDS):
        own = nearest(positions, centres)
        moved = np.stack(
            [
                positions[own == each].mean(axis=0) if (own == each).any() else centres[each]
                for each in range(number)
            ]
        )
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    sizes = np.bincount(nearest(positions, centres), minlength=number)
    return centres[np.argsort(-sizes, kind="stable")][: max(1, int((sizes > 0).sum()))]


def nearest(positions: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the place of the centre that each position is nearest to."""
    # The squares of the positions are the same for each centre.
    far = (centres**2).sum(axis=1) - 2 * positions @ centres.T
    found: NDArray[np.uint8] = far.argmin(axis=1).astype(np.uint8)
    return found


def scaled(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fit positions of shape (points, 2) into [0, 1] with equal scales, in the middle."""
    low, high = plane.min(axis=0), plane.max(axis=0)
    size = float((high - low).max()) or 1.0
    found: NDArray[np.float32] = ((plane - (low + high) / 2) / size + 0.5).astype(np.float32)
    return found.clip(0, 1)


def _spread(positions: NDArray[np.float32], number: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Choose first centres far from each other (k-means++)."""
    chosen = [positions[int(random.integers(len(positions)))]]
    far = np.full(len(positions), np.inf)
    for _ in range(number - 1):
        far = np.minimum(far, ((positions - chosen[-1]) ** 2).sum(axis=1))
        total = far.sum()
        place = int(random.choice(len(positions), p=far / total)) if total > 0 else 0
        chosen.append(positions[place])
    return np.stack(chosen)


def inside(points: NDArray[np.float32], path: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points, of shape (points, 2), are inside a closed path of shape (corners, 2): by even and odd."""
    # As coarse as the map that people draw on, so that both find the same.
    x, y = ((points * STEPS).round() / STEPS).T.astype(np.float64)
    found = np.zeros(len(points), bool)
    for (ax, ay), (bx, by) in zip(path, np.roll(path, 1, axis=0), strict=True):
        if ay != by:
            crossing = (ay > y) != (by > y)
            found ^= crossing & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return found
