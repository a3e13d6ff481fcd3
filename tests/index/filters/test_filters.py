"""The filter grammar: what Lance answers, against plain Python."""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.filters import Rows

from flowbed.errors import Rejected
from flowbed.index.search.filters import DEEPEST, to_sql
from flowbed.testing.filters import fits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# Keys that a path or a pattern would read as something else.
KEYS = [
    "a",
    "A",
    "",
    " a",
    "a.b",
    "a[0]",
    "0",
    "*",
    "@",
    "%",
    "x y",
    "it's",
    'a "quote"',
    "back\\slash",
    "a$",
    "a,b",
    "{a}",
    "\n",
    "\0",
    "\x1f",
    "ключ",
    "\u00e9",
    "e\u0301",
    "\U0001d4b3",
    "\u2028",
    "null",
]
TEXTS = [
    "",
    "a",
    "A",
    " a",
    "a ",
    "5",
    "5.0",
    "-0.0",
    "1e5",
    "true",
    "false",
    "null",
    "NaN",
    "inf",
    "[1]",
    "{}",
    '"a"',
    "O'Brien",
    "''",
    '"',
    "\\",
    "\\n",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "a\0b",
    "\x1f",
    "\x7f",
    "\u2028",
    "%",
    "_",
    "%a%",
    "--",
    "/*",
    "$1",
    "?",
    "Gr\u00fc\u00dfe",
    "GR\u00dcSSE",
    "\u65e5\u672c",
    "\u00e9",
    "e\u0301",
    "\ud7ff",
    "\ue000",
    "\uffff",
    "\U0001d4b3",
    "\U0010ffff",
    "2024-03-14",
    "a" * 300,
]
NUMBERS = [
    0,
    0.0,
    -0.0,
    1,
    1.0,
    -1,
    5,
    5.0,
    2.5,
    -2.5,
    0.1,
    0.1 + 0.2,
    1e-7,
    5e-324,
    2**53 - 1,
    2**53,
    2**53 + 1,
    2**53 + 2,
    2.0**53,
    -(2**53) - 1,
    -(2.0**53),
    2**62 + 1,
    2.0**62,
    2**63 - 1,
    2.0**63 - 1024,
    -(2**63) + 1,
    1447000000.123456,
    1_447_000_000_123_456,
]
BEYOND = [2**63, 2**64 - 1, -(2**63), 2.0**63, 1e20, -1e20, 1e300]  # stored, but never compared with
NOTHING = [None]  # kept by others than Flowbed; no filter has a word for it


def values(known: Sequence[Any]) -> st.SearchStrategy[Any]:
    """Draw from what is known to be hard, and from everything else."""
    return st.one_of(
        st.sampled_from(known),
        st.text(max_size=3),
        st.booleans(),
        st.integers(-(2**63) + 1, 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: abs(number) < 2**63),
        st.dates().map(str),
    )


keys = st.sampled_from(KEYS)
rows = st.tuples(
    st.dictionaries(keys, values([*TEXTS, *NUMBERS, *BEYOND, *NOTHING]), max_size=4),
    st.one_of(st.sampled_from(TEXTS), st.text(max_size=5)),
)
operands = st.deferred(
    lambda: values([*TEXTS, *NUMBERS])
)  # named, so that a strategy of these is printed short
ids = st.integers(0, 9).map(lambda at: f"row {at}'s")  # as tests/support/filters.py names rows
identified = st.one_of(
    ids,
    st.dictionaries(st.sampled_from(("$eq", "$ne")), ids, min_size=1),
    st.dictionaries(st.sampled_from(("$in", "$nin")), st.lists(ids, max_size=3), min_size=1),
)
ordered = operands.filter(lambda value: not isinstance(value, bool))
CONDITIONS = {
    **dict.fromkeys(("$eq", "$ne"), operands),
    **dict.fromkeys(("$gt", "$gte", "$lt", "$lte"), ordered),
    **dict.fromkeys(("$in", "$nin"), st.lists(operands, max_size=4)),
}


def filters(
    said: st.SearchStrategy[Any], contained: st.SearchStrategy[str]
) -> st.SearchStrategy[dict[str, Any]]:
    """Draw filters that say `said` about keys, joined in every way."""
    leaves = st.one_of(
        st.dictionaries(keys, said, max_size=2),
        st.fixed_dictionaries({"$contains": contained}),
        st.fixed_dictionaries({"$id": identified}),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
            st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
            st.fixed_dictionaries({"$not": inner}),
        ),
        max_leaves=5,
    )


def conditions(said: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Draw what may be said about one key: a value, or up to two conditions."""
    one = st.one_of([st.fixed_dictionaries({name: operand}) for name, operand in said.items()])
    return st.one_of(said["$eq"], one, st.tuples(one, one).map(lambda two: {**two[0], **two[1]}))


wheres = filters(conditions(CONDITIONS), st.one_of(st.sampled_from(TEXTS), st.text(max_size=2)))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Give rows that have every hard value under several keys, and every hard key; most lack most."""
    chance = random.Random(1)
    hard = [*TEXTS, *NUMBERS, *BEYOND, *NOTHING, True, False]
    listed: list[tuple[dict[str, Any], str]] = [({"a": value}, str(value)) for value in hard]
    listed += [({key: value}, key) for key in KEYS for value in ("a", 5, True)]
    for _ in range(300):
        metadata = {key: chance.choice(hard) for key in chance.sample(KEYS, chance.randrange(6))}
        listed.append((metadata, "".join(chance.sample(TEXTS, 2))))
    return Rows(tmp_path_factory.mktemp("filters"), listed)


@pytest.mark.parametrize("examples", [100, pytest.param(2_000, marks=pytest.mark.long)])
def test_filter_generated_selects_the_rows_that_plain_python_selects(everything: Rows, examples: int) -> None:
    @settings(max_examples=examples)
    @given(where=wheres)
    def search(where: dict[str, Any]) -> None:
        assert everything.found(where) == everything.expected(where)

    search()


@pytest.mark.parametrize("examples", [30, pytest.param(1_000, marks=pytest.mark.long)])
def test_filter_generated_rows_selects_what_plain_python_selects(tmp_path: Path, examples: int) -> None:
    @settings(max_examples=examples)
    @given(listed=st.lists(rows, min_size=1, max_size=12), data=st.data())
    def search(listed: list[tuple[dict[str, Any], str]], data: st.DataObject) -> None:
        there = [value for metadata, _ in listed for value in metadata.values() if comparable(value)] or [0]
        one = st.sampled_from(there)
        said = {name: st.lists(one, max_size=3) if "in" in name else one for name in CONDITIONS}
        some = Rows(tmp_path, listed)
        for _ in range(3):
            drawn = filters(conditions(said), st.sampled_from([document[:2] for _, document in listed]))
            where = data.draw(drawn)
            try:
                answer = some.expected(where)
            except Rejected:  # true and false have no order
                with pytest.raises(Rejected):
                    to_sql(where)
            else:
                assert some.found(where) == answer

    search()


def comparable(value: Any) -> bool:
    """Tell what a filter can compare with."""
    return isinstance(value, str | bool | int | float) and (isinstance(value, str) or abs(value) < 2**63)


def test_filter_hard_values_are_told_apart_by_every_operator(everything: Rows) -> None:
    for value in [*TEXTS, *NUMBERS, True, False]:
        for name in ("$eq", "$ne", *([] if isinstance(value, bool) else ["$gt", "$gte", "$lt", "$lte"])):
            where = {"a": {name: value}}
            assert everything.found(where) == everything.expected(where), where


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a",
        "^a",
        r"a\Z",
        "(?i)gr.ß",
        "(?s)a.",
        r"\d{4}-\d\d",
        "[%_]",
        r"\\",
        r"\$1",
        "日|é",
        "a{300}",
        "O'B",
        "(?s).",
        "^ ",
    ],
)
def test_filter_regex_selects_the_rows_that_plain_python_selects(everything: Rows, pattern: str) -> None:
    rust = pattern.replace(r"\Z", r"\z")  # the one word for the end of a text that both have differs
    assert everything.found({"$regex": rust}) == everything.expected({"$regex": pattern})
    assert everything.found({"$not": {"$regex": rust}}) == everything.expected({"$not": {"$regex": pattern}})


odd = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(TEXTS), st.just("\ud800")
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(["a", "\ud800", "$", "$and", "$or", "$not", "$contains", "$like", *CONDITIONS]),
            inner,
            max_size=2,
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(where=odd)
def test_filter_arbitrary_json_is_rejected_by_lance_and_python_alike(where: Any) -> None:
    try:
        fits(where)
    except Rejected:
        with pytest.raises(Rejected):
            to_sql(where)
    else:
        to_sql(where).encode()


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (["a"], "a filter is an object"),
        ([], "a filter is an object"),
        ({"a": {"$like": "x"}}, "is not an operator"),
        ({"$xor": []}, "is not an operator here"),
        ({"$a": 1}, "is not an operator here"),
        ({"$and": []}, "at least one filter"),
        ({"$or": {"a": 1}}, "at least one filter"),
        ({"a": {}}, "is empty"),
        ({"a": {"$in": 5}}, "takes a list"),
        ({"a": None}, "can be compared with"),
        ({"a": [1]}, "can be compared with"),
        ({"a": {"$gt": True}}, "have no order"),
        ({"a": float("nan")}, "cannot be compared"),
        ({"a": {"$lt": float("inf")}}, "cannot be compared"),
        ({"a": 2**63}, "64 bits"),
        ({"a": 10**400}, "64 bits"),
        ({"a": "\ud800"}, "is not Unicode text"),
        ({"\ud800": 1}, "is not Unicode text"),
        ({"$contains": 5}, "takes the text to find"),
        ({"$regex": 5}, "takes a regular expression"),
        ({"$regex": "\ud800"}, "is not Unicode text"),
        ({1: 2}, "keys are names"),
        ({"$not": 5}, "a filter is an object"),
        ({"$id": 5}, "takes an id"),
        ({"$id": {}}, "takes an id"),
        ({"$id": {"$in": ["a", 5]}}, "takes an id"),
        ({"$id": {"$gt": "a"}}, "is not an operator"),
    ],
)
def test_filter_invalid_is_rejected_with_a_reason(where: Any, says: str) -> None:
    with pytest.raises(Rejected, match=re.escape(says)):
        to_sql(where)


def test_filter_nested_to_the_limit_works_and_deeper_is_rejected(tmp_path: Path) -> None:
    where: dict[str, Any] = {"a": 1}
    for _ in range(DEEPEST):
        where = {"$not": where}
    assert Rows(tmp_path, [({"a": 1}, ""), ({"a": 2}, "")]).found(where) == [0]
    with pytest.raises(Rejected, match="deep"):
        to_sql({"$not": where})


@pytest.mark.parametrize("place", [{"a": ...}, {"$and": ...}, {"$contains": ...}, {"a": {"$in": ...}}, ...])
def test_filter_rejected_huge_value_has_a_readable_message(place: Any) -> None:
    for strange in (json.loads(f"{'[' * 900}{']' * 900}"), {"a": ["x" * 10_000] * 1_000}):
        with pytest.raises(Rejected) as caught:
            to_sql(_filled(place, {"$in": strange} if "$in" in str(place) else strange))
        assert len(str(caught.value)) < 1_000


def _filled(place: Any, value: Any) -> Any:
    if place is ...:
        return value
    return {key: _filled(inner, value) for key, inner in place.items()}


def test_filter_list_of_10000_values_works(tmp_path: Path) -> None:
    rows_ = Rows(tmp_path, [({"a": f"{number}.md", "b": number}, "") for number in range(100)])
    assert rows_.found({"a": {"$in": [f"{number * 2}.md" for number in range(10_000)]}}) == [
        *range(0, 100, 2)
    ]
    assert rows_.found({"b": {"$nin": [number * 2 for number in range(10_000)]}}) == [*range(1, 100, 2)]


def test_filter_empty_or_none_matches_everything() -> None:
    assert to_sql(None) == to_sql({}) == "true"


def test_filter_from_json_equals_the_python_dict() -> None:
    where = {"a": {"$in": ["x", 1, 2.5, True]}, "$not": {"$contains": "\U0001d4b3"}}
    assert to_sql(json.loads(json.dumps(where))) == to_sql(where)
