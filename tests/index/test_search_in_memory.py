"""Collections whose rows are all cached are searched in memory, exactly, whatever was edited or deleted."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flowbed.index.search import nearest, row_cache
from flowbed.index.search.nearest import Query, find_nearest
from flowbed.index.search.reader import IndexReader
from flowbed.index.search.row_cache import RowCache, whole_of

if TYPE_CHECKING:
    from tests.index.conftest import Bench

    from flowbed.index.search.nearest import Metric

STEP = 16  # rows that a search of these tests caches


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache, "STEP", STEP)


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
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaced and deleted rows that are still cached are never found, by any metric, and Lance is not asked."""
    reader = IndexReader(bench.store, bench.datasets, monotonic=lambda: 0.0)
    chance, rows = random.Random(3), dict[str, Any]()
    query = bench.upsert("q", 1, "asked for").vector
    asked: list[Any] = []
    scan = nearest._scan

    def count(*how: Any) -> list[int]:
        asked.append(how)
        return scan(*how)

    monkeypatch.setattr(nearest, "_scan", count)
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
