"""Searches by text and hybrid ones: with an index, with one that lags, and without; and where the words are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flowbed.errors import Error, Rejected
from flowbed.index import full_text
from flowbed.index import search as searching
from flowbed.index.compaction import compact, is_due
from flowbed.index.datasets import Datasets
from flowbed.index.erasure import erase_rows
from flowbed.index.full_text import matching, words_of
from flowbed.index.repair import damage_of_full_text, rebuild_full_text
from flowbed.index.search import search
from flowbed.index.search.row_cache import RowCache
from flowbed.index.versions import identity, versions
from flowbed.index.versions.history import restore, restored_since
from flowbed.index.versions.retention import NOTHING

if TYPE_CHECKING:
    import lance
    from tests.index.conftest import Bench

    from flowbed.index.active_space import Live
    from flowbed.records import Hit, SearchResults

TEXTS = {
    "s#a#0": "The running dogs jumped over error_code E1234 in v2.3.1",
    "s#a#1": "東京都の天気は晴れです",
    "s#b#0": "部署服务器失败 请重试",
    "s#b#1": "Un café crème, s'il vous plaît",
    "s#c#0": "Nothing to see here",
}


async def fill(bench: Bench, texts: dict[str, str] | None = None, version: int = 1, **metadata: Any) -> Live:
    """Commit rows whose document is the part of their id between the signs."""
    rows = [
        bench.upsert(name, version, text, source="s", document=name.split("#")[1], **metadata)
        for name, text in (TEXTS if texts is None else texts).items()
    ]
    await bench.lay_down(rows)
    await bench.commit()
    return await bench.datasets.begin("docs", bench.space, now=1)


async def index(bench: Bench, live: Live, **how: Any) -> None:
    """Build or extend the full-text index."""
    options: dict[str, Any] = {"vector_index": "never", "oldest_pending": None, "now": bench.clock(), **how}
    await compact(live, datasets=bench.datasets, full_text=True, **options)


async def ask(bench: Bench, live: Live, text: str, **how: Any) -> SearchResults:
    """Search by text, unless told otherwise."""
    vector = bench.upsert("q", 1, how.pop("near", text)).vector
    return await search(vector, [live], datasets=bench.datasets, text=text, **{"mode": "text", **how})


async def ids(bench: Bench, live: Live, text: str, **how: Any) -> list[str]:
    """Return the ids of the hits."""
    return [hit.id for hit in (await ask(bench, live, text, **how)).hits]


@pytest.fixture(params=["in memory", "indexed", "lagging"])
async def filled(bench: Bench, request: pytest.FixtureRequest) -> Live:
    """The texts: without an index, with one, and with one that has only some of them."""
    if request.param == "lagging":
        first = dict(list(TEXTS.items())[:2])
        live = await fill(bench, first)
        await index(bench, live)
        return await fill(bench, {name: text for name, text in TEXTS.items() if name not in first})
    live = await fill(bench)
    if request.param == "indexed":
        await index(bench, live)
    return live


FOUND = {
    "dog": ["s#a#0"],
    "E1234": ["s#a#0"],
    "error code": ["s#a#0"],
    "CAFE": ["s#b#1"],
    "天気": ["s#a#1"],
    "東京の天気": ["s#a#1"],
    "服务器": ["s#b#0"],
    "the": [],
    "elephant": [],
}


async def test_search_by_text_finds_words_in_any_script(bench: Bench, filled: Live) -> None:
    """Stems, folded accents, Japanese and Chinese words; the same with an index, with a lagging one and without."""
    assert {query: await ids(bench, filled, query) for query in FOUND} == FOUND


async def test_text_search_rows_changed_or_rolled_back_finds_those_of_the_version(
    bench: Bench, filled: Live
) -> None:
    """Each version is searched as it is: an old text is found in the old version only."""
    before = (await versions(filled, datasets=bench.datasets))[0].version
    await fill(bench, {"s#a#0": "A sleeping cat"}, version=2)
    await bench.lay_down(deletes={"s#a#1": 2})
    await bench.commit()
    assert await ids(bench, filled, "dog") == []
    assert await ids(bench, filled, "天気") == []
    assert await ids(bench, filled, "cat") == ["s#a#0"]
    assert set(await ids(bench, filled, "dog 天気", at=before)) == {"s#a#0", "s#a#1"}
    await restore(filled, before, datasets=bench.datasets)
    assert await ids(bench, filled, "dog cat") == ["s#a#0"]
    await index(bench, filled)
    assert set(await ids(bench, filled, "dog 天気 cat")) == {"s#a#0", "s#a#1"}


async def test_search_filter_holds_in_every_mode(bench: Bench, filled: Live) -> None:
    where = {"document": {"$in": ["b", "c"]}}
    both = TEXTS["s#a#0"] + TEXTS["s#b#1"]
    assert await ids(bench, filled, both, where=where) == ["s#b#1"]
    assert set(await ids(bench, filled, both, where=where, mode="vector")) == {"s#b#0", "s#b#1", "s#c#0"}
    hybrid = await ids(bench, filled, both, where=where, mode="hybrid")
    assert set(hybrid) == {"s#b#0", "s#b#1", "s#c#0"}
    assert len(await ids(bench, filled, both, where=where, mode="hybrid", limit=2)) == 2


async def test_search_limit_returns_the_best_of_many(bench: Bench) -> None:
    """A filter is applied before the best are chosen, and the best have the word more often."""
    texts = {f"s#d{number}#0": "word " * (number + 1) + "filler " * (40 - number) for number in range(40)}
    live = await fill(bench, texts)
    in_memory = await ids(bench, live, "word", limit=5)
    filtered = await ids(bench, live, "word", limit=5, where={"document": {"$in": ["d0", "d1", "d2"]}})
    await index(bench, live)
    assert await ids(bench, live, "word", limit=5) == in_memory == [f"s#d{n}#0" for n in range(39, 34, -1)]
    assert filtered == ["s#d2#0", "s#d1#0", "s#d0#0"]
    where = {"document": {"$in": ["d0", "d1", "d2"]}}
    assert await ids(bench, live, "word", limit=5, where=where) == filtered


async def test_search_hybrid_row_first_in_both_lists_scores_one(bench: Bench, filled: Live) -> None:
    """Its parts are told; a row that only the vectors find comes after it."""
    found = (await ask(bench, filled, "天気", mode="hybrid", near=TEXTS["s#a#1"])).hits
    assert found[0].id == "s#a#1"
    assert found[0].score == pytest.approx(1.0)
    assert found[0].scores["vector"] == pytest.approx(1.0, abs=1e-6)
    assert found[0].scores["text"] > 0
    assert [sorted(hit.scores) for hit in found[1:]] == [["vector"]] * 4
    assert len(found) == 5


async def test_search_by_document_counts_each_once_in_every_mode(bench: Bench, filled: Live) -> None:
    both = TEXTS["s#b#0"] + TEXTS["s#b#1"]
    assert len(await ids(bench, filled, both)) == 2
    assert len(await ids(bench, filled, both, unit="document")) == 1
    assert len(await ids(bench, filled, both, unit="document", mode="hybrid")) == 3


async def test_search_highlights_are_the_words_as_written(bench: Bench, filled: Live) -> None:
    """Offsets are characters of the hit's text; a term is the query's word."""
    (hit,) = (await ask(bench, filled, "DOG jumping elephant v2")).hits
    assert marked(hit) == [("dogs", "DOG"), ("jumped", "jumping"), ("v2", "v2")]
    assert hit.matched == ("DOG", "jumping", "v2")
    (hit,) = (await ask(bench, filled, "creme")).hits
    assert marked(hit) == [("crème", "creme")]
    (hit,) = (await ask(bench, filled, "天気")).hits
    assert marked(hit) == [("天気", "天気")]
    by_vector = (await ask(bench, filled, "dog", mode="vector")).hits
    assert {(each.matched, each.highlights) for each in by_vector} == {((), ())}


def marked(hit: Hit) -> list[tuple[str, str]]:
    """Return what is highlighted, with the term of each."""
    return [(hit.document[each.start : each.end], each.term) for each in hit.highlights]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "the the the",
        "<b>bold</b> & <script>x</script>",
        "é e\u0301 ﬁne ½ ǆ İstanbul ẞ \uff21\uff22\uff23 ｶﾞ が",
        "\x00 a\x00b \ud7ff \u200bzero\u200d 👩‍👩‍👧 😀x",
        "x" * 50 + " y",
        "東京都の天気は、晴れ。サーバーが落ちた。部署服务器失败。한국어 문장 ประเทศไทย",
    ],
)
def test_words_of_odd_texts_have_places_in_order(text: str) -> None:
    """Every place lies within the text, after the place before it."""
    last = 0
    for word in words_of(text):
        assert last <= word.start <= word.end <= len(text)
        assert word.start == word.end or word.stem
        last = word.end


async def test_search_query_without_words_warns(bench: Bench, filled: Live) -> None:
    found = await ask(bench, filled, "the and of")
    assert found.hits == ()
    assert "no word to look for" in found.warnings[0]


async def test_search_query_of_countless_words_looks_for_the_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "WORDS", 3)
    live = await fill(bench)
    found = await ask(bench, live, "one two DOGS two café jumped")
    assert [hit.id for hit in found.hits] == ["s#a#0"]
    assert found.hits[0].matched == ("DOGS",)
    assert found.warnings == ("of 5 different words in the query, the first 3 were looked for",)


async def test_identity_rewritten_full_text_index_is_none_and_still_searched(bench: Bench) -> None:
    """Lance's description of such a version cannot be read, which stops neither publications nor rollbacks."""
    live = await fill(bench)
    await index(bench, live)
    for version in range(2, 5):
        await fill(bench, {"s#a#0": f"a dog of version {version}"}, version=version)
    dataset = await bench.datasets.writable(live)
    dataset.optimize.compact_files(materialize_deletions_threshold=0.0)
    newest = int(dataset.version)
    assert await identity(live, newest, datasets=bench.datasets) == ""
    assert (await restored_since(live, 0, datasets=bench.datasets))[0] == newest
    assert await ids(bench, live, "dog") == ["s#a#0"]


async def test_search_many_rows_without_an_index_says_how_to_build_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hybrid search, and one of several collections, go on with a warning."""
    monkeypatch.setattr(matching, "IN_MEMORY", 3)
    live = await fill(bench)
    with pytest.raises(Rejected, match=r"has 5 rows .*`flowbed compact docs --full-text` builds it"):
        await ask(bench, live, "dog")
    found = await ask(bench, live, "dog", mode="hybrid")
    assert len(found.hits) == 5
    assert "not searched by text: version" in found.warnings[0]
    await index(bench, live)
    assert await ids(bench, live, "dog") == ["s#a#0"]


async def test_search_in_memory_of_one_version_reads_its_texts_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that searches twice indexes once; a commit makes it index again."""
    live, cache, built = await fill(bench), RowCache(), Counter[str]()
    real = full_text.build_full_text

    def counted(dataset: lance.LanceDataset) -> None:
        built["times"] += 1
        real(dataset)

    monkeypatch.setattr(full_text, "build_full_text", counted)
    for _ in range(3):
        assert await ids(bench, live, "dog", cache=cache) == ["s#a#0"]
    await fill(bench, {"s#d#0": "another dog"})
    assert await ids(bench, live, "dog", cache=cache) == ["s#d#0", "s#a#0"]
    assert built["times"] == 2


async def test_full_text_index_that_lags_much_is_due_and_extended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small segments join, so few are left; a collection without an index gets none."""
    live, now = await fill(bench), bench.clock()
    monkeypatch.setattr(full_text, "UNINDEXED", 2)
    assert not await is_due(live, datasets=bench.datasets, now=now)
    await index(bench, live)
    for turn in range(4):
        await fill(bench, {f"s#e{turn}#{n}": f"turn{turn} word{n}" for n in range(3)})
        assert await is_due(live, datasets=bench.datasets, now=now)
        done = await compact(
            live,
            datasets=bench.datasets,
            vector_index="never",
            oldest_pending=None,
            now=now,
            only_if_due=True,
        )
        assert done is not None
        assert done.full_text == "extend"
        assert not await is_due(live, datasets=bench.datasets, now=now)
        assert len(await ids(bench, live, f"turn{turn}")) == 3
    dataset = await bench.datasets.open(live)
    assert dataset is not None
    built = full_text.full_text(dataset)
    assert built is not None
    assert len(built.segments) <= 2
    assert await ids(bench, live, "dog") == ["s#a#0"]


async def test_damaged_full_text_index_is_found_and_built_again(bench: Bench) -> None:
    """Searches by vector go on meanwhile."""
    live = await fill(bench)
    await index(bench, live)
    assert await damage_of_full_text(live, datasets=bench.datasets) == ""
    folder = Path(bench.store.location(live.key).uri) / "_indices"
    for file in folder.rglob("*.lance"):
        file.write_bytes(b"damaged" + file.read_bytes()[7:-100])
    fresh = Datasets(bench.store)
    with pytest.raises(Error):
        await search(None, [live], datasets=fresh, text="dog", mode="text")
    assert len((await search(np.ones(8, np.float32), [live], datasets=fresh)).hits) == 5
    assert await damage_of_full_text(live, datasets=fresh)
    await rebuild_full_text(live, datasets=fresh)
    assert await damage_of_full_text(live, datasets=Datasets(bench.store)) == ""
    found = await search(None, [live], datasets=Datasets(bench.store), text="dog", mode="text")
    assert [hit.id for hit in found.hits] == ["s#a#0"]


@pytest.mark.parametrize("how", ["forget", "compact --now"])
async def test_erased_rows_leave_no_words_in_the_full_text_index(bench: Bench, how: str) -> None:
    """The index is built again: the one that had the words is deleted with the old versions."""
    live = await fill(bench)
    await index(bench, live)
    dataset = await bench.datasets.open(live)
    assert dataset is not None
    (before,) = [segment.uuid for each in dataset.describe_indices() for segment in each.segments]
    if how == "forget":
        await erase_rows(live, ["s#a#0"], datasets=bench.datasets)
    else:
        await bench.lay_down(deletes={"s#a#0": 2})
        await bench.commit()
        await index(bench, live, retention=NOTHING)
    assert await ids(bench, live, "dog") == []
    assert await ids(bench, live, "天気") == ["s#a#1"]
    files = [listed.key async for listed in bench.store.list(f"{live.key}/_indices")]
    assert files
    assert not [each for each in files if str(before) in each]
