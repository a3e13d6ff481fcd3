"""The contents of an index, and whether two indexes are the same.

Two are the same when their live (id, text_hash, document, metadata) are equal and their vectors agree to 1e-5, over all
collections; versions, run ids, times and tombstones do not count, nor do collections without a live row.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowbed.index.active_space import live_collections
from flowbed.index.datasets import Datasets, blocking
from flowbed.settings import read_settings, store_options
from flowbed.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from flowbed.records import Scalar
    from flowbed.storage import Store

AGREED = 1e-5  # tolerance per number between two computations of one vector
TOLD = 20  # how many differences are listed


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One live row, without fields that do not count."""

    text_hash: str
    document: str
    metadata: Mapping[str, Scalar]
    vector: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The live rows of every collection by id, and each (collection, id) that several rows have, dead or alive."""

    rows: Mapping[str, Mapping[str, Row]]
    doubled: tuple[tuple[str, str], ...] = ()

    @property
    def total(self) -> int:
        """Count the rows of all collections."""
        return sum(map(len, self.rows.values()))


def contents_of(folder: Path) -> Contents:
    """Read the index of the project in `folder`; blocks, within an event loop too."""
    config = read_settings(folder)
    store = open_store(config.store, folder=folder, options=store_options(config))
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, contents(store)).result()


async def contents(store: Store) -> Contents:
    """Read the newest version of every collection in a store."""
    datasets = Datasets(store)
    rows: dict[str, dict[str, Row]] = {}
    doubled: list[tuple[str, str]] = []
    for live in await live_collections(store):
        dataset = await datasets.open(live)
        if dataset is None:
            continue
        table = await blocking(dataset.to_table, f"the index of {live.collection}")
        found = table.to_pylist()
        times = Counter(row["id"] for row in found)
        doubled += [(live.collection, key) for key, number in times.items() if number > 1]
        alive = {
            row["id"]: Row(
                text_hash=row["text_hash"],
                document=row["document"],
                metadata=json.loads(row["metadata"]),
                vector=np.asarray(row["vector"], np.float32),
            )
            for row in found
            if not row["deleted"]
        }
        if alive:
            rows[live.collection] = alive
    return Contents(rows=rows, doubled=tuple(doubled))


def differences(one: Contents, other: Contents) -> list[str]:
    """Describe how two indexes differ; empty if they are the same."""
    told = [f"{collection}: {key} has two rows" for collection, key in (*one.doubled, *other.doubled)]
    for collection in sorted({*one.rows, *other.rows}):
        left, right = one.rows.get(collection, {}), other.rows.get(collection, {})
        told += [f"{collection}: {key} is only in the first" for key in sorted(set(left) - set(right))]
        told += [f"{collection}: {key} is only in the second" for key in sorted(set(right) - set(left))]
        for key in sorted(set(left) & set(right)):
            if fault := _difference(left[key], right[key]):
                told.append(f"{collection}: {key} has another {fault}")
    rest = len(told) - TOLD
    return [*told[:TOLD], f"and {rest} more"] if rest > 0 else told


def assert_same(one: Contents, other: Contents) -> None:
    """Fail with a description if two indexes differ."""
    assert differences(one, other) == []


def _difference(left: Row, right: Row) -> str:
    if left.text_hash != right.text_hash:
        return "text_hash"
    if left.document != right.document:
        return "document"
    if left.metadata != right.metadata:
        return f"metadata: {dict(left.metadata)} and {dict(right.metadata)}"
    if left.vector.shape != right.vector.shape or not np.allclose(
        left.vector, right.vector, rtol=0.0, atol=AGREED
    ):
        return "vector"
    return ""
