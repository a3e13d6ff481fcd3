"""Verification of a new Chroma directory: what a reader finds in it, against the index."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.index.versions.samples import nearest, sample
from flowbed.publish.chroma.children import Damaged
from flowbed.publish.chroma.rows import chroma_metadata
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from flowbed.index.versions.changes import Changes
    from flowbed.index.versions.samples import Sampled
    from flowbed.publish.chroma.children import Child
    from flowbed.records import Scalar

ROWS = 16  # changed rows, and as many of all rows
QUERIES, NEIGHBOURS = 8, 10
# How far two float32 computations of one distance, or of one number of a unit vector, may be apart.
CLOSE = 1e-3
# Chroma's graph finds nearly all nearest rows of texts, and fewer of random vectors or where many rows have the same
# vector. Below this share it is broken.
LEAST_FOUND = 0.3


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a reader of a version must find: `rows` of it, none that is `gone`, and the distances of `near` rows.

    `asked` are the vectors of queries; the nearest rows are those of an exact search.
    """

    rows: Sequence[Sampled]
    gone: Sequence[str]
    asked: NDArray[np.float32]
    near: NDArray[np.float32]


def expected(changes: Changes) -> Expected:
    """Read from the index what a reader must find; blocks, and reads all vectors once."""
    rows = sample(changes, ROWS)
    asked = _vectors(rows[:: max(1, len(rows) // QUERIES)][:QUERIES], changes)
    return Expected(
        rows=rows, gone=changes.deleted[:ROWS], asked=asked, near=nearest(changes, asked, NEIGHBOURS)
    )


async def verify(
    opened: Path,
    directory: Path,
    collection: str,
    changes: Changes,
    wanted: Expected,
    child: Child,
    scratch: Path,
) -> None:
    """Let a new process open a copy of a directory, and compare it with a version of the index.

    The database of the directory itself is checked by SQLite at the same time.

    Raises:
        Damaged: they differ.
    """
    vectors = scratch / "queries.npy"
    await asyncio.to_thread(np.save, vectors, wanted.asked)
    found = await child.ask(
        size=changes.rows,
        directory=str(opened),
        checked=str(directory),
        collection=collection,
        ids=[*(row.id for row in wanted.rows), *wanted.gone],
        vectors=str(vectors),
        neighbours=NEIGHBOURS,
    )
    fault = found["fault"] or _fault(found, wanted, changes)
    if fault := fault or _search_fault(found, wanted.asked, wanted.near):
        raise Damaged(
            f"the new snapshot of {collection} differs from the index: {fault}; nothing was published"
        )


def _vectors(rows: Sequence[Sampled], changes: Changes) -> NDArray[np.float32]:
    dimensions = changes.dataset.schema.field("vector").type.list_size
    return np.stack([row.vector for row in rows]) if rows else np.empty((0, dimensions), np.float32)


def _fault(found: dict[str, Any], wanted: Expected, changes: Changes) -> str:
    if found["rows"] != changes.rows:
        return f"it has {count(found['rows'], 'row')}, the index {changes.rows:,}"
    held = {
        name: (document, metadata, np.asarray(vector, np.float32))
        for name, document, metadata, vector in zip(
            found["ids"], found["documents"], found["metadatas"], found["vectors"], strict=True
        )
    }
    if kept := [each for each in wanted.gone if each in held]:
        return f"{kept[0]} is deleted in the index"
    wrong = ((row.id, _difference(held.get(row.id), row)) for row in wanted.rows)
    return next((f"{name} {fault}" for name, fault in wrong if fault), "")


def _difference(held: tuple[str, dict[str, Scalar] | None, NDArray[np.float32]] | None, row: Sampled) -> str:
    if held is None:
        return "is missing"
    document, metadata, vector = held
    if document != row.document:
        return "has another document"
    if (metadata or None) != chroma_metadata(row.metadata):
        return "has other metadata"
    return "" if np.allclose(vector, row.vector, atol=CLOSE) else "has another vector"


def _search_fault(found: dict[str, Any], asked: NDArray[np.float32], exact: NDArray[np.float32]) -> str:
    """Compare distances rather than ids, since rows with equal vectors are equally near."""
    reached, possible = 0, 0
    for vector, distances, wanted in zip(asked, found["distances"], exact, strict=True):
        if not np.any(vector):
            continue  # without a direction, every distance is as good
        if len(distances) and distances[0] < wanted[0] - CLOSE:
            return (
                f"a search finds a row at distance {distances[0]:.4f}, and the nearest is at {wanted[0]:.4f}"
            )
        reached += int(np.sum(np.asarray(distances) <= wanted[-1] + CLOSE))
        possible += len(wanted)
    if reached < LEAST_FOUND * possible:
        return f"of {possible} nearest rows a search finds {reached}"
    return ""
