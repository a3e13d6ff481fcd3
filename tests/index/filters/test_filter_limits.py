"""Wide, deep and many-valued filters: they select what plain Python selects, or are refused with the limit named."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.filters import Rows

from flowbed.errors import Rejected
from flowbed.index.search.filters import DEEPEST, MOST_CHARACTERS, MOST_CONDITIONS, MOST_VALUES, to_sql

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = 2**53  # from here on a double does not hold every integer
MANY = 2_000
VALUES: dict[str, list[Any]] = {
    "texts": [f"{number}.md" for number in range(MANY)],
    "texts that look like numbers": [str(number) for number in range(MANY)],
    "booleans": [True] * MANY,
    "both booleans": [True, False] * (MANY // 2),
    "small numbers": list(range(MANY)),
    "fractions": [number / 8 for number in range(MANY)],
    "large numbers": [LARGE + number for number in range(MANY)],
    "large negative numbers": [-LARGE - number for number in range(MANY)],
    "large fractions": [float(LARGE + 2 * number) for number in range(MANY)],
    "everything": [True, "a", "5", 5, 5.5, LARGE + 1, float(LARGE)] * (MANY // 7),
}
HELD = [True, False, "7.md", "7", "x", 7, 7.5, LARGE, LARGE + 1, float(LARGE + 2), -LARGE - 1, None]
# One condition each, of every kind that is written in its own way.
KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "text": lambda n: {f"k{n}": "x"},
    "text like a number": lambda n: {f"k{n}": {"$ne": str(n)}},
    "mixed list": lambda n: {f"k{n}": {"$in": [True, "x", "5", n, LARGE + n]}},
    "mixed list, none of": lambda n: {f"k{n}": {"$nin": [True, "x", "5", n, LARGE + n]}},
    "range": lambda n: {"a": {"$gt": n, "$lte": n + 5}},
    "large range": lambda n: {"a": {"$gt": LARGE + n, "$lt": LARGE + 2 * n + 1}},
    "mixed range": lambda n: {"a": {"$gt": f"{n}", "$gte": n, "$lt": LARGE + n, "$lte": "z"}},
    "contains": lambda n: {"$contains": f"d{n}"},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Rows with every kind of value, under keys that filters name and under none."""
    listed: list[tuple[dict[str, Any], str]] = [({"a": value}, f"d{at}") for at, value in enumerate(HELD)]
    listed += [({f"k{at % 40}": value, "a": at}, f"d{at}") for at, value in enumerate(HELD * 2)]
    listed.append(({}, "nothing"))
    return Rows(tmp_path_factory.mktemp("limits"), listed)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("operator", ["$in", "$nin"])
def test_filter_2000_values_of_any_type_select_what_plain_python_selects(
    rows: Rows, operator: str, values: list[Any]
) -> None:
    where = {"a": {operator: values}}
    assert rows.found(where) == rows.expected(where)


@pytest.mark.parametrize("kind", ["texts", "booleans", "large numbers", "everything"])
def test_filter_2000_equalities_on_one_key_are_one_condition(rows: Rows, kind: str) -> None:
    """Written as `$or` of equalities or as `$and` of inequalities, at the top or in the middle of a filter."""
    values = VALUES[kind]
    equal: dict[str, Any] = {"$or": [{"a": value} for value in values]}
    unequal: dict[str, Any] = {"$and": [{"a": {"$ne": value}} for value in values]}
    for where in (
        equal,
        {"$not": unequal},
        {"$or": [equal, {"$contains": "nothing"}, {"a": {"$in": ["x"]}}]},
        {"$and": [unequal, {"$not": {"$or": [{"a": "x"}, equal]}}]},
    ):
        assert rows.found(where) == rows.expected(where)
        assert to_sql(where).count("json_get") <= 20  # a few reads of the key, not thousands


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("join", ["$or", "$and"])
def test_filter_widest_of_each_kind_works(
    rows: Rows, join: str, kind: Callable[[int], dict[str, Any]]
) -> None:
    where = {join: [kind(number) for number in range(MOST_CONDITIONS)]}
    assert rows.found(where) == rows.expected(where)


SPREAD = MOST_CONDITIONS - DEEPEST
# Conditions in each level beyond one, the innermost level first.
SHAPES = {
    "outside": [0] * (DEEPEST - 1) + [SPREAD],
    "inside": [SPREAD] + [0] * (DEEPEST - 1),
    "even": [SPREAD // DEEPEST] * DEEPEST,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_filter_deepest_and_widest_at_once_works(
    rows: Rows, kind: Callable[[int], dict[str, Any]], shape: list[int]
) -> None:
    """Wherever in its levels the conditions are, and on whichever side of each."""
    for last in (True, False):
        where = _nested(kind, shape, last=last)
        assert rows.found(where) == rows.expected(where)


def _nested(kind: Callable[[int], dict[str, Any]], shape: list[int], *, last: bool) -> dict[str, Any]:
    numbers = count()
    where: dict[str, Any] = {"$and": [kind(next(numbers)) for _ in range(shape[0] + 1)]}
    for level, more in enumerate(shape[1:]):
        own = [kind(next(numbers)) for _ in range(more + 1)]
        where = {"$and" if level % 2 else "$or": [*own, where] if last else [where, *own]}
    return where


@pytest.mark.parametrize("inner", ["$or", "$and"])
def test_filter_nested_on_both_sides_at_every_level_works(rows: Rows, inner: str) -> None:
    numbers = count()
    kind = KINDS["mixed range"]

    def grown(depth: int) -> dict[str, Any]:
        if depth == 0:
            return kind(next(numbers))
        join = inner if depth % 2 else {"$or": "$and", "$and": "$or"}[inner]
        return {join: [grown(depth - 1), grown(depth - 1)]}

    where = grown(6)
    assert rows.found(where) == rows.expected(where)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"$or": [{"a": {"$gt": n}} for n in range(MOST_CONDITIONS + 1)]}, "65 conditions, and may have 64"),
        ({f"k{n}": n for n in range(1_000)}, "1,000 conditions, and may have 64"),
        ({"$not": {"$or": [{f"k{n}": "x"} for n in range(3_000)]}}, "3,000 conditions, and may have 64"),
        ({"$or": [{"$contains": f"{n}"} for n in range(3_000)]}, "3,000 conditions, and may have 64"),
        ({"a": {"$in": list(range(MOST_VALUES + 1))}}, "10,001 values, and may have 10,000"),
        ({"$or": [{"a": n} for n in range(MOST_VALUES + 1)]}, "10,001 values, and may have 10,000"),
        ({"a": "x" * (MOST_CHARACTERS + 1)}, "characters, and may have 1,048,576"),
        ({"$regex": "x" * 4_097}, "regular expressions of 4,097 characters, and may have 4 of 4,096"),
        ({"$or": [{"$regex": f"{n}"} for n in range(5)]}, "5 regular expressions of 5 characters"),
        ({"$regex": r"\pL{65}"}, "65 times, and may do so 64 times"),
        ({"$regex": r"(\w{2,30}){3}"}, "90 times, and may do so 64 times"),
        ({"$regex": "a{999999999}{999999999}"}, "1,000,000,000 times, and may do so 1,024 times"),
        ({"x" * (MOST_CHARACTERS + 1): 1}, "characters, and may have 1,048,576"),
        ({"$contains": "x" * (MOST_CHARACTERS + 1)}, "characters, and may have 1,048,576"),
    ],
)
def test_filter_beyond_a_limit_is_refused_with_the_limit_named(where: Any, says: str) -> None:
    with pytest.raises(Rejected, match=says) as caught:
        to_sql(where)
    assert len(str(caught.value)) < 300


def test_filter_number_too_long_to_write_is_refused() -> None:
    with pytest.raises(Rejected, match="64 bits"):
        to_sql({"a": 10**5_000})


def test_filter_most_characters_work(rows: Rows) -> None:
    where = {"a": {"$in": ["'" * (MOST_CHARACTERS // 2), "7.md"]}, "$not": {"$contains": "x" * 1_000}}
    assert rows.found(where) == rows.expected(where)


def test_filter_with_constant_conditions_equals_plain_python(rows: Rows) -> None:
    never: dict[str, Any] = {"a": {"$in": []}}
    filters: list[dict[str, Any]] = [
        {"$or": [{}, {"a": 7}]},
        {"$and": [{}, {"a": 7}]},
        {"$not": {}},
        {"$or": [{"$not": {}}, {"a": 7}]},
        {"$and": [{"$not": {}}, {"a": 7}]},
        {"$or": [never, {"a": 7}]},
        {"$and": [{"a": {"$nin": []}}, {"a": {"$ne": 7}}]},
        {"$not": {"$or": [never, {"$not": {}}]}},
        {"a": {"$eq": 7, "$ne": 7.5, "$in": [7, "7"], "$nin": [True], "$gte": 7}},
    ]
    for where in filters:
        assert rows.found(where) == rows.expected(where), where


@dataclass(frozen=True)
class Drawing:
    """Random filters, up to and beyond every limit."""

    chance: random.Random

    def where(self, conditions: int, depth: int = 0) -> dict[str, Any]:
        """Draw a filter with about so many conditions."""
        chance = self.chance
        if conditions <= 1 or depth >= DEEPEST:
            if chance.random() < 0.1:
                return {"$contains": chance.choice(["d", "d1", "nothing", ""])}
            return {chance.choice(["a", f"k{chance.randrange(40)}"]): self.condition()}
        if chance.random() < 0.2:
            return {"$not": self.where(conditions, depth + 1)}
        places = sorted(chance.randrange(conditions + 1) for _ in range(chance.choice([1, 1, 2, 8, 40])))
        shares = [after - before for before, after in pairwise([0, *places, conditions])]
        return {chance.choice(["$and", "$or"]): [self.where(share, depth + 1) for share in shares if share]}

    def condition(self) -> dict[str, Any]:
        """Draw what is said about a key."""
        name = self.chance.choice(["$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte"])
        if name in ("$in", "$nin"):
            return {name: [self.operand() for _ in range(self.chance.choice([0, 1, 1, 3, 3, 200]))]}
        if name in ("$eq", "$ne"):
            return {name: self.operand()}
        bounds = [each for each in (self.operand(), self.operand()) if not isinstance(each, bool)] or [7]
        return dict(zip([name, "$lte" if name != "$lte" else "$gt"], bounds, strict=False))

    def operand(self) -> Any:
        """Draw a value to compare with."""
        return self.chance.choice([*HELD[:-1], *(value for each in VALUES.values() for value in each[:20])])


def fuzz(rows: Rows, seed: int) -> bool:
    """Try a random filter; return whether it was within the limits."""
    chance = random.Random(seed)
    where = Drawing(chance).where(chance.choice([1, 5, 20, MOST_CONDITIONS, 80]))
    try:
        to_sql(where)
    except Rejected as error:
        said = str(error)
    else:
        assert rows.found(where) == rows.expected(where), seed
        return True
    assert " and may have " in said, seed
    return False


def test_filter_random_up_to_the_limits_selects_what_plain_python_selects(rows: Rows) -> None:
    within = [fuzz(rows, seed) for seed in range(60)]
    assert within.count(True) > 30


@pytest.mark.long
def test_filter_random_for_a_minute_selects_what_plain_python_selects(rows: Rows) -> None:
    until, seed = time.monotonic() + 60, 1_000
    while time.monotonic() < until:
        fuzz(rows, seed)
        seed += 1
