"""`where`: a filter on metadata and text, checked and translated to Lance's SQL.

The grammar, on flat metadata: `{"source": "slack", "ts": {"$gte": 1447}}`; `$eq $ne $gt $gte $lt $lte $in $nin` on a
key, `$and $or` on lists of filters, `$not` on a filter, `$contains` and `$regex` on the row's own text, `$id` for the
row's id. Several keys must all hold. A missing key matches nothing but `$ne` and `$nin`. Types are not coerced: 5 is
5.0, but neither "5" nor true.
"""

from __future__ import annotations

import math
import re
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.index.search.filter_sql import write
from flowbed.index.search.filter_tree import ANY_TEXT, ID, Among, Between, Contains, Matches, conditions, join

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.index.search.filter_tree import Condition, Node, Value

ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ("$eq", "$ne", *ORDER, "$in", "$nin")
LARGEST = 2**63 - 1  # a larger JSON integer has no SQL type
DEEPEST = 16  # levels of $and, $or and $not; Lance's parser fails at about twice as many
# A condition takes 2 to 32 ms of CPU over 100,000 rows, so 64 take up to 2 s there; over one row, 64 take 30 ms.
MOST_CONDITIONS = 64
MOST_VALUES = 10_000  # these take 0.1 s of CPU to read, however many rows there are
MOST_CHARACTERS = 1 << 20  # of keys and texts; a key is written up to six times
# Of regular expressions: one of 35,000 characters takes 3 s of CPU to compile, and one that repeats a class of letters
# 200 times takes 12 s over 50,000 rows, 100 times 3 s. Repetitions within each other multiply.
MOST_PATTERN, MOST_PATTERNS, MOST_REPETITIONS, MOST_OF_CLASSES = 4_096, 4, 1_024, 64
CLASS = re.compile(r"\\[pPwWdDsS]|\[\^|\(\?\w*i")  # each of them stands for hundreds of characters
REPETITION = re.compile(r"(?<!\\)\{(\d{1,9})(?:,(\d{0,9}))?\}")


def to_sql(where: Mapping[str, Any] | None) -> str:
    """Translate a filter into a condition that is true or false, never null; `true` for no filter.

    Raises:
        Rejected: the filter is invalid, or larger than the limits; the message says where, or which limit.
    """
    if where is None:
        return "true"
    node = _all_of(where, depth=0, negated=False)
    _require_within(node)
    return write(node)


def keys_of(where: Mapping[str, Any]) -> list[str]:
    """Return the metadata keys that a valid filter names."""
    found = conditions(_all_of(where, depth=0, negated=False))
    keys = dict.fromkeys(each.key for each in found if isinstance(each, Among | Between))
    return [key for key in keys if key != ID]


def _require_within(node: Node) -> None:
    """Bound what the search of one row, and of many, may cost."""
    listed = list(conditions(node))
    if len(listed) > MOST_CONDITIONS:
        raise Rejected(
            f"the filter has {len(listed):,} conditions, and may have {MOST_CONDITIONS}; equalities on one key count as"
            " one, so write a list of values with $in or $nin"
        )
    patterns = [each.pattern for each in listed if isinstance(each, Matches)]
    _require_cheap([pattern for pattern in patterns if pattern != ANY_TEXT])
    values = [value for each in listed for value in _values(each)]
    if len(values) > MOST_VALUES:
        raise Rejected(
            f"the filter has {len(values):,} values, and may have {MOST_VALUES:,}; split it into several searches"
        )
    keys = [each.key for each in listed if not isinstance(each, Contains | Matches)]
    characters = sum(len(value) for value in [*keys, *values] if isinstance(value, str))
    if characters > MOST_CHARACTERS:
        raise Rejected(
            f"the texts in the filter have {characters:,} characters, and may have {MOST_CHARACTERS:,}"
        )


def _require_cheap(patterns: Sequence[str]) -> None:
    """Bound what the regular expressions of a filter may cost."""
    characters = sum(map(len, patterns))
    if len(patterns) > MOST_PATTERNS or characters > MOST_PATTERN:
        raise Rejected(
            f"the filter has {len(patterns):,} regular expressions of {characters:,} characters, and may have"
            f" {MOST_PATTERNS} of {MOST_PATTERN:,}"
        )
    for pattern in patterns:
        repetitions = 1
        for least, most in REPETITION.findall(pattern):
            repetitions = min(repetitions * max(1, int(most or least)), 10**9)
        most_here = MOST_OF_CLASSES if CLASS.search(pattern) else MOST_REPETITIONS
        if repetitions > most_here:
            raise Rejected(
                f"the regular expression {shortened(pattern)} repeats its parts {repetitions:,} times, and may do so"
                f" {most_here:,} times: the counts in braces, multiplied"
            )


def _values(condition: Condition) -> tuple[Value, ...]:
    match condition:
        case Among(values=values):
            return values
        case Between(bounds=bounds):
            return tuple([value for _, value in bounds])
        case Contains(text) | Matches(text):
            return (text,)


def _all_of(where: Any, *, depth: int, negated: bool) -> Node:  # what a user wrote
    if not isinstance(where, dict):
        raise Rejected(f'a filter is an object such as {{"source": "slack"}}, not {shortened(where)}')
    if depth > DEEPEST:
        raise Rejected(f"the filter is nested more than {DEEPEST} deep")
    parts = [_term(key, value, depth=depth, negated=negated) for key, value in where.items()]
    return join("OR" if negated else "AND", parts)


def _term(key: Any, value: Any, *, depth: int, negated: bool) -> Node:
    if not isinstance(key, str):
        raise Rejected(f"a filter's keys are names, not {shortened(key)}")
    if key == ID:
        return _identified(value, negated=negated)
    if key.startswith("$"):
        return _operator(key, value, depth=depth, negated=negated)
    if not isinstance(value, dict):
        return Among(key, (_checked(key, value),), negated)
    if not value:
        raise Rejected(f"the condition on {key!r} is empty; give a value or one of {', '.join(OPERATORS)}")
    parts: list[Node] = [
        _among(key, *each, negated=negated) for each in value.items() if each[0] not in ORDER
    ]
    bounds = [(ORDER[operator], _ordered(key, value[operator])) for operator in value if operator in ORDER]
    if bounds:
        parts.append(Between(key, tuple(bounds), negated))
    return join("OR" if negated else "AND", parts)


def _identified(value: Any, *, negated: bool) -> Node:
    """Read a condition on the row's own id, which is a text without an order."""
    terms = value if isinstance(value, dict) else {"$eq": value}
    parts = [_among(ID, *each, negated=negated) for each in terms.items()]
    if not parts or not all(isinstance(each, str) for part in parts for each in part.values):
        raise Rejected(f"{ID} takes an id, or ids after $in or $nin, not {shortened(value)}")
    return join("OR" if negated else "AND", parts)


def _operator(name: str, value: Any, *, depth: int, negated: bool) -> Node:
    match name:
        case "$and" | "$or":
            if not isinstance(value, list | tuple) or not value:
                raise Rejected(f"{name} takes a list of at least one filter, not {shortened(value)}")
            parts = [_all_of(part, depth=depth + 1, negated=negated) for part in value]
            return join("AND" if (name == "$and") is not negated else "OR", parts)
        case "$not":
            return _all_of(value, depth=depth + 1, negated=not negated)
        case "$contains":
            if not isinstance(value, str):
                raise Rejected(f"$contains takes the text to find, not {shortened(value)}")
            return Contains(value, negated)
        case "$regex":
            if not isinstance(value, str):
                raise Rejected(f"$regex takes a regular expression as text, not {shortened(value)}")
            return Matches(value, negated)
        case _:
            known = f"$and, $or, $not, $contains, $regex, {ID}, and on a key {', '.join(OPERATORS)}"
            raise Rejected(f"{name} is not an operator here; use {known}")


def _among(key: str, operator: str, operand: Any, *, negated: bool) -> Among:
    match operator:
        case "$eq" | "$ne":
            return Among(key, (_checked(key, operand),), (operator == "$ne") is not negated)
        case "$in" | "$nin":
            if not isinstance(operand, list | tuple):
                raise Rejected(f"{operator} on {key!r} takes a list, not {shortened(operand)}")
            values = tuple([_checked(key, each) for each in operand])
            return Among(key, values, (operator == "$nin") is not negated)
        case _:
            raise Rejected(f"{operator!r} on {key!r} is not an operator; use one of {', '.join(OPERATORS)}")


def _ordered(key: str, value: Any) -> Value:
    if isinstance(value, bool):
        raise Rejected(
            f"true and false have no order; {key!r} can only be compared with $eq, $ne, $in or $nin"
        )
    return _checked(key, value)


def _checked(key: str, value: Any) -> Value:
    if isinstance(value, str | bool):
        return value
    if not isinstance(value, int | float):
        raise Rejected(
            f"{key!r} can be compared with text, a number, true or false, not with {shortened(value)}"
        )
    if abs(value) > LARGEST and not (isinstance(value, float) and math.isinf(value)):
        raise Rejected(f"{_short(value)} is beyond the numbers that a filter compares exactly (64 bits)")
    if not math.isfinite(value):
        raise Rejected(f"{value} cannot be compared")
    return value


def _short(number: float) -> str:
    try:
        return shortened(number)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
