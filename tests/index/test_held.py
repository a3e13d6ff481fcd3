"""What searches keep between them: the same answers as without it, from memory, within its bound."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flowbed.index import row_cache as held_rows
from flowbed.index.active_space import FRESH, Recent
from flowbed.index.compaction import compact
from flowbed.index.datasets import Datasets
from flowbed.index.history import restore
from flowbed.index.row_cache import Held
from flowbed.index.search import search

if TYPE_CHECKING:
    from pathlib import Path

    from tests.index.conftest import Bench

    from flowbed.records import SearchResults

STEP = 16  # rows that a search of these tests brings in


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_rows, "STEP", STEP)


async def ask(bench: Bench, text: str, held: Held | None, **how: object) -> SearchResults:
    """Search the collection for a text."""
    live = await bench.datasets.begin("docs", bench.space, now=1)
    vector = bench.upsert("q", 1, text).vector
    return await search(vector, [live], datasets=bench.datasets, held=held, **how)  # type: ignore[arg-type]


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


async def all_held(bench: Bench, held: Held, rows: int) -> None:
    """Search until every row is held."""
    for _ in range(rows // STEP + 20):
        await ask(bench, "text 1", held)
    assert held.rows == rows


async def agree(bench: Bench, held: Held) -> None:
    """See that searches answer alike with what is held and without, by all of their ways."""
    for how in ({}, {"limit": 40}, {"where": {"n": {"$gte": 20}}}, {"unit": "document"}, {"exact": True}):
        for text in ("text 7", "text 30", "other text"):
            told, kept = await ask(bench, text, None, **how), await ask(bench, text, held, **how)
            assert kept.versions == told.versions
            assert [(hit.id, hit.document, hit.metadata) for hit in kept.hits] == [
                (hit.id, hit.document, hit.metadata) for hit in told.hits
            ]
            np.testing.assert_allclose(
                [hit.score for hit in kept.hits], [hit.score for hit in told.hits], atol=1e-6
            )


@pytest.mark.parametrize("indexed", [False, True])
async def test_answers_are_the_same_through_every_kind_of_change(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, indexed: bool
) -> None:
    """After edits, deletions, compactions and a rollback, what is held answers as what is stored does."""
    monkeypatch.setattr("flowbed.index.search.EXACT_ROWS", 0)
    held = Held()
    await fill(bench, 300)
    if indexed:
        await index(bench)
    await agree(bench, held)
    await all_held(bench, held, 300)
    await agree(bench, held)
    before = (await ask(bench, "text 7", held)).versions["docs"]
    await bench.lay_down(
        [bench.upsert("s#d2#00007", 2, "other text", n=7), bench.upsert("late", 2, "text 400", n=400)],
        deletes={"s#d0#00030": 2},
    )
    await bench.commit()
    await agree(bench, held)
    assert (await ask(bench, "text 400", held)).hits[0].id == "late"
    assert "s#d0#00030" not in {hit.id for hit in (await ask(bench, "text 30", held, limit=300)).hits}
    if indexed:
        await index(bench)
    live = await bench.datasets.begin("docs", bench.space, now=1)
    await compact(live, datasets=bench.datasets, vector_index="never", oldest_pending=None, now=bench.clock())
    await agree(bench, held)
    await all_held(bench, held, 300)
    await agree(bench, held)
    await restore(live, before, datasets=bench.datasets)
    await agree(bench, held)
    assert (await ask(bench, "text 30", held)).hits[0].id == "s#d0#00030"


async def test_rows_that_are_held_are_not_read_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all rows are held, a search through the vector index answers without the files of the rows."""
    await fill(bench, 6_000)
    await index(bench)
    held = Held()
    monkeypatch.setattr(held_rows, "STEP", 4_096)
    for _ in range(8):
        expected = await ask(bench, "text 7", held)
    live = await bench.datasets.begin("docs", bench.space, now=1)
    shutil.rmtree(tmp_path / "store" / live.key / "data")
    vector = bench.upsert("q", 1, "text 7").vector
    assert await search(vector, [live], datasets=bench.datasets, held=held) == expected
    with pytest.raises(Exception, match="data"):
        await search(vector, [live], datasets=bench.datasets)


async def test_a_commit_leaves_what_is_held_of_other_fragments(bench: Bench) -> None:
    """After a commit only what it adds is brought in."""
    held = Held()
    await fill(bench, 100)
    await all_held(bench, held, 100)
    await bench.lay_down([bench.upsert("late", 2, "text 400")])
    await bench.commit()
    await ask(bench, "text 7", held)
    assert held.rows >= 100
    await all_held(bench, held, 101)


async def test_one_search_holds_nothing(bench: Bench) -> None:
    """A process that searches once, as a command does, reads no more rows than it shows."""
    held = Held()
    await fill(bench)
    await ask(bench, "text 7", held)
    assert held.rows == 0


async def test_what_is_held_has_a_bound(bench: Bench, tmp_path: Path) -> None:
    """Where there is no room for everything texts are held alone, or nothing; answers are the same."""
    await fill(bench, 300)
    live = await bench.datasets.begin("docs", bench.space, now=1)
    files = sum(path.stat().st_size for path in (tmp_path / "store" / live.key / "data").iterdir())
    vectors = 300 * 8 * 4
    texts = held_rows.UNPACKED * (files - vectors)
    kept = []
    for limit in (texts + vectors, texts + vectors - 1, texts - 1):
        held = Held(limit=limit)
        for _ in range(300 // STEP + 20):
            await ask(bench, "text 1", held)
        await agree(bench, held)
        assert held.bytes <= limit
        kept.append((held.rows, held.bytes))
    assert [rows for rows, _ in kept] == [300, 300, 0]
    assert kept[0][1] - kept[1][1] == vectors


async def test_no_more_is_brought_in_than_there_is_room_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows turn out larger than their files told, what is held stays within a step of the bound."""
    monkeypatch.setattr(held_rows, "UNPACKED", 0)
    await fill(bench, 300)
    held = Held(limit=15_000)
    for _ in range(300 // STEP + 20):
        await ask(bench, "text 1", held)
    await agree(bench, held)
    assert 0 < held.rows < 300
    assert held.bytes < 15_000 + STEP * 200


async def test_a_version_in_the_past_is_read_as_it_was(bench: Bench) -> None:
    """What is held of the newest version does not answer for an older one."""
    held = Held()
    await fill(bench)
    before = (await ask(bench, "text 7", held)).versions["docs"]
    await bench.lay_down([bench.upsert("s#d2#00007", 2, "something else")])
    await bench.commit()
    await all_held(bench, held, 50)
    assert (await ask(bench, "text 7", held, at=before)).hits[0].document == "text 7"
    assert (await ask(bench, "something else", held)).hits[0].id == "s#d2#00007"


async def test_an_index_made_anew_is_not_answered_from_the_old_one(bench: Bench, tmp_path: Path) -> None:
    """Of an index that was removed and made anew, with the same numbers of versions and fragments, nothing is kept."""
    held = Held()
    await fill(bench)
    await all_held(bench, held, 50)
    live = await bench.datasets.begin("docs", bench.space, now=1)
    shutil.rmtree(tmp_path / "store" / live.key)
    another = replace(bench, datasets=Datasets(bench.store))
    await another.datasets.begin("docs", bench.space, now=1)
    await another.lay_down([another.upsert(f"new#{n:05d}", 1, f"text {n}") for n in range(50)])
    await another.commit()
    vector = bench.upsert("q", 1, "text 7").vector
    assert (await search(vector, [live], datasets=another.datasets, held=held)).hits[0].id == "new#00007"


async def test_the_live_space_is_read_once_a_second(bench: Bench) -> None:
    """A live space just read is not read again, one that is not there is, and after a second all are."""
    now = [0.0]
    recent = Recent(bench.store, monotonic=lambda: now[0])
    assert await recent.get("docs") is None
    live = await bench.datasets.begin("docs", bench.space, now=1)
    assert await recent.get("docs") == live
    await bench.store.delete(["docs/active.json"])
    assert await recent.get("docs") == live
    now[0] = FRESH
    assert await recent.get("docs") is None
