"""Collections whose rows are all cached are searched in memory, whatever was edited or deleted."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flowbed.index.compaction import compact
from flowbed.index.search import memory, nearest, row_cache
from flowbed.index.search.memory import whole_of
from flowbed.index.search.nearest import Query, find_nearest
from flowbed.index.search.reader import IndexReader
from flowbed.index.search.row_cache import RowCache

if TYPE_CHECKING:
    from tests.index.conftest import Bench

    from flowbed.index.active_space import Live
    from flowbed.index.search.nearest import Metric
    from flowbed.index.search.row_cache import View

STEP = 16  # rows that a search of these tests caches


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache, "STEP", STEP)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Query]:
    """The queries that Lance was asked."""
    found: list[Query] = []
    scan = nearest._scan

    def count(view: View, query: Query, *how: Any) -> list[int]:
        found.append(query)
        return scan(view, query, *how)

    monkeypatch.setattr(nearest, "_scan", count)
    return found


def expected(rows: dict[str, Any], vector: Any, metric: Metric, limit: int) -> list[str]:
    """Rank rows by comparing all of them."""

    def score(id_: str) -> float:
        row = rows[id_].astype(np.float64)
        if metric == "l2":
            return -float(np.square(row - vector).sum())
        lengths = np.linalg.norm(row) * np.linalg.norm(vector) if metric == "cosine" else 1
        return float(row @ vector / lengths)

    return sorted(rows, key=score, reverse=True)[:limit]


async def test_search_after_random_edits_finds_the_nearest_in_memory(
    bench: Bench, asked: list[Query]
) -> None:
    """Replaced and deleted rows that are still cached are never found, by any metric, and Lance is not asked."""
    reader = IndexReader(bench.store, bench.datasets, monotonic=lambda: 0.0)
    chance, rows = random.Random(3), dict[str, Any]()
    query = bench.upsert("q", 1, "asked for").vector
    for step in range(1, 9):
        written = {f"row {chance.randrange(40)}": f"text {step} {n}" for n in range(12)}
        gone = {id_: step for id_ in chance.sample(sorted(rows), min(3, len(rows))) if id_ not in written}
        upserts = [bench.upsert(id_, step, text) for id_, text in written.items()]
        rows = {id_: row for id_, row in rows.items() if id_ not in gone}
        rows |= {row.id: row.vector for row in upserts}
        await bench.lay_down(upserts, deletes=gone)
        await bench.commit()
        live = await bench.datasets.begin("docs", bench.space, now=1)
        for _ in range(12):  # the cache fills
            await reader.nearest(live, query[None], limit=5)
        asked.clear()
        for metric in ("cosine", "l2", "ip"):
            (found,) = await reader.nearest(live, query[None], limit=7, metric=metric)
            assert list(found.shown[0]) == expected(rows, query, metric, 7)
        (found,) = await reader.nearest(live, query[None], limit=100)
        assert sorted(found.shown[0]) == sorted(rows)
        assert asked == []


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
async def test_search_vectors_of_any_length_are_ranked_by_the_metric(bench: Bench, metric: Metric) -> None:
    """Spaces need not be normalized; then the distance orders rows in other ways than the cosine."""
    lengths = np.random.default_rng(1).uniform(0.1, 9, 60)
    upserts = [bench.upsert(f"row {n}", 1) for n in range(60)]
    for row, length in zip(upserts, lengths, strict=True):
        row.vector[:] *= np.float32(length)
    await bench.lay_down(upserts)
    await bench.commit()
    live = await bench.datasets.begin("docs", bench.space, now=1)
    dataset = bench.datasets._newest_of(live)
    assert dataset is not None
    cache, vector = RowCache(), bench.upsert("q", 1, "asked for").vector
    query = Query(vector=vector, condition="true", limit=9, metric=metric, normalized=False)
    wanted = expected({row.id: row.vector for row in upserts}, vector, metric, 9)
    for _ in range(12):
        view = cache.view(live, dataset)
        (found,) = find_nearest(view, [query])
        assert list(found.shown[0]) == wanted  # from Lance at first, then from memory
        cache.fill(view)
    assert whole_of(view) is not None


async def test_search_without_room_for_all_rows_asks_lance(bench: Bench) -> None:
    await bench.lay_down([bench.upsert(f"row {n}", 1) for n in range(200)])
    await bench.commit()
    reader = IndexReader(bench.store, bench.datasets, monotonic=lambda: 0.0)
    reader.cache = RowCache(limit=20_000)
    live = await bench.datasets.begin("docs", bench.space, now=1)
    query = bench.upsert("q", 1, "text of row 77").vector
    for _ in range(30):
        (found,) = await reader.nearest(live, query[None], limit=1)
        assert list(found.shown[0]) == ["row 77"]
    dataset = bench.datasets._newest_of(live)
    assert dataset is not None
    assert whole_of(reader.cache.view(live, dataset)) is None


@pytest.fixture
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let collections of some rows be large enough for indexes."""
    monkeypatch.setattr(nearest, "EXACT_ROWS", 0)
    monkeypatch.setattr(row_cache, "FEWEST", 0)


async def indexed(bench: Bench) -> Live:
    """Make the vector index hold every row."""
    live = await bench.datasets.begin("docs", bench.space, now=1)
    how = {"vector_index": "always", "oldest_pending": None, "now": bench.clock()}
    await compact(live, datasets=bench.datasets, **how)  # type: ignore[arg-type]
    return live


async def warm(reader: IndexReader, live: Live) -> None:
    """Search until all rows are cached, and indexed in memory if they ever are."""
    query = np.ones(live.space.dimensions, np.float32)
    for _ in range(200):
        await reader.nearest(live, query[None], limit=1)
        dataset = reader.datasets._newest_of(live)
        assert dataset is not None
        if reader.cache.view(live, dataset).built:
            return
    raise AssertionError("the index in memory is not complete after 200 searches")


@pytest.mark.usefixtures("_few_are_many")
async def test_memory_index_after_random_edits_finds_the_nearest_rows(
    bench: Bench, asked: list[Query], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index in memory follows commits by what changed; it is made again where the rows are twice as many."""
    reader = IndexReader(bench.store, bench.datasets, monotonic=lambda: 0.0)
    chance, rows, trained = random.Random(4), dict[str, Any](), list[int]()
    train = memory._trained

    def count(whole: memory.Whole) -> Any:
        trained.append(len(whole.row_ids))
        return train(whole)

    monkeypatch.setattr(memory, "_trained", count)
    query = bench.upsert("q", 1, "asked for").vector
    for step, size in enumerate((60, 12, 12, 70), start=1):
        written = {f"row {chance.randrange(60 * step)}": f"text {step} {n}" for n in range(size)}
        gone = {id_: step for id_ in chance.sample(sorted(rows), min(5, len(rows))) if id_ not in written}
        upserts = [bench.upsert(id_, step, text) for id_, text in written.items()]
        rows = {id_: row for id_, row in rows.items() if id_ not in gone}
        rows |= {row.id: row.vector for row in upserts}
        await bench.lay_down(upserts, deletes=gone)
        await bench.commit()
        if step == 1:
            live = await indexed(bench)
        await warm(reader, live)
        asked.clear()
        for metric in ("cosine", "l2", "ip"):
            (found,) = await reader.nearest(live, query[None], limit=7, metric=metric)
            assert list(found.shown[0]) == expected(rows, query, metric, 7)
        (found,) = await reader.nearest(live, query[None], limit=memory.LONGEST)
        assert list(found.shown[0]) == expected(rows, query, "cosine", memory.LONGEST)
        assert asked == []
    assert len(trained) == 2
    assert trained[1] > memory.GROWN * trained[0]
    (found,) = await reader.nearest(live, query[None], limit=memory.LONGEST + 1)
    assert list(found.shown[0]) == expected(rows, query, "cosine", memory.LONGEST + 1)
    assert len(asked) == 1


@pytest.mark.usefixtures("_few_are_many")
async def test_search_of_vectors_in_one_bit_codes_finds_the_row_nearest_to_each(
    bench: Bench, asked: list[Query]
) -> None:
    dimensions = memory.CODED_DIMENSIONS
    bench.space = replace(bench.space, dimensions=dimensions)
    chance = np.random.default_rng(5)
    vectors = chance.standard_normal((400, dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    upserts = [replace(bench.upsert(f"row {n}", 1), vector=vector) for n, vector in enumerate(vectors)]
    await bench.lay_down(upserts)
    await bench.commit()
    reader = IndexReader(bench.store, bench.datasets, monotonic=lambda: 0.0)
    live = await indexed(bench)
    await warm(reader, live)
    asked.clear()
    noise = chance.standard_normal((40, dimensions)).astype(np.float32) / dimensions**0.5
    found = await reader.nearest(live, vectors[:40] + noise, limit=3)
    assert [each.shown[0][0] for each in found] == [f"row {n}" for n in range(40)]
    assert [len(each.shown[0]) for each in found] == [3] * 40
    assert asked == []


@pytest.mark.usefixtures("_few_are_many")
async def test_search_of_many_rows_without_faiss_asks_lance(
    bench: Bench, asked: list[Query], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "installed", lambda: False)
    await bench.lay_down([bench.upsert(f"row {n}", 1) for n in range(60)])
    await bench.commit()
    reader = IndexReader(bench.store, bench.datasets, monotonic=lambda: 0.0)
    live = await indexed(bench)
    await warm(reader, live)
    asked.clear()
    (found,) = await reader.nearest(live, bench.upsert("q", 1, "text of row 33").vector[None], limit=1)
    assert (list(found.shown[0]), len(asked)) == (["row 33"], 1)
