"""Search: finds the rows of live collections that are nearest to a query, that have its words, or both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import orjson

from flowbed.errors import Damaged, NotFound, Rejected
from flowbed.index.datasets import FileMissing
from flowbed.index.search.filters import to_sql
from flowbed.index.search.hits import by_score, fused, nearest_documents, one_each
from flowbed.index.search.nearest import EVERY, Nearest, Query, find_nearest
from flowbed.index.search.paging import Page, digest_of, name_of, read_cursor, write_cursor
from flowbed.index.search.row_cache import RowCache, View, new_view
from flowbed.index.search.times import moment, time_of, within
from flowbed.records import Hit, SearchResults

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.index.native import Dataset
    from flowbed.index.search.hits import Unit

Mode = Literal["vector", "text", "hybrid"]
Order = Literal["score", "newest", "oldest"]

MOST = 10_000  # hits; more is an export, not a search
# Different words of a query that are looked for: over 100,000 rows these take 0.3 s of CPU.
WORDS = 1_000
# Hits of each list that a hybrid search joins: a row gains little by a rank beyond.
JOINED = 100
# Best hits that a reranker reads: 50 chunks take a provider half a second, and a local model some seconds.
RERANKED = 50
# Best hits that are ordered by time: all that are near in meaning, and the many that have a word.
ORDERED: Mapping[str, int] = {"vector": 100, "text": 1_000, "hybrid": 100}


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Hits in the order of a reranker, with warnings, and the tokens that it read."""

    hits: Sequence[Hit]
    warnings: tuple[str, ...] = ()
    tokens: int = 0


Rerank = Callable[[Sequence[Hit]], Awaitable[Ranking]]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A checked search: `query` for the list by vector, `text` for the list by text, where there is one."""

    query: Query | None
    text: str | None
    condition: str
    wanted: int
    unit: Unit


@dataclass(frozen=True, kw_only=True)
class _Words:
    """The words of a query: by stem as they are written, as a text to search for (None: by vector only); warnings."""

    text: str | None = None
    terms: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass
class _Lists:
    """The hits of the collections that were searched, by list, with their versions and what was left out."""

    hits: dict[str, list[Hit]]
    versions: dict[str, int]
    unreadable: list[str]
    warnings: list[str]


async def search(
    vector: NDArray[np.float32] | None,
    collections: Sequence[Live],
    *,
    datasets: Datasets,
    text: str = "",
    mode: Mode = "vector",
    where: Mapping[str, Any] | None = None,
    since: str | float | datetime | None = None,
    before: str | float | datetime | None = None,
    order: Order = "score",
    limit: int = 10,
    at: int | None = None,
    unit: Unit = "chunk",
    cursor: str | None = None,
    without: Hit | None = None,
    rerank: Rerank | None = None,
    now: float = 0.0,
    exact: bool | None = None,
    cache: RowCache | None = None,
) -> SearchResults:
    """Find the `limit` best rows, best first.

    By `vector` (float32, of the collections' dimensions) these are the nearest; by `text`, those with its words; a
    hybrid search joins both lists by rank.

    `since` and `before` are moments; ages count back from `now` (seconds since 1970). In another `order` than by score,
    the best hits are ordered by their times; those without one come last.

    `at` searches an older version of one collection. With unit `document` each document counts once, by its best
    chunk. `cursor` goes on after a page, in its versions. The row `without` is not found, nor with unit `document` its
    document. `rerank` orders the best hits anew, those of each page by themselves. `exact` scans every row (True) or
    uses the vector index if there is one (False); None lets the number of rows decide. `cache` holds rows of newest
    versions between the searches of this process.

    Of several collections, those that cannot be read are left out, and a warning says why.

    Raises:
        Rejected: the vector, the filter, a moment, the limit or the cursor is invalid.
        NotFound: there is no such version.
        Damaged, Transient: no collection can be read.
    """
    if not 1 <= limit <= MOST:
        raise Rejected(f"limit is {limit}; ask for 1 to {MOST} hits")
    _require("mode", mode, get_args(Mode))
    _require("order", order, get_args(Order))
    condition = to_sql(where)
    asked_for = text or (vector.tobytes().hex() if vector is not None else "")
    wanted_at = None if at is None else str(at)  # as text, since a number may be too large for JSON
    searched = digest_of(
        [asked_for, mode, condition, str(since), str(before), order, wanted_at, unit, bool(rerank)]
    )
    page = read_cursor(cursor, searched, now=now)
    hidden = page.shown if without is None else page.shown | {name_of(without, unit)}
    times = within(moment(since, "since", now=page.now), moment(before, "before", now=page.now))
    condition = " AND ".join(each for each in (condition, times) if each != EVERY) or EVERY
    best = max(limit, RERANKED) if rerank is not None else limit
    wanted = len(hidden) + best + 1  # one more says whether there is another page
    if order != "score":
        wanted = max(limit, ORDERED[mode])  # the same for each page
    words = await _words_of(text, mode)
    asked = _asked(vector, words.text, mode, condition, wanted=wanted, unit=unit, exact=exact)
    if page.versions is not None:
        collections = [live for live in collections if live.collection in page.versions]
    found = await _search_each(collections, asked, datasets, _pinned(collections, page, at), cache)
    hits = _in_order(_joined(found.hits, unit), order, wanted)
    hits = [hit for hit in hits if not hidden or name_of(hit, unit) not in hidden]
    ranked = Ranking(hits=hits) if rerank is None else await rerank(hits[:best])
    shown = list(ranked.hits[:limit])
    unread = map(not_searched, found.unreadable)
    warnings = (*unread, *found.warnings, *words.warnings, *ranked.warnings)
    shown = await _explained(shown, words.terms)
    if not shown and where:
        from flowbed.index.search.unknown_keys import unknown_keys  # few searches find nothing

        read = [live for live in collections if live.collection in found.versions]
        warnings += await unknown_keys(where, read, datasets=datasets, at=at)
    more = len(hits) > limit
    return SearchResults(
        hits=tuple(shown),
        versions=found.versions,
        warnings=warnings,
        next=write_cursor(page, shown, unit, versions=found.versions, search=searched) if more else None,
        reranked_tokens=ranked.tokens,
    )


def _require(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise Rejected(f"{name} is {value!r}; use {', '.join(allowed)}")


def _asked(
    vector: NDArray[np.float32] | None,
    text: str | None,
    mode: Mode,
    condition: str,
    *,
    wanted: int,
    unit: Unit,
    exact: bool | None,
) -> _Asked:
    if mode == "hybrid":
        wanted = max(wanted, JOINED)
    query = None
    if mode != "text":
        if vector is None:
            raise Rejected(f"a search in mode {mode!r} needs a vector")
        query = Query(vector=_direction(vector), condition=condition, limit=wanted, exact=exact)
    return _Asked(query=query, text=text, condition=condition, wanted=wanted, unit=unit)


def _pinned(collections: Sequence[Live], page: Page, at: int | None) -> Mapping[str, int]:
    """Return the versions to search, by collection; the newest of those that are not in it."""
    if page.versions is not None:
        return page.versions
    return {} if at is None else {live.collection: at for live in collections}


def _joined(lists: Mapping[str, Sequence[Hit]], unit: Unit) -> list[Hit]:
    ranked = {name: by_score(hits) for name, hits in lists.items()}
    if unit == "document":  # a document may have chunks in several collections
        ranked = {name: one_each(hits) for name, hits in ranked.items()}
    return fused(ranked, unit) if len(ranked) > 1 else next(iter(ranked.values()))


def _in_order(hits: list[Hit], order: Order, best: int) -> list[Hit]:
    """Return hits by score, or as many of the `best` by time."""
    if order == "score":
        return hits
    sign = -1 if order == "newest" else 1
    timed = [(time_of(hit.metadata), hit) for hit in hits[:best]]
    return [
        hit for _, hit in sorted(timed, key=lambda each: (each[0] is None, sign * (each[0] or 0), each[1].id))
    ]


async def _words_of(text: str, mode: Mode) -> _Words:
    """Split a query into words, in a thread: long ones take a tenth of a second."""
    if mode == "vector":
        return _Words()
    from flowbed.index.full_text.highlights import terms_of  # which a search by vector does without

    terms = await asyncio.to_thread(terms_of, text)
    if not terms:
        warning = "the query has no word to look for: common words such as 'the' are not looked for"
        return _Words(text=text, warnings=(warning,))
    if len(terms) <= WORDS:
        return _Words(text=text, terms=terms)
    first = dict(list(terms.items())[:WORDS])
    warning = f"of {len(terms):,} different words in the query, the first {WORDS:,} were looked for"
    return _Words(text=" ".join(first.values()), terms=first, warnings=(warning,))


async def _explained(hits: list[Hit], terms: Mapping[str, str]) -> list[Hit]:
    """Say which words of a query were found where."""
    if not hits or not terms:
        return hits
    from flowbed.index.full_text.highlights import highlighted

    return await asyncio.to_thread(highlighted, hits, terms)


async def _search_each(
    collections: Sequence[Live],
    asked: _Asked,
    datasets: Datasets,
    pinned: Mapping[str, int],
    cache: RowCache | None,
) -> _Lists:
    """Search the collections that can be read.

    Raises:
        Damaged, Transient: none can be read.
    """
    names = [name for name, each in (("vector", asked.query), ("text", asked.text)) if each is not None]
    lists = _Lists({name: [] for name in names}, {}, [], [])
    for live in collections:
        # All of it runs on one version and in one thread: each switch of threads costs a tenth of a millisecond.
        find = partial(
            _found,
            live=live,
            asked=asked,
            cache=cache,
            newest=live.collection not in pinned,
            alone=len(collections) == 1,
        )
        try:
            answer = await datasets.reading(live, find, version=pinned.get(live.collection))
        except (Damaged, FileMissing):
            lists.unreadable.append(live.collection)
            if len(lists.unreadable) == len(collections):
                raise
            continue
        if answer is None:
            if len(collections) > 1:
                continue  # its dataset is being created; the others have rows
            raise NotFound(f"collection {live.collection} is empty; fill it with `flowbed run`")
        (found, warnings), lists.versions[live.collection] = answer
        lists.warnings += warnings
        for name, hits in found.items():
            lists.hits[name] += hits
    return lists


def not_searched(collection: str) -> str:
    """Say that a collection was left out; the reason, which may name paths, is the operator's."""
    return (
        f"{collection} was not searched, because its index cannot be read; `flowbed doctor` says what to do"
    )


def _direction(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalize a vector, in double precision: squares of very long or short ones overflow single precision."""
    precise = vector.astype(np.float64)
    length = np.linalg.norm(precise)
    if not length:
        raise Rejected("the query vector is all zeros, which has no direction")
    unit: NDArray[np.float32] = (precise / length).astype(np.float32)
    return unit


def _found(
    dataset: Dataset, live: Live, asked: _Asked, cache: RowCache | None, newest: bool, alone: bool
) -> tuple[dict[str, list[Hit]], list[str]]:
    """Search one version, and keep what it read of the newest for the next search."""
    if cache is None or not (newest or cache.holds(live, dataset)):
        return _lists_of(new_view(dataset), live, asked, alone=alone)
    view = cache.view(live, dataset)
    found = _lists_of(view, live, asked, alone=alone)
    cache.fill(view)
    return found


def _lists_of(
    view: View, live: Live, asked: _Asked, *, alone: bool
) -> tuple[dict[str, list[Hit]], list[str]]:
    """Return the hits of each list, and warnings; only a search of one collection by text alone needs its index."""
    lists: dict[str, list[Hit]] = {}
    warnings: list[str] = []
    query = asked.query
    if query is not None:
        lists["vector"] = _best(lambda wanted: _chunks(view, live, replace(query, limit=wanted)), view, asked)
    if asked.text is not None:
        from flowbed.index.full_text.matching import NotIndexed, find_words

        find = partial(find_words, view, live, asked.text, asked.condition)
        try:
            lists["text"] = _best(find, view, asked)
        except NotIndexed as error:
            if alone and query is None:
                raise
            warnings.append(f"not searched by text: {error}")
    return lists, warnings


def _best(find: Callable[[int], list[Hit]], view: View, asked: _Asked) -> list[Hit]:
    if asked.unit == "document":
        return nearest_documents(find, rows=view.dataset.count_rows(), limit=asked.wanted)
    return find(asked.wanted)


def _chunks(view: View, live: Live, query: Query) -> list[Hit]:
    """Find the nearest chunks, best first."""
    (found,) = find_nearest(view, [query])
    return _hits(found, live)


def _hits(found: Nearest, live: Live) -> list[Hit]:
    bounded = np.clip(found.scores, -1.0, 1.0).tolist()  # rounding can exceed the range of a cosine
    hits = [
        Hit(
            id=id_,
            score=score,
            document=document,
            metadata=orjson.loads(metadata),
            collection=live.collection,
        )
        for id_, document, metadata, score in zip(*found.shown, bounded, strict=True)
    ]
    return by_score(hits)
