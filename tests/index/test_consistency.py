"""What readers see while others commit: whole commits, and one version in one answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from flowbed.index.compaction import compact
from flowbed.index.datasets import Datasets
from flowbed.index.search import search
from flowbed.index.versions import versions

if TYPE_CHECKING:
    from tests.index.conftest import Bench

    from flowbed.records import SearchResults

ROWS = 5  # of each committer: they always hold the same number, in every commit another


@pytest.mark.parametrize(("each_kind", "rounds"), [(4, 4), pytest.param(8, 6, marks=pytest.mark.long)])
async def test_search_beside_commits_never_sees_half_a_commit(
    each_kind: int, rounds: int, bench: Bench
) -> None:
    """Several writers and as many readers: each commit is seen whole or not at all."""
    for writer in range(each_kind):
        await bench.lay_down([bench.upsert(f"w{writer}#{n}", 1, writer=writer, said=0) for n in range(ROWS)])
    await bench.commit()
    live = await bench.datasets.begin("docs", bench.space, now=1)
    done = asyncio.Event()

    async def write(writer: int) -> None:
        for said in range(1, rounds + 1):
            await bench.lay_down(
                [bench.upsert(f"w{writer}#{n}", 1 + said, writer=writer, said=said) for n in range(ROWS)]
            )
            await bench.commit()

    async def read(reader: int) -> int:
        datasets, looked, newest = Datasets(bench.store), 0, 0
        query = bench.upsert("q", 1, f"query {reader}").vector
        while not done.is_set():
            found = await search(query, [live], datasets=datasets, limit=100)
            check(found, each_kind)
            assert found.versions["docs"] >= newest
            newest = found.versions["docs"]
            looked += 1
        return looked

    async def write_all() -> None:
        try:
            await asyncio.gather(*(write(each) for each in range(each_kind)))
            await compact(
                live, datasets=bench.datasets, vector_index="always", oldest_pending=None, now=bench.clock()
            )
        finally:
            done.set()

    _, *looked = await asyncio.gather(write_all(), *(read(each) for each in range(each_kind)))
    assert all(looked)
    assert {row["version"] for row in (await bench.rows()).values()} == {1 + rounds}
    query = bench.upsert("q", 1).vector
    filled = [each.version for each in await versions(live, datasets=bench.datasets) if each.rows]
    for version in filled:
        check(await search(query, [live], datasets=bench.datasets, limit=100, at=version), each_kind)


def check(found: SearchResults, committers: int) -> None:
    """Fail unless all rows are there, and those of one committer say the same."""
    said: dict[object, list[object]] = {}
    for hit in found.hits:
        said.setdefault(hit.metadata["writer"], []).append(hit.metadata["said"])
    assert [len(each) for each in said.values()] == [ROWS] * committers
    assert all(len(set(each)) == 1 for each in said.values())
