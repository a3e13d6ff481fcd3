"""What readers see while others commit: whole commits, and one version in one answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.index.compaction import compact
from flowbed.index.datasets import Datasets
from flowbed.index.search import search
from flowbed.index.versions import versions

if TYPE_CHECKING:
    from tests.index.conftest import Bench

    from flowbed.records import SearchResults

COMMITTERS = READERS = 8
ROWS = 5  # of each committer: they always hold the same number, in every commit another
ROUNDS = 6


async def test_search_beside_commits_never_sees_half_a_commit(bench: Bench) -> None:
    """Eight writers and eight readers: each commit is seen whole or not at all."""
    for writer in range(COMMITTERS):
        await bench.lay_down([bench.upsert(f"w{writer}#{n}", 1, writer=writer, said=0) for n in range(ROWS)])
    await bench.commit()
    live = await bench.datasets.begin("docs", bench.space, now=1)
    done = asyncio.Event()

    async def write(writer: int) -> None:
        for said in range(1, ROUNDS + 1):
            await bench.lay_down(
                [bench.upsert(f"w{writer}#{n}", 1 + said, writer=writer, said=said) for n in range(ROWS)]
            )
            await bench.commit()

    async def read(reader: int) -> int:
        datasets, looked, newest = Datasets(bench.store), 0, 0
        query = bench.upsert("q", 1, f"query {reader}").vector
        while not done.is_set():
            found = await search(query, [live], datasets=datasets, limit=100)
            check(found)
            assert found.versions["docs"] >= newest
            newest = found.versions["docs"]
            looked += 1
        return looked

    async def write_all() -> None:
        try:
            await asyncio.gather(*(write(each) for each in range(COMMITTERS)))
            await compact(
                live, datasets=bench.datasets, vector_index="always", oldest_pending=None, now=bench.clock()
            )
        finally:
            done.set()

    _, *looked = await asyncio.gather(write_all(), *(read(each) for each in range(READERS)))
    assert all(looked)
    assert {row["version"] for row in (await bench.rows()).values()} == {1 + ROUNDS}
    query = bench.upsert("q", 1).vector
    filled = [each.version for each in await versions(live, datasets=bench.datasets) if each.rows]
    for version in filled:
        check(await search(query, [live], datasets=bench.datasets, limit=100, at=version))


def check(found: SearchResults) -> None:
    """Fail unless all rows are there, and those of one committer say the same."""
    said: dict[object, list[object]] = {}
    for hit in found.hits:
        said.setdefault(hit.metadata["writer"], []).append(hit.metadata["said"])
    assert [len(each) for each in said.values()] == [ROWS] * COMMITTERS
    assert all(len(set(each)) == 1 for each in said.values())
