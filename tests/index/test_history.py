"""The history of a collection, as a rollback reads it."""

from __future__ import annotations

from typing import Any

from flowbed.index.active_space import live_collection
from flowbed.index.compaction import compact
from flowbed.index.versions.history import Restored, restore, restored_since


async def test_restored_since_finds_a_restore_among_compactions(bench: Any) -> None:
    async def commit_and_compact(version: int) -> None:
        await bench.lay_down([bench.upsert(f"r{number}", version) for number in range(version, version + 40)])
        await bench.commit()
        await compact(
            live, datasets=bench.datasets, vector_index="always", oldest_pending=None, now=bench.clock()
        )

    live = await bench.datasets.begin("docs", bench.space, now=1)
    for version in (1, 2, 3):
        await commit_and_compact(version)
    newest, found = await restored_since(live, 0, datasets=bench.datasets)
    assert found == []
    version = await restore(live, newest, datasets=bench.datasets)
    await commit_and_compact(4)
    assert await live_collection(bench.store, "docs") == live
    _, found = await restored_since(live, 0, datasets=bench.datasets)
    assert found == [Restored(target=newest, version=version)]
