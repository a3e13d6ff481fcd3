"""A store, a ledger and an index in a folder, and an easy way to commit rows to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flowbed.index.active_space import Collections
from flowbed.index.commit import Committed, commit
from flowbed.index.datasets import Datasets
from flowbed.index.deltas import Delete, Upsert, write_delta
from flowbed.ledger import Ledger, RunRow, open_ledger
from flowbed.records import Space, text_hash
from flowbed.storage import Store, open_store
from flowbed.testing.clock import FixedClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

SPACE = Space(model="test", dimensions=8)


@dataclass
class Bench:
    """The parts of an index, and shorthands for using them."""

    store: Store
    ledger: Ledger
    datasets: Datasets
    clock: FixedClock
    space: Space = SPACE
    vectors: dict[str, Any] = field(default_factory=dict)

    def upsert(self, id: str, version: int, text: str = "", **metadata: Any) -> Upsert:
        """Make a row whose vector depends only on its text."""
        text = text or f"text of {id}"
        return Upsert(
            id=id,
            version=version,
            document=text,
            metadata=metadata,
            text_hash=text_hash(text),
            vector=vector(text),
        )

    async def lay_down(
        self,
        upserts: Sequence[Upsert] = (),
        deletes: Mapping[str, int] | None = None,
        *,
        collection: str = "docs",
        **changes: Any,
    ) -> RunRow:
        """Write a delta and record its run."""
        gone = [Delete(id=id, version=version) for id, version in (deletes or {}).items()]
        now = self.clock()
        delta = await write_delta(self.store, collection, self.space, upserts, gone, now=now)
        fields: dict[str, Any] = {
            "id": delta.run,
            "collection": collection,
            "space": self.space.to_json(),
            "key": delta.key,
            "sha256": delta.sha256,
            "rows": delta.rows,
            "lane": "realtime",
            "worker": "w",
            "created": now,
        }
        run = RunRow(**{**fields, **changes})
        await self.ledger.runs.record(run, [], worker="w")
        return run

    async def commit(self, collection: str = "docs") -> Committed:
        """Commit what is pending."""
        return await commit(
            collection,
            store=self.store,
            ledger=self.ledger,
            collections=Collections(self.store),
            datasets=self.datasets,
            clock=self.clock,
        )

    async def rows(self, collection: str = "docs") -> dict[str, dict[str, Any]]:
        """Read the live rows by id."""
        live = await self.datasets.begin(collection, self.space, now=1)
        dataset = await self.datasets.open(live)
        assert dataset is not None
        found = dataset.to_table(filter="deleted = false").to_pylist()
        assert len({row["id"] for row in found}) == len(found)
        return {row["id"]: row for row in found}


def vector(text: str, dimensions: int = 8) -> Any:
    """Make the unit vector of a text."""
    seed = int(text_hash(text)[:16], 16)
    drawn = np.random.default_rng(seed).normal(size=dimensions).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """An empty index in a folder."""
    store = open_store("store", folder=tmp_path)
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="l")
    yield Bench(store=store, ledger=ledger, datasets=Datasets(store), clock=FixedClock())
    await ledger.close()
