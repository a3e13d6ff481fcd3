"""Tell which text a vector belongs to without knowing the model: from the server's answer to each text alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowbed.testing.conformance.client import Client

# Cosines: a model answers the same text alike except for rounding, in any batch, and two of our texts differently.
SAME, OTHER = 0.9999, 0.99
UNIT = 1e-3  # tolerance of a vector's length: the precision of half floats
# Texts that every model tells apart.
TEXTS = (
    "The keys are rotated on the first Monday of each month.",
    "Grüße aus Köln, wo es regnet.",
    "TOTAL 7.80",
    "def add(a, b): return a + b",
    "すべての書類は金庫にあります。",
    "Penguins swim faster than most people run. 🐧",
)
ADJECTIVES = (
    "amber bitter clumsy dusty eager fragile gentle hollow icy jolly knotty lonely muddy noisy oval pale"
)
NOUNS = (
    "anchor bakery candle dragon engine forest guitar hammer"
    " island jacket kitchen ladder mountain needle ocean pillow"
)
VERBS = "adores builds catches draws escapes finds greets hides"


def phrases(count: int, *, about: str = "") -> list[str]:
    """Return distinct phrases; the first 2,048 also differ in meaning."""
    adjectives, nouns, verbs = ADJECTIVES.split(), NOUNS.split(), VERBS.split()
    return [
        f"{about}the {adjectives[n % 16]} {nouns[n // 16 % 16]} {verbs[n // 256 % 8]} number {n}"
        for n in range(count)
    ]


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compare vectors row by row."""
    one, other = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    compared: NDArray[np.float64] = (one * other).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return compared


def require_same(client: Client, left: NDArray[np.float32], right: NDArray[np.float32], what: str) -> None:
    """Require that vectors belong to the same texts, row by row."""
    client.require(left.shape == right.shape, f"{what}: {left.shape} numbers against {right.shape}")
    found = cosines(left, right)
    worst = int(found.argmin())
    client.require(
        found[worst] >= SAME, f"{what}: the vectors at position {worst} have a cosine of {found[worst]:.4f}"
    )


def require_distinct(client: Client, vectors: NDArray[np.float32]) -> None:
    """Require that vectors of different texts differ; otherwise nothing could be concluded from them."""
    one = vectors.astype(np.float64)
    one /= np.maximum(np.linalg.norm(one, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    between = one @ one.T - 2 * np.eye(len(one))
    client.require(
        between.max() < OTHER, f"two different texts have vectors with a cosine of {between.max():.4f}"
    )


def require_unit(client: Client, vectors: NDArray[np.float32]) -> None:
    """Require vectors of length 1."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    worst = lengths[np.abs(lengths - 1).argmax()]
    client.require(abs(worst - 1) <= UNIT, f"a vector has length {worst:.4f}, not 1")


async def alone(client: Client, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embed texts one by one, and require that their vectors differ."""
    vectors = np.concatenate([(await client.embed(text)).vectors for text in texts])
    client.require(len(vectors) == len(texts), "a single text does not have exactly one vector")
    require_distinct(client, vectors)
    return vectors
