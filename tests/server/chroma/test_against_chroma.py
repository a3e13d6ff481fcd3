"""Flowbed's answers to Chroma's API against those of Chroma's own server over the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.server.chroma.conftest import DIMENSIONS, METRICS, ROWS, VECTORS

from flowbed.index.search.filters import MOST_PATTERNS

if TYPE_CHECKING:
    from tests.server.chroma.conftest import Peer

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
many = settings(shared, max_examples=4_000)
DOCUMENT = "#document"
KEYS = ["k", "n", "x", "o", "key with spaces", "it's", "a.b", "nowhere"]
NUMBERS: list[Any] = [0, 1, 2, -1, 7, -3, 1.0, 0.0, 2.0, 1.5, 0.25, -3.5, 0.1, 2**53 + 1, 2**53 + 2, 5]
TEXTS = ["", "1", "a", "A", "B", "b", "true", "O'Brien", "%", "o", "v", "zzz", "é"]
PATTERNS = [
    "",
    "ello",
    "Hello",
    "_",
    "%",
    "100%",
    "ab",
    "abc",
    "Ö",
    "straße",
    "\n",
    "it's",
    "本語",
    "\\",
    "*",
    "?",
    "a",
]
REGEXES = [
    "",
    "h.llo",
    "^a",
    "b$",
    "(?i)hello",
    r"\d+",
    r"\bab\b",
    "stra(ß|ss)e",
    "e.b",
    "(?s)e.b",
    "a{3}",
    "[a-c]_",
    ".*",
    "a*",
    r"\(",
    "日本.*テ",
    "x{400,}",
    "o|y",
    r"\w+ \w+",
    r"\\",
    "it's",
]
INVALID: list[Any] = [
    None,
    {},
    [],
    [1],
    "x",
    {"$gt": "a"},
    {"$gt": True},
    {"$in": []},
    {"$in": [1, 1.5]},
    {"$in": 1},
]
INVALID += [
    {"$in": [1, "a"]},
    {"$in": [True, 1]},
    {"$eq": None},
    {"$eq": [1]},
    {"$bogus": 1},
    {"$gt": 0, "$lt": 2},
]
INVALID += [{"$contains": [1]}, {"$regex": "a"}, {"$and": [{"$gt": 1}]}, 2**63, {"$in": [2**63]}]

scalars = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.booleans())
lists = st.one_of(
    st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3),
    st.lists(st.booleans(), min_size=1, max_size=2),
    st.lists(st.sampled_from([each for each in NUMBERS if isinstance(each, int)]), min_size=1, max_size=3),
    st.lists(st.sampled_from([each for each in NUMBERS if isinstance(each, float)]), min_size=1, max_size=3),
)
conditions = st.one_of(
    scalars,
    *[st.fixed_dictionaries({name: scalars}) for name in ("$eq", "$ne", "$contains", "$not_contains")],
    *[st.fixed_dictionaries({name: st.sampled_from(NUMBERS)}) for name in ("$gt", "$gte", "$lt", "$lte")],
    *[st.fixed_dictionaries({name: lists}) for name in ("$in", "$nin")],
)
texts = st.one_of(
    st.fixed_dictionaries({"$contains": st.sampled_from(PATTERNS)}),
    st.fixed_dictionaries({"$not_contains": st.sampled_from(PATTERNS)}),
    st.fixed_dictionaries({"$regex": st.sampled_from(REGEXES)}),
    st.fixed_dictionaries({"$not_regex": st.sampled_from(REGEXES)}),
)


def joined(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Join filters in every way."""
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.fixed_dictionaries({"$and": st.lists(inner, max_size=3)}),
            st.fixed_dictionaries({"$or": st.lists(inner, max_size=3)}),
        ),
        max_leaves=5,
    )


valid = st.dictionaries(st.sampled_from(KEYS), conditions, min_size=1, max_size=1)
wheres = joined(st.one_of(valid, st.fixed_dictionaries({DOCUMENT: texts})))
odd = joined(st.dictionaries(st.sampled_from(["k", "$bogus", "x"]), st.sampled_from(INVALID), max_size=2))
documents = joined(texts)
# About a third of the requests have each part.
sometimes = st.none() | st.none()


def fractional(where: Any) -> bool:
    """Tell whether a filter names a number that is not whole."""
    if isinstance(where, dict):
        return any(map(fractional, where.values()))
    if isinstance(where, list):
        return any(map(fractional, where))
    return isinstance(where, float) and not where.is_integer()


def regexes(where: Any) -> int:
    """Count the regular expressions in a filter, of which Flowbed takes four."""
    return str(where).count("regex")


# Chroma cuts such a number before it compares it with whole ones, so that 1 is at least 1.5; Flowbed does not.
WHOLE = {id_ for id_, (metadata, _) in ROWS.items() if int in map(type, (metadata or {}).values())}


def same(flowbed: Peer, chroma: Peer, body: dict[str, Any]) -> list[str]:
    """Compare the rows that both find, and return their ids."""
    status, expected = chroma.about("cosine", "POST", "get", body)
    found_status, found = flowbed.about("cosine", "POST", "get", body)
    assert (found_status, status) in {(200, 200), (400, 400)}, (expected, found)
    if status != 200:
        assert found == expected
        return []
    odd = WHOLE if fractional(body.get("where")) else set()
    rows, wanted = by_id(found, odd), by_id(expected, odd)
    assert rows.keys() == wanted.keys()
    for id_, row in rows.items():
        assert row == pytest.approx(wanted[id_], abs=1e-6) if isinstance(row, float) else row == wanted[id_]
    assert found["include"] == expected["include"]
    return list(rows)


def by_id(answer: dict[str, Any], but: set[str]) -> dict[str, Any]:
    """Give each row of an answer under its id."""
    columns = [answer[name] or [None] * len(answer["ids"]) for name in ("documents", "metadatas", "uris")]
    assert len(set(answer["ids"])) == len(answer["ids"])
    return {id_: row for id_, *row in zip(answer["ids"], *columns, strict=True) if id_ not in but}


GET = {
    "where": sometimes | wheres,
    "where_document": sometimes | documents,
    "ids": st.none() | st.lists(st.sampled_from([*ROWS, "unknown"]), max_size=8),
    "include": st.lists(st.sampled_from(["documents", "metadatas", "uris"]), unique=True),
}


@shared
@given(body=st.fixed_dictionaries(GET))
def test_get_any_filter_finds_the_rows_that_chroma_finds(
    flowbed: Peer, chroma: Peer, body: dict[str, Any]
) -> None:
    assume(regexes(body) <= MOST_PATTERNS)
    same(flowbed, chroma, body)


@pytest.mark.long
@many
@given(body=st.fixed_dictionaries(GET))
def test_get_thousands_of_filters_find_the_rows_that_chroma_finds(
    flowbed: Peer, chroma: Peer, body: dict[str, Any]
) -> None:
    assume(regexes(body) <= MOST_PATTERNS)
    same(flowbed, chroma, body)


@shared
@given(where=odd)
def test_get_invalid_filter_is_refused_as_chroma_refuses_it(flowbed: Peer, chroma: Peer, where: Any) -> None:
    same(flowbed, chroma, {"where": where, "include": []})


vectors = st.tuples(st.integers(0, 2**31), st.sampled_from([1.0, 0.2, 12.0])).map(
    lambda drawn: (np.random.default_rng(drawn[0]).normal(size=DIMENSIONS) * drawn[1]).tolist()
)
QUERY = {
    "where": (sometimes | wheres).filter(lambda where: not fractional(where)),
    "where_document": sometimes | documents,
    "ids": st.none() | st.lists(st.sampled_from([*ROWS]), max_size=8),
    "n_results": st.integers(0, 30),
    "query_embeddings": st.lists(vectors, max_size=3),
    "include": st.just(["distances", "documents", "metadatas", "embeddings"]),
}


@shared
@given(metric=st.sampled_from(METRICS), body=st.fixed_dictionaries(QUERY))
def test_query_any_filter_finds_the_distances_that_chroma_finds(
    flowbed: Peer, chroma: Peer, metric: str, body: dict[str, Any]
) -> None:
    same_distances(flowbed, chroma, metric, body)


@pytest.mark.long
@many
@given(metric=st.sampled_from(METRICS), body=st.fixed_dictionaries(QUERY))
def test_query_thousands_of_filters_find_the_distances_that_chroma_finds(
    flowbed: Peer, chroma: Peer, metric: str, body: dict[str, Any]
) -> None:
    same_distances(flowbed, chroma, metric, body)


def same_distances(flowbed: Peer, chroma: Peer, metric: str, body: dict[str, Any]) -> None:
    """Compare the rows that both find near each vector."""
    assume(regexes(body) <= MOST_PATTERNS)
    status, expected = chroma.about(metric, "POST", "query", body)
    found_status, found = flowbed.about(metric, "POST", "query", body)
    assert (found_status, status) == (200, 200), (expected, found)
    for place in range(len(body["query_embeddings"])):
        wanted = expected["distances"][place]
        assert found["distances"][place] == pytest.approx(wanted, rel=1e-4, abs=1e-4)
        assert found["ids"][place] == expected["ids"][place]
        assert found["documents"][place] == expected["documents"][place]
        assert found["metadatas"][place] == expected["metadatas"][place]
        np.testing.assert_allclose(found["embeddings"][place], expected["embeddings"][place], atol=1e-5)
    assert found["include"] == expected["include"]
    assert len(found["ids"]) == len(expected["ids"])


def test_get_number_that_is_not_whole_is_compared_as_a_number(flowbed: Peer, chroma: Peer) -> None:
    """Chroma cuts it for whole numbers: 1 counts as at least 1.5 there, and as 1.5 itself."""
    for operator, wanted in {"$gte": {"half", "two"}, "$eq": {"half"}}.items():
        body = {"where": {"k": {operator: 1.5}}, "include": []}
        _, found = flowbed.about("cosine", "POST", "get", body)
        assert set(found["ids"]) - {"large", "large, next"} == wanted
        _, other = chroma.about("cosine", "POST", "get", body)
        assert set(other["ids"]) - {"large", "large, next"} == wanted | {"one"}


def test_get_pages_in_order_of_ids_hold_every_row_once(flowbed: Peer) -> None:
    pages = [
        flowbed.about("l2", "POST", "get", {"limit": 4, "offset": first, "include": ["embeddings"]})[1]
        for first in range(0, len(ROWS) + 4, 4)
    ]
    assert [id_ for page in pages for id_ in page["ids"]] == sorted(ROWS)
    order = [list(ROWS).index(id_) for id_ in sorted(ROWS)]
    vectors = np.concatenate([page["embeddings"] for page in pages if page["ids"]])
    np.testing.assert_allclose(vectors, VECTORS[order], atol=1e-6)
    assert pages[-1]["ids"] == pages[-1]["embeddings"] == []


def test_query_vector_of_zeros_is_at_distance_one_from_every_row(flowbed: Peer, chroma: Peer) -> None:
    body = {"query_embeddings": [[0.0] * DIMENSIONS], "n_results": 3, "include": ["distances"]}
    for peer in (flowbed, chroma):
        status, found = peer.about("cosine", "POST", "query", body)
        assert (status, found["distances"]) == (200, [pytest.approx([1.0] * 3)])


def test_get_filter_nested_hundreds_deep_is_refused(flowbed: Peer) -> None:
    where: Any = {"k": 1}
    for _ in range(400):
        where = {"$and": [where]}
    for field in ("where", "where_document"):
        status, answer = flowbed.about("cosine", "POST", "get", {field: where})
        assert (status, answer["error"]) == (400, "InvalidArgumentError")


@pytest.mark.parametrize("id_", ["", "\0", "'", "'; --", "a" * 100_000, "\n", "é"])
def test_get_and_query_odd_id_finds_nothing(flowbed: Peer, id_: str) -> None:
    assert flowbed.about("cosine", "POST", "get", {"ids": [id_]})[1]["ids"] == []
    body = {"ids": [id_], "query_embeddings": [VECTORS[0].tolist()]}
    assert flowbed.about("cosine", "POST", "query", body)[1]["ids"] == [[]]


def test_get_hundreds_of_ids_finds_those_that_are_there(flowbed: Peer) -> None:
    many = [*(f"unknown {n}" for n in range(300)), *ROWS]
    assert flowbed.about("cosine", "POST", "get", {"ids": many})[1]["ids"] == sorted(ROWS)


def test_query_unknown_id_is_left_out(flowbed: Peer) -> None:
    """Chroma's server answers it with an internal error."""
    body = {"query_embeddings": [VECTORS[0].tolist()], "ids": ["one", "unknown"]}
    status, found = flowbed.about("cosine", "POST", "query", body)
    assert (status, found["ids"]) == (200, [["one"]])


ANSWERS: list[tuple[str, str, Any]] = [
    ("GET", "/version", None),
    ("GET", "/healthcheck", None),
    ("GET", "/pre-flight-checks", None),
    ("GET", "/auth/identity", None),
    ("GET", "/tenants/default_tenant", None),
    ("GET", "/tenants/nope", None),
    ("GET", "/tenants/default_tenant/databases", None),
    ("GET", "/tenants/default_tenant/databases/default_database", None),
    ("GET", "/tenants/default_tenant/databases/nope", None),
    ("GET", "collections?limit=-1", None),
    ("GET", "collections?limit=0", None),
    ("GET", "collections?limit=2&offset=9", None),
    ("GET", "collections/nope", None),
    ("GET", "collections/by-id/nope", None),
    ("GET", "collections/by-id/00000000-0000-0000-0000-000000000000", None),
    ("GET", "collections/00000000-0000-0000-0000-000000000000/count", None),
    ("GET", "collections/nope/count", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ANSWERS, ids=[each[1] for each in ANSWERS])
def test_request_about_the_server_is_answered_as_chroma_answers(
    flowbed: Peer, chroma: Peer, method: str, path: str, body: Any
) -> None:
    found, expected = flowbed.call(method, path, body), chroma.call(method, path, body)
    assert found[0] == expected[0]
    if path != "collections/by-id/00000000-0000-0000-0000-000000000000":  # only the full stop differs
        assert found[1] == expected[1]


BODIES: list[tuple[str, Any]] = [
    ("get", b"{"),
    ("get", {"include": ["bogus"]}),
    ("get", {"limit": -1}),
    ("get", {"ids": "one"}),
    ("query", {"n_results": 1}),
    ("query", {"query_embeddings": [["x"]]}),
    ("query", {"query_embeddings": ["AACAPw=="]}),
    ("query", {"query_embeddings": [[1.0] * DIMENSIONS], "n_results": "3"}),
    ("query", {"query_embeddings": [[1.0] * DIMENSIONS], "where": {}}),
    ("query", {"query_embeddings": [[1.0, 2.0]]}),
    ("query", {"query_embeddings": []}),
    ("query", {"query_embeddings": [[1.0] * DIMENSIONS], "where_document": {"$regex": "("}}),
]


@pytest.mark.parametrize(("action", "body"), BODIES, ids=[f"{each[0]} {each[1]}"[:40] for each in BODIES])
def test_request_about_rows_has_the_status_and_class_of_chromas(
    flowbed: Peer, chroma: Peer, action: str, body: Any
) -> None:
    status, expected = chroma.about("cosine", "POST", action, body)
    found_status, found = flowbed.about("cosine", "POST", action, body)
    assert (found_status, found.get("error")) == (status, expected.get("error"))
    assert found.keys() == expected.keys()
