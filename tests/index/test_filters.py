"""The filter grammar, against a plain evaluator in Python."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowbed.errors import Rejected
from flowbed.index.deltas import METADATA
from flowbed.index.filters import DEEPEST, to_sql

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ["a", "b", "a.b", "it's", 'a "quote"', "ключ", "a[0]", "$"[:0] + "x y", "%"]
TEXTS = [
    "",
    "x",
    "5",
    "true",
    "5.0",
    "O'Brien",
    'a "q"',
    "line\nbreak",
    "Grüße",
    "日本",
    "\\",
    "null",
    "%",
    "_",
    "X",
]
NUMBERS = [0, 1, -1, 5, 5.0, 2.5, -2.5, 2**53, 2**53 + 1, 2**63 - 1, -(2**62), 1e20, 1e-7]
values = st.one_of(st.sampled_from(TEXTS), st.sampled_from(NUMBERS), st.booleans())
rows = st.lists(st.dictionaries(st.sampled_from(KEYS), values, max_size=4), min_size=1, max_size=8)
ordered = st.one_of(st.sampled_from(TEXTS), st.sampled_from([n for n in NUMBERS if abs(n) < 2**63]))
operands = st.one_of(ordered, st.booleans())


def conditions() -> st.SearchStrategy[Any]:
    """Draw what may be said about one key."""
    return st.one_of(
        operands,
        st.fixed_dictionaries({}, optional={"$eq": operands, "$ne": operands}).filter(bool),
        st.fixed_dictionaries(
            {}, optional={"$gt": ordered, "$gte": ordered, "$lt": ordered, "$lte": ordered}
        ).filter(bool),
        st.fixed_dictionaries(
            {}, optional={"$in": st.lists(operands, max_size=3), "$nin": st.lists(operands, max_size=3)}
        ).filter(bool),
    )


leaves = st.one_of(
    st.dictionaries(st.sampled_from(KEYS), conditions(), max_size=2),
    st.fixed_dictionaries({"$contains": st.sampled_from(["", "doc", "1", "%", "it's"])}),
)
filters = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=5,
)


def same(left: Any, right: Any) -> bool:
    """Compare without coercion: numbers are one type, everything else its own."""
    return kind(left) == kind(right) and left == right


def kind(value: Any) -> str:
    """Name the type a value has in a filter."""
    if isinstance(value, bool):
        return "truth"
    return "number" if isinstance(value, int | float) else "text"


def holds(where: dict[str, Any], row: dict[str, Any], document: str) -> bool:
    """Evaluate a filter the obvious way."""
    return all(term(key, value, row, document) for key, value in where.items())


def term(key: str, value: Any, row: dict[str, Any], document: str) -> bool:
    """Evaluate one entry of a filter."""
    if key == "$and":
        return all(holds(part, row, document) for part in value)
    if key == "$or":
        return any(holds(part, row, document) for part in value)
    if key == "$not":
        return not holds(value, row, document)
    if key == "$contains":
        return value in document
    said = value if isinstance(value, dict) else {"$eq": value}
    return all(condition(operator, operand, key in row, row.get(key)) for operator, operand in said.items())


def condition(operator: str, operand: Any, there: bool, found: Any) -> bool:
    """Evaluate one operator on one value."""
    order = {
        "$gt": lambda: found > operand,
        "$gte": lambda: found >= operand,
        "$lt": lambda: found < operand,
        "$lte": lambda: found <= operand,
    }
    if operator in order:
        return there and kind(found) == kind(operand) and order[operator]()
    if operator in {"$in", "$nin"}:
        matches = there and any(same(found, each) for each in operand)
        return matches == (operator == "$in")
    return (there and same(found, operand)) == (operator == "$eq")


def dataset(folder: Path, metadata: list[dict[str, Any]]) -> lance.LanceDataset:
    """Write rows that have only what a filter looks at."""
    written = pa.array([json.dumps(row, ensure_ascii=False) for row in metadata], pa.utf8())
    table = pa.table(
        {
            "at": pa.array(range(len(metadata)), pa.int64()),
            "document": pa.array([f"doc {at} it's" for at in range(len(metadata))]),
            "metadata": pa.ExtensionArray.from_storage(METADATA, written),
        }
    )
    return lance.write_dataset(table, str(folder / "d.lance"), mode="overwrite", data_storage_version="2.2")


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=rows, where=filters)
def test_a_filter_matches_what_a_plain_evaluator_matches(
    tmp_path: Path, metadata: list[dict[str, Any]], where: dict[str, Any]
) -> None:
    """Whatever the keys, types, quotes and nesting, Lance finds just the rows that the grammar says."""
    found = (
        dataset(tmp_path, metadata).scanner(columns=["at"], filter=to_sql(where)).to_table()["at"].to_pylist()
    )
    assert found == [at for at, row in enumerate(metadata) if holds(where, row, f"doc {at} it's")]


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (["a"], "a filter is an object"),
        ({"a": {"$like": "x"}}, "is no operator"),
        ({"$xor": []}, "is no operator here"),
        ({"$and": []}, "at least one filter"),
        ({"$or": {"a": 1}}, "at least one filter"),
        ({"a": {}}, "is empty"),
        ({"a": {"$in": 5}}, "takes a list"),
        ({"a": None}, "can be compared with"),
        ({"a": [1]}, "can be compared with"),
        ({"a": {"$gt": True}}, "have no order"),
        ({"a": float("nan")}, "cannot be compared"),
        ({"a": 2**63}, "64 bits"),
        ({"a": "x\0"}, "NUL"),
        ({"$contains": 5}, "takes the text to find"),
        ({1: 2}, "keys are names"),
        ({"$not": 5}, "a filter is an object"),
    ],
)
def test_a_filter_that_is_not_of_the_grammar_is_rejected(where: Any, says: str) -> None:
    """What is no filter is refused in words that say what is wrong with it."""
    with pytest.raises(Rejected, match=says.replace("(", r"\(")):
        to_sql(where)


def test_a_filter_may_be_as_deep_as_it_says(tmp_path: Path) -> None:
    """The deepest filter allowed is answered, and one level more is refused."""
    where: dict[str, Any] = {"a": 1}
    for _ in range(DEEPEST):
        where = {"$not": where}
    assert dataset(tmp_path, [{"a": 1}, {"a": 2}]).count_rows(to_sql(where)) == 1
    with pytest.raises(Rejected, match="deep"):
        to_sql({"$not": where})


def test_nothing_asked_matches_everything() -> None:
    """No filter and an empty one are the same."""
    assert to_sql(None) == to_sql({}) == "true"


def test_numbers_are_compared_exactly(tmp_path: Path) -> None:
    """Neighbouring ids beyond what a double tells apart are told apart."""
    found = dataset(tmp_path, [{"a": 2**53}, {"a": 2**53 + 1}, {"a": 2**53 + 2}])
    assert found.count_rows(to_sql({"a": 2**53 + 1})) == 1
    assert found.count_rows(to_sql({"a": {"$gt": 2**53}})) == 2
    assert np.isclose(found.count_rows(to_sql({"a": {"$lt": 1e16}})), 3)
