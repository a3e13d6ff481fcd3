"""Search, versions, compaction and reuse over a committed index."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flowbed.errors import Conflict, Misconfigured, NotFound, Rejected
from flowbed.index import lease
from flowbed.index.compaction import compact
from flowbed.index.datasets import Datasets
from flowbed.index.search import search
from flowbed.index.vector_lookup import VectorLookup
from flowbed.index.versions import state, versions
from flowbed.records import text_hash

if TYPE_CHECKING:
    from pathlib import Path

    from tests.index.conftest import Bench

    from flowbed.records import SearchResults

DAY = 86_400_000_000  # µs


async def ask(bench: Bench, text: str, **how: object) -> SearchResults:
    """Search the collection for a text."""
    live = await bench.datasets.begin("docs", bench.space, now=1)
    vector = bench.upsert("q", 1, text).vector
    return await search(vector, [live], datasets=bench.datasets, **how)  # type: ignore[arg-type]


async def fill(bench: Bench, count: int = 50) -> None:
    """Commit rows of five documents."""
    rows = [bench.upsert(f"s#d{n % 5}#{n:05d}", 1, f"text {n}", n=n, even=n % 2 == 0) for n in range(count)]
    await bench.lay_down(rows)
    await bench.commit()


async def test_search_own_text_is_the_best_hit(bench: Bench) -> None:
    """Its similarity is 1; the scores of the others descend within [-1, 1]."""
    await fill(bench)
    found = await ask(bench, "text 7", limit=50)
    assert found.hits[0].id == "s#d2#00007"
    assert found.hits[0].score == pytest.approx(1.0, abs=1e-6)
    scores = [hit.score for hit in found.hits]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 50
    assert min(scores) >= -1.000001
    assert found.hits[0].metadata == {"n": 7, "even": False}


@pytest.mark.parametrize("length", [1e-30, 1e-3, 1e3, 1e30])
async def test_search_query_length_does_not_change_hits(bench: Bench, length: float) -> None:
    await fill(bench)
    live = await bench.datasets.begin("docs", bench.space, now=1)
    query = bench.upsert("q", 1, "text 7").vector
    expected = await search(query, [live], datasets=bench.datasets)
    found = await search(query * np.float32(length), [live], datasets=bench.datasets)
    assert [hit.id for hit in found.hits] == [hit.id for hit in expected.hits]
    assert [hit.score for hit in found.hits] == pytest.approx([hit.score for hit in expected.hits], abs=1e-6)


async def test_search_zero_vector_is_rejected(bench: Bench) -> None:
    await fill(bench)
    live = await bench.datasets.begin("docs", bench.space, now=1)
    with pytest.raises(Rejected, match="no direction"):
        await search(np.zeros(8, np.float32), [live], datasets=bench.datasets)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [("[", "unclosed character class"), ("(a{1000}){1000}", "repeats its parts"), ("(?=a)", "look-around")],
)
async def test_search_invalid_regular_expression_is_rejected(bench: Bench, pattern: str, says: str) -> None:
    await fill(bench)
    with pytest.raises(Rejected, match=f"the regular expression .*{says}"):
        await ask(bench, "text 7", where={"$regex": pattern})


async def test_search_filter_is_applied_before_ranking(bench: Bench) -> None:
    """Matching rows are found however far they are from the query."""
    await fill(bench)
    found = await ask(bench, "text 7", where={"n": {"$in": [1, 48]}}, limit=10)
    assert {hit.metadata["n"] for hit in found.hits} == {1, 48}


async def test_search_deleted_row_is_not_found(bench: Bench) -> None:
    await fill(bench)
    await bench.lay_down(deletes={"s#d2#00007": 2})
    await bench.commit()
    found = await ask(bench, "text 7", limit=50)
    assert len(found.hits) == 49
    assert "s#d2#00007" not in {hit.id for hit in found.hits}


async def test_search_by_document_scores_each_by_its_best_chunk(bench: Bench) -> None:
    await fill(bench)
    chunks = (await ask(bench, "text 7", limit=50)).hits
    best: dict[str, float] = {}
    for hit in chunks:
        best.setdefault(hit.id.rpartition("#")[0], hit.score)
    found = (await ask(bench, "text 7", limit=5, unit="document")).hits
    assert [(hit.id.rpartition("#")[0], hit.score) for hit in found] == list(best.items())


async def test_search_by_document_over_two_collections_counts_each_once(bench: Bench) -> None:
    for collection, text in (("docs", "near"), ("more", "far")):
        rows = [bench.upsert(f"s#d#{collection}", 1, text, source="s", document="d")]
        await bench.lay_down(rows, collection=collection)
        await bench.commit(collection)
    lives = [await bench.datasets.begin(name, bench.space, now=1) for name in ("docs", "more")]
    query = bench.upsert("q", 1, "near").vector
    found = await search(query, lives, datasets=bench.datasets, unit="document")
    assert [hit.document for hit in found.hits] == ["near"]
    assert found.hits[0].score <= 1.0


async def test_search_at_an_older_version_finds_its_rows(bench: Bench) -> None:
    await fill(bench)
    before = (await ask(bench, "text 7")).versions["docs"]
    await bench.lay_down([bench.upsert("s#d2#00007", 2, "something else")])
    await bench.commit()
    assert (await ask(bench, "text 7", at=before)).hits[0].document == "text 7"
    assert (await ask(bench, "text 7")).hits[0].document != "text 7"
    with pytest.raises(NotFound, match="no version 99; it keeps 1-"):
        await ask(bench, "text 7", at=99)


async def test_search_rebuilt_index_finds_the_new_rows(bench: Bench, tmp_path: Path) -> None:
    """It was searched before at the same version number."""
    await fill(bench)
    live = await bench.datasets.begin("docs", bench.space, now=1)
    query = bench.upsert("q", 1, "text 7").vector
    before = await search(query, [live], datasets=bench.datasets)
    shutil.rmtree(tmp_path / "store" / live.key)
    with pytest.raises(NotFound, match="is empty"):
        await search(query, [live], datasets=bench.datasets)
    another = replace(bench, datasets=Datasets(bench.store))
    await another.datasets.begin("docs", bench.space, now=1)
    await another.lay_down([bench.upsert(f"new#{n:05d}", 1, f"text {n}") for n in range(50)])
    await another.commit()
    found = await search(query, [live], datasets=bench.datasets)
    assert found.versions == before.versions
    assert found.hits[0].id == "new#00007"


@pytest.mark.parametrize("limit", [0, -1, 10_001])
async def test_search_limit_out_of_range_is_rejected(bench: Bench, limit: int) -> None:
    await fill(bench)
    with pytest.raises(Rejected, match="limit"):
        await ask(bench, "text 7", limit=limit)


async def test_search_through_the_vector_index_equals_the_scan(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filters and unindexed rows included."""
    await fill(bench, 400)
    exact = (await ask(bench, "text 7", limit=10)).hits
    live = await bench.datasets.begin("docs", bench.space, now=1)
    done = await compact(
        live, datasets=bench.datasets, vector_index="always", oldest_pending=None, now=bench.clock()
    )
    assert done is not None
    assert done.partitions == 20
    monkeypatch.setattr("flowbed.index.search.nearest.EXACT_ROWS", 0)
    assert (await ask(bench, "text 7", limit=10)).hits[0] == exact[0]
    await bench.lay_down([bench.upsert("late", 1, "a late row", n=1000)])
    await bench.commit()
    assert (await ask(bench, "a late row")).hits[0].id == "late"
    assert (await state(live, datasets=bench.datasets)).unindexed_rows == 1
    filtered = (await ask(bench, "text 7", where={"n": {"$gte": 398}}, limit=10)).hits
    assert {hit.metadata["n"] for hit in filtered} == {398, 399, 1000}
    await compact(
        live, datasets=bench.datasets, vector_index="always", oldest_pending=None, now=bench.clock()
    )
    assert (await state(live, datasets=bench.datasets)).unindexed_rows == 0


async def test_compact_keeps_every_live_row(bench: Bench) -> None:
    for n in range(6):
        await bench.lay_down([bench.upsert(f"a{n}", 1), bench.upsert("same", n + 1, f"text {n}")])
        await bench.commit()
    await bench.lay_down(deletes={"a0": 2})
    await bench.commit()
    before = await bench.rows()
    live = await bench.datasets.begin("docs", bench.space, now=1)
    await compact(live, datasets=bench.datasets, vector_index="auto", oldest_pending=None, now=bench.clock())
    assert await bench.rows() == before
    after = await state(live, datasets=bench.datasets)
    assert (after.fragments, after.rows) == (1, 6)


async def test_compact_keeps_tombstones_while_an_older_delta_may_come(bench: Bench) -> None:
    await bench.lay_down([bench.upsert("a", 1), bench.upsert("b", 1)])
    deleted = bench.clock()
    await bench.lay_down(deletes={"a": deleted})
    await bench.commit()
    live = await bench.datasets.begin("docs", bench.space, now=1)
    late = deleted + 31 * DAY
    for now, pending, kept in ((deleted + 29 * DAY, None, 1), (late, deleted - 1, 1), (late, None, 0)):
        await compact(live, datasets=bench.datasets, vector_index="auto", oldest_pending=pending, now=now)
        assert (await state(live, datasets=bench.datasets)).tombstones == kept
    assert list(await bench.rows()) == ["b"]


async def test_compact_drops_expired_versions_and_keeps_the_newest(bench: Bench) -> None:
    """A search at a dropped version says so."""
    for n in range(14):
        await bench.lay_down([bench.upsert(f"a{n}", 1)])
        await bench.commit()
    live = await bench.datasets.begin("docs", bench.space, now=1)
    newest = (await versions(live, datasets=bench.datasets))[0]
    later = newest.created + int(timedelta(days=8).total_seconds() * 1e6)
    await compact(live, datasets=bench.datasets, vector_index="auto", oldest_pending=None, now=later)
    kept = [each.version for each in await versions(live, datasets=bench.datasets)]
    assert newest.version in kept
    assert 1 not in kept
    with pytest.raises(NotFound):
        await ask(bench, "text 1", at=1)
    assert len(await bench.rows()) == 14


async def test_vector_lookup_returns_vectors_by_text_hash(bench: Bench) -> None:
    await fill(bench)
    live = await bench.datasets.begin("docs", bench.space, now=1)
    hashes = [text_hash(text) for text in ("text 7", "text 49", "never seen")]
    found = await VectorLookup(live, bench.datasets).get_many(hashes)
    assert set(found) == set(hashes[:2])
    np.testing.assert_array_equal(found[hashes[0]], bench.upsert("q", 1, "text 7").vector)


async def test_vector_lookup_deleted_row_is_not_found(bench: Bench) -> None:
    await fill(bench)
    await bench.lay_down(deletes={"s#d2#00007": 2})
    await bench.commit()
    live = await bench.datasets.begin("docs", bench.space, now=1)
    reuse = VectorLookup(live, bench.datasets)
    assert set(await reuse.get_many([text_hash("text 7"), text_hash("text 8")])) == {text_hash("text 8")}


async def test_open_index_without_primary_key_is_refused(bench: Bench) -> None:
    import lance

    from flowbed.index.schema import schema

    live = await bench.datasets.begin("docs", bench.space, now=1)
    plain = schema(8).empty_table().schema
    plain = plain.set(0, plain.field(0).remove_metadata())
    lance.write_dataset(plain.empty_table(), bench.store.location(live.key).uri, mode="overwrite")
    with pytest.raises(Misconfigured, match="primary key"):
        await bench.datasets.open(live)


async def test_lease_held_is_refused_and_a_silent_holder_loses_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence is measured by the rival's own clock."""
    monkeypatch.setattr(lease, "TTL", 0.01)
    now = [0.0]

    def monotonic() -> float:
        now[0] += 20
        return now[0]

    async with lease.held(
        bench.store, "docs", owner="a", dead=alive, monotonic=lambda: 0.0, wait=False
    ) as first:
        with pytest.raises(Conflict, match="a is compacting"):
            async with lease.held(
                bench.store, "docs", owner="b", dead=alive, monotonic=lambda: 0.0, wait=False
            ):
                pass
        monkeypatch.setattr(lease, "TTL", 1000.0)
        rival = lease.held(bench.store, "docs", owner="b", dead=alive, monotonic=monotonic, wait=True)
        monkeypatch.setattr(asyncio, "sleep", _quick(asyncio.sleep))
        async with rival as second:
            assert second.epoch == first.epoch + 1
    async with lease.held(
        bench.store, "docs", owner="c", dead=alive, monotonic=lambda: 0.0, wait=False
    ) as third:
        assert third.owner == "c"


async def test_lease_of_a_dead_holder_is_taken_over_at_once(bench: Bench) -> None:
    await bench.store.create(
        "docs/lease.json", b'{"owner":"a","epoch":3,"seq":7,"ttl_s":60.0,"released":false}'
    )
    async with lease.held(
        bench.store, "docs", owner="b", dead=lambda owner: owner == "a", monotonic=lambda: 0.0, wait=False
    ) as held:
        assert (held.owner, held.epoch) == ("b", 4)


def alive(owner: str) -> bool:
    """Know of no owner that has ended."""
    return owner == ""


def _quick(sleep: object) -> object:
    async def soon(seconds: float) -> None:
        await sleep(min(seconds, 0.001))  # type: ignore[operator]

    return soon


async def test_search_unknown_filter_key_is_named_with_the_existing_keys(bench: Bench) -> None:
    """Only if nothing was found, and only keys that are in no row at all."""
    rows = [bench.upsert(f"s#d#{n:05d}", 1, f"text {n}", source="s", number=n) for n in range(1_200)]
    await bench.lay_down([*rows, bench.upsert("s#rare#00000", 1, "rare", source="s", rare=True)])
    await bench.commit()
    found = await ask(bench, "text 7", where={"$and": [{"sauce": "s"}, {"number": 7}]})
    assert found.hits == ()
    (warning,) = found.warnings
    assert warning.startswith("no row has the metadata key 'sauce': did you mean 'source'? rows have number,")
    assert (await ask(bench, "text 7", where={"rare": "no", "number": -1})).warnings == ()
    assert (await ask(bench, "text 7", where={"sauce": {"$ne": "s"}})).warnings == ()
    assert (await ask(bench, "text 7", where={"number": 7})).warnings == ()
    strange = await ask(bench, "text 7", where={"it's\"\\": 1, "b" * 10_000: 1, "c": 1, "d": 1})
    assert len(strange.warnings) == 3
    assert all(len(each) < 300 for each in strange.warnings)


async def test_search_unknown_key_in_an_empty_collection_has_no_warning(bench: Bench) -> None:
    await bench.lay_down([bench.upsert("s#d#00000", 1, "text")])
    await bench.commit()
    assert (await ask(bench, "text", where={"sauce": 1})).warnings == ()
