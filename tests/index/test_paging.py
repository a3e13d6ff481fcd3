"""Pages of a search, the times of rows, and rows like another."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flowbed.errors import NotFound, Rejected
from flowbed.index.compaction import compact
from flowbed.index.search import search
from flowbed.index.search.around import example
from flowbed.index.search.row_cache import RowCache
from flowbed.index.search.times import moment, time_of, within
from flowbed.index.versions.retention import NOTHING

if TYPE_CHECKING:
    from tests.index.conftest import Bench

    from flowbed.index.active_space import Live
    from flowbed.records import SearchResults

ROWS = 60
NOW = 1_770_000_000.0
TIMES: dict[str, Any] = {
    "ts": {"ts": 1_700_000_000.5},
    "text": {"last_ts": "1700000100.25", "first_ts": "1690000000"},
    "ms": {"timestamp": 1_700_000_200_000},
    "utc": {"created_at": "2023-11-14T22:21:40Z", "updated_at": "2026-01-01T00:00:00Z"},
    "zone": {"created_at": "2023-11-15T07:23:20.5+09:00"},
    "day": {"date": "2023-11-15"},
    "odd": {"date": "11/15/2023", "ts": True},
    "none": {},
}


async def fill(bench: Bench, count: int = ROWS) -> Live:
    """Commit rows with a common word, of documents of two chunks."""
    rows = [
        bench.upsert(f"s#d{n // 2}#{n:05d}", 1, f"word {n}", source="s", document=f"d{n // 2}", ts=n)
        for n in range(count)
    ]
    await bench.lay_down(rows)
    await bench.commit()
    return await bench.datasets.begin("docs", bench.space, now=1)


async def ask(bench: Bench, lives: list[Live], **how: Any) -> SearchResults:
    """Search for the common word."""
    vector = bench.upsert("q", 1, "word 7").vector
    options = {"text": "word 7", "now": NOW, **how}
    return await search(vector, lives, datasets=bench.datasets, **options)


async def pages(bench: Bench, live: Live, meanwhile: Any = None, **how: Any) -> list[list[str]]:
    """Page to the end; `meanwhile` is called between pages."""
    found, cursor = [], None
    for turn in range(100):
        page = await ask(bench, [live], cursor=cursor, **how)
        found.append([hit.id for hit in page.hits])
        cursor = page.next
        if cursor is None:
            return found
        if meanwhile is not None:
            await meanwhile(turn)
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
@pytest.mark.parametrize("unit", ["chunk", "document"])
async def test_pages_of_an_index_that_moves_show_every_hit_once(bench: Bench, mode: str, unit: str) -> None:
    """Rows are added, changed and deleted between pages, and nothing of it is seen; the cache may hold any version."""
    live, cache = await fill(bench), RowCache()

    async def meanwhile(turn: int) -> None:
        await bench.lay_down(
            [bench.upsert(f"s#new{turn}#00000", 1, "word 7"), bench.upsert("s#d0#00000", turn + 2, "other")],
            {f"s#d{turn + 1}#{2 * turn + 3:05d}": 2},
        )
        await bench.commit()
        await ask(bench, [live], cache=cache)

    found = await pages(bench, live, meanwhile, mode=mode, unit=unit, limit=9, cache=cache)
    names = [name for page in found for name in page]
    assert [len(page) for page in found[:-1]] == [9] * (len(found) - 1)
    assert len(names) == len(set(names)) == (ROWS if unit == "chunk" else ROWS // 2)
    assert not [name for name in names if "new" in name]


async def test_pages_through_a_vector_index_show_no_hit_twice(bench: Bench) -> None:
    live = await fill(bench, 400)
    await compact(
        live, datasets=bench.datasets, vector_index="always", oldest_pending=None, now=bench.clock()
    )
    names = [name for page in await pages(bench, live, limit=37, exact=False) for name in page]
    assert len(names) == len(set(names)) == 400


@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
async def test_pages_by_time_descend_to_the_end_of_the_best(bench: Bench, mode: str) -> None:
    """Of hits by meaning the best 100 are ordered; each page goes on where the last one ended."""
    live = await fill(bench, 120)
    found = [name for page in await pages(bench, live, mode=mode, order="newest", limit=30) for name in page]
    times = [int(name.rpartition("#")[2]) for name in found]
    assert times == sorted(times, reverse=True)
    assert len(times) == len(set(times)) == (120 if mode == "text" else 100)
    oldest = await ask(bench, [live], mode=mode, order="oldest", limit=5)
    assert [hit.metadata["ts"] for hit in oldest.hits] == sorted(times)[:5]


async def test_cursor_of_another_search_or_damaged_is_rejected(bench: Bench) -> None:
    live = await fill(bench)
    cursor = (await ask(bench, [live])).next
    assert cursor is not None
    for other in ({"mode": "text"}, {"where": {"ts": 1}}, {"unit": "document"}, {"text": "else"}):
        with pytest.raises(Rejected, match="of another search"):
            await ask(bench, [live], cursor=cursor, **other)
    for damaged in ("", "x", cursor[:-7], "%", base64.b64encode(b'{"versions": 1}\0').decode()):
        with pytest.raises(Rejected, match="the cursor is damaged"):
            await ask(bench, [live], cursor=damaged)


async def test_cursor_with_any_character_altered_is_rejected(bench: Bench) -> None:
    """Its versions, its moment or what was shown could otherwise shift the page unnoticed."""
    live = await fill(bench)
    cursor = (await ask(bench, [live], limit=2)).next
    assert cursor is not None
    for place, character in enumerate(cursor.rstrip("=")):
        altered = f"{cursor[:place]}{'A' if character != 'A' else 'B'}{cursor[place + 1 :]}"
        with pytest.raises(Rejected, match="the cursor is damaged"):
            await ask(bench, [live], limit=2, cursor=altered)
    assert (await ask(bench, [live], limit=2, cursor=cursor)).hits


async def test_cursor_of_a_version_that_is_gone_names_those_that_are_kept(bench: Bench) -> None:
    live = await fill(bench)
    cursor = (await ask(bench, [live])).next
    await bench.lay_down([bench.upsert("new", 1)])
    await bench.commit()
    how: dict[str, Any] = {"vector_index": "never", "oldest_pending": None, "now": bench.clock()}
    await compact(live, datasets=bench.datasets, retention=NOTHING, **how)
    with pytest.raises(NotFound, match="has no version"):
        await ask(bench, [live], cursor=cursor)


async def test_last_page_has_no_cursor(bench: Bench) -> None:
    live = await fill(bench)
    assert (await ask(bench, [live], limit=ROWS)).next is None
    assert (await ask(bench, [live], limit=ROWS - 1)).next is not None
    assert (await ask(bench, [live], where={"ts": {"$lt": 3}}, limit=3)).next is None


async def test_since_and_before_keep_rows_of_that_time(bench: Bench) -> None:
    """Numbers, milliseconds, and times with zones; rows without a time are never within one."""
    await bench.lay_down(
        [bench.upsert(name, 1, "word", **metadata) for name, metadata in TIMES.items()], collection="times"
    )
    await bench.commit("times")
    live = await bench.datasets.begin("times", bench.space, now=1)

    async def names(**how: Any) -> set[str]:
        by_mode = [
            {hit.id for hit in (await ask(bench, [live], mode=mode, **how)).hits}
            for mode in ("vector", "text", "hybrid")
        ]
        assert by_mode[0] == by_mode[1] == by_mode[2]
        return by_mode[0]

    timed = {"ts", "text", "ms", "utc", "zone", "day"}
    assert await names(since=0) == timed
    assert await names(before="2024-01-01") == timed
    assert await names(since=1_700_000_100.25) == {"text", "ms", "utc", "zone", "day"}
    assert await names(before=1_700_000_100.25) == {"ts", "text"}
    assert await names(since="2023-11-14T22:21:40Z", before="2023-11-14T22:23:21+00:00") == {"utc", "zone"}
    assert await names(since="7d") == set()
    assert await names(since=datetime(2023, 11, 15, tzinfo=UTC)) == {"day"}
    newest = (await ask(bench, [live], order="newest")).hits
    assert [hit.id for hit in newest] == ["day", "zone", "utc", "ms", "text", "ts", "none", "odd"]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("7d", NOW - 604_800), ("90m", NOW - 5_400), ("2026-03-14", 1_773_446_400), ("1700000000", 1.7e9)],
)
def test_moment_is_a_date_a_time_or_an_age(written: str, seconds: float) -> None:
    assert moment(written, "since", now=NOW) == seconds


@pytest.mark.parametrize("written", ["yesterday", "", "7y", "2026-13-01", "nan", float("inf"), "-1"])
def test_moment_that_is_none_is_rejected_with_examples(written: str | float) -> None:
    with pytest.raises(Rejected, match=r"since is .* give a date such as 2026-03-14"):
        moment(written, "since", now=NOW)


def test_time_of_a_row_is_that_of_its_first_key_with_one() -> None:
    assert time_of({"date": "soon", "ts": 5}) == 5
    assert time_of({"created_at": "2026-02-30", "updated_at": "2026-03-01"}) == 1_772_323_200
    assert time_of({"ts": float("nan")}) is None
    assert within(None, None) == "true"


async def test_search_like_a_row_leaves_out_the_row_or_its_document(bench: Bench) -> None:
    live = await fill(bench)
    row, of, vector = await example("s#d3#00007", [live], datasets=bench.datasets)
    assert of is live
    assert np.allclose(vector, bench.upsert("q", 1, "word 7").vector)
    near = await search(vector, [live], datasets=bench.datasets, without=row, limit=ROWS)
    assert len(near.hits) == ROWS - 1
    assert row.id not in {hit.id for hit in near.hits}
    documents = await search(
        vector, [live], datasets=bench.datasets, without=row, limit=ROWS, unit="document"
    )
    assert {hit.metadata["document"] for hit in documents.hits} == {f"d{n}" for n in range(ROWS // 2)} - {
        "d3"
    }
    with pytest.raises(NotFound, match="no row of the index is called 'nobody'"):
        await example("nobody", [live], datasets=bench.datasets)
