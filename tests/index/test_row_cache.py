"""What searches keep between them: the same answers as without it, from memory, within its bound."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flowbed.index.active_space import FRESH, RecentSpaces
from flowbed.index.compaction import compact
from flowbed.index.datasets import Datasets
from flowbed.index.search import row_cache as held_rows
from flowbed.index.search import search
from flowbed.index.search.row_cache import RowCache
from flowbed.index.versions.history import restore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.index.conftest import Bench

    from flowbed.records import SearchResults

STEP = 16  # rows that a search of these tests brings in


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_rows, "STEP", STEP)


async def ask(bench: Bench, text: str, cache: RowCache | None, **how: object) -> SearchResults:
    """Search the collection for a text."""
    live = await bench.datasets.begin("docs", bench.space, now=1)
    vector = bench.upsert("q", 1, text).vector
    return await search(vector, [live], datasets=bench.datasets, cache=cache, **how)  # type: ignore[arg-type]


async def fill(bench: Bench, count: int = 50) -> None:
    """Commit rows of five documents."""
    rows = [bench.upsert(f"s#d{n % 5}#{n:05d}", 1, f"text {n}", n=n) for n in range(count)]
    await bench.lay_down(rows)
    await bench.commit()


async def index(bench: Bench) -> None:
    """Make the vector index hold every row."""
    live = await bench.datasets.begin("docs", bench.space, now=1)
    how = {"vector_index": "always", "oldest_pending": None, "now": bench.clock()}
    await compact(live, datasets=bench.datasets, **how)  # type: ignore[arg-type]


async def all_held(bench: Bench, cache: RowCache, rows: int) -> None:
    """Search until every row is cached."""
    for _ in range(rows // STEP + 20):
        await ask(bench, "text 1", cache)
    assert cache.rows == rows


async def agree(bench: Bench, cache: RowCache) -> None:
    """See that searches answer alike with what is cache and without, by all of their ways."""
    for how in ({}, {"limit": 40}, {"where": {"n": {"$gte": 20}}}, {"unit": "document"}, {"exact": True}):
        for text in ("text 7", "text 30", "other text"):
            told, kept = await ask(bench, text, None, **how), await ask(bench, text, cache, **how)
            assert kept.versions == told.versions
            assert [(hit.id, hit.document, hit.metadata) for hit in kept.hits] == [
                (hit.id, hit.document, hit.metadata) for hit in told.hits
            ]
            np.testing.assert_allclose(
                [hit.score for hit in kept.hits], [hit.score for hit in told.hits], atol=1e-6
            )


@pytest.mark.parametrize("indexed", [False, True])
async def test_row_cache_hits_equal_stored_rows_after_every_change(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, indexed: bool
) -> None:
    """Edits, deletions, compactions and a rollback."""
    monkeypatch.setattr("flowbed.index.search.nearest.EXACT_ROWS", 0)
    cache = RowCache()
    await fill(bench, 300)
    if indexed:
        await index(bench)
    await agree(bench, cache)
    await all_held(bench, cache, 300)
    await agree(bench, cache)
    before = (await ask(bench, "text 7", cache)).versions["docs"]
    await bench.lay_down(
        [bench.upsert("s#d2#00007", 2, "other text", n=7), bench.upsert("late", 2, "text 400", n=400)],
        deletes={"s#d0#00030": 2},
    )
    await bench.commit()
    await agree(bench, cache)
    assert (await ask(bench, "text 400", cache)).hits[0].id == "late"
    assert "s#d0#00030" not in {hit.id for hit in (await ask(bench, "text 30", cache, limit=300)).hits}
    if indexed:
        await index(bench)
    live = await bench.datasets.begin("docs", bench.space, now=1)
    await compact(live, datasets=bench.datasets, vector_index="never", oldest_pending=None, now=bench.clock())
    await agree(bench, cache)
    await all_held(bench, cache, 300)
    await agree(bench, cache)
    await restore(live, before, datasets=bench.datasets)
    await agree(bench, cache)
    assert (await ask(bench, "text 30", cache)).hits[0].id == "s#d0#00030"


async def test_row_cache_full_search_reads_no_row_files(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(bench, 6_000)
    await index(bench)
    cache = RowCache()
    monkeypatch.setattr(held_rows, "STEP", 4_096)
    for _ in range(8):
        expected = await ask(bench, "text 7", cache)
    live = await bench.datasets.begin("docs", bench.space, now=1)
    shutil.rmtree(tmp_path / "store" / live.key / "data")
    vector = bench.upsert("q", 1, "text 7").vector
    assert await search(vector, [live], datasets=bench.datasets, cache=cache) == expected
    with pytest.raises(Exception, match="data"):
        await search(vector, [live], datasets=bench.datasets)


async def test_row_cache_after_commit_adds_only_new_fragments(bench: Bench) -> None:
    cache = RowCache()
    await fill(bench, 100)
    await all_held(bench, cache, 100)
    await bench.lay_down([bench.upsert("late", 2, "text 400")])
    await bench.commit()
    await ask(bench, "text 7", cache)
    assert cache.rows >= 100
    await all_held(bench, cache, 101)


async def test_row_cache_first_search_caches_nothing(bench: Bench) -> None:
    """A command searches only once."""
    cache = RowCache()
    await fill(bench)
    await ask(bench, "text 7", cache)
    assert cache.rows == 0


async def test_row_cache_limit_bounds_bytes_with_equal_hits(bench: Bench, tmp_path: Path) -> None:
    """Without room for vectors only texts are cached, or nothing."""
    await fill(bench, 300)
    live = await bench.datasets.begin("docs", bench.space, now=1)
    files = sum(path.stat().st_size for path in (tmp_path / "store" / live.key / "data").iterdir())
    vectors = 300 * 8 * 4
    texts = held_rows.UNPACKED * (files - vectors)
    kept = []
    for limit in (texts + vectors, texts + vectors - 1, texts - 1):
        cache = RowCache(limit=limit)
        for _ in range(300 // STEP + 20):
            await ask(bench, "text 1", cache)
        await agree(bench, cache)
        assert cache.bytes <= limit
        kept.append((cache.rows, cache.bytes))
    assert [rows for rows, _ in kept] == [300, 300, 0]
    assert kept[0][1] - kept[1][1] == vectors


async def test_row_cache_larger_rows_than_expected_stay_near_the_limit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_rows, "UNPACKED", 0)
    await fill(bench, 300)
    cache = RowCache(limit=15_000)
    for _ in range(300 // STEP + 20):
        await ask(bench, "text 1", cache)
    await agree(bench, cache)
    assert 0 < cache.rows < 300
    assert cache.bytes < 15_000 + STEP * 200


async def test_row_cache_older_version_is_not_answered_from_it(bench: Bench) -> None:
    cache = RowCache()
    await fill(bench)
    before = (await ask(bench, "text 7", cache)).versions["docs"]
    await bench.lay_down([bench.upsert("s#d2#00007", 2, "something else")])
    await bench.commit()
    await all_held(bench, cache, 50)
    assert (await ask(bench, "text 7", cache, at=before)).hits[0].document == "text 7"
    assert (await ask(bench, "something else", cache)).hits[0].id == "s#d2#00007"


async def test_row_cache_rebuilt_index_keeps_nothing_of_the_old_one(bench: Bench, tmp_path: Path) -> None:
    """Its versions and fragments have the same numbers."""
    cache = RowCache()
    await fill(bench)
    await all_held(bench, cache, 50)
    live = await bench.datasets.begin("docs", bench.space, now=1)
    shutil.rmtree(tmp_path / "store" / live.key)
    another = replace(bench, datasets=Datasets(bench.store))
    await another.datasets.begin("docs", bench.space, now=1)
    await another.lay_down([another.upsert(f"new#{n:05d}", 1, f"text {n}") for n in range(50)])
    await another.commit()
    vector = bench.upsert("q", 1, "text 7").vector
    assert (await search(vector, [live], datasets=another.datasets, cache=cache)).hits[0].id == "new#00007"


async def test_recent_spaces_are_read_again_after_a_second(bench: Bench) -> None:
    """A missing space is read each time."""
    now = [0.0]
    recent = RecentSpaces(bench.store, monotonic=lambda: now[0])
    assert await recent.get("docs") is None
    live = await bench.datasets.begin("docs", bench.space, now=1)
    assert await recent.get("docs") == live
    await bench.store.delete(["docs/active.json"])
    assert await recent.get("docs") == live
    now[0] = FRESH
    assert await recent.get("docs") is None
