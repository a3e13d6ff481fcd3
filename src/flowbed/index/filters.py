"""`where`: a filter on metadata and text, checked and translated to Lance's SQL.

The grammar, on flat metadata: `{"source": "slack", "ts": {"$gte": 1447}}`; `$eq $ne $gt $gte $lt $lte $in $nin` on a
key, `$and $or` on lists of filters, `$not` on a filter, `$contains` on the row's own text. Several keys must all hold.
A missing key matches nothing but `$ne` and `$nin`. Types are not coerced: 5 is 5.0, but neither "5" nor true.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPARISONS = {"$eq": "=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = (*COMPARISONS, "$ne", "$in", "$nin")
LARGEST = 2**63 - 1  # a JSON integer beyond it has no SQL type
# Levels of $and, $or and $not. Lance's parser gives up at 20 nested $not, and takes twice as long for each one more.
DEEPEST = 16


def to_sql(where: Mapping[str, Any] | None) -> str:
    """Translate a filter into a condition that is true or false, never null; of nothing, `true`.

    Raises:
        Rejected: the filter is not of the grammar; the message says where.

    """
    return _all_of(where or {}, depth=0)


def _all_of(where: Any, *, depth: int) -> str:  # noqa: ANN401 - what a user wrote
    if not isinstance(where, dict):
        message = f'a filter is an object such as {{"source": "slack"}}, not {where!r}'
        raise Rejected(message)
    if depth > DEEPEST:
        message = f"the filter is nested more than {DEEPEST} deep"
        raise Rejected(message)
    if not where:
        return "true"
    return _join("AND", [_term(key, value, depth=depth) for key, value in where.items()])


def _term(key: Any, value: Any, *, depth: int) -> str:  # noqa: ANN401
    if not isinstance(key, str):
        message = f"a filter's keys are names, not {key!r}"
        raise Rejected(message)
    if key.startswith("$"):
        return _operator(key, value, depth=depth)
    if not isinstance(value, dict):
        return _equal(key, value)
    if not value:
        message = f"the condition on {key!r} is empty; give a value or one of {', '.join(OPERATORS)}"
        raise Rejected(message)
    return _join("AND", [_condition(key, operator, operand) for operator, operand in value.items()])


def _operator(name: str, value: Any, *, depth: int) -> str:  # noqa: ANN401
    match name:
        case "$and" | "$or":
            if not isinstance(value, list | tuple) or not value:
                message = f"{name} takes a list of at least one filter, not {value!r}"
                raise Rejected(message)
            return _join(name[1:].upper(), [_all_of(part, depth=depth + 1) for part in value])
        case "$not":
            return f"NOT ({_all_of(value, depth=depth + 1)})"
        case "$contains":
            if not isinstance(value, str):
                message = f"$contains takes the text to find, not {value!r}"
                raise Rejected(message)
            return f"coalesce(contains(document, {_text(value)}), false)"
        case _:
            there = f"$and, $or, $not, $contains, and on a key {', '.join(OPERATORS)}"
            message = f"{name} is no operator here; there are {there}"
            raise Rejected(message)


def _condition(key: str, operator: str, operand: Any) -> str:  # noqa: ANN401
    if operator in {"$in", "$nin"}:
        if not isinstance(operand, list | tuple):
            message = f"{operator} on {key!r} takes a list, not {operand!r}"
            raise Rejected(message)
        matches = _join("OR", [_equal(key, value) for value in operand]) if operand else "false"
        return matches if operator == "$in" else f"NOT ({matches})"
    if operator == "$ne":
        return f"NOT ({_equal(key, operand)})"
    if operator not in COMPARISONS:
        message = f"{operator!r} on {key!r} is no operator; there are {', '.join(OPERATORS)}"
        raise Rejected(message)
    return _compare(key, COMPARISONS[operator], operand)


def _equal(key: str, value: Any) -> str:  # noqa: ANN401
    return _compare(key, "=", value)


def _compare(key: str, sign: str, value: Any) -> str:  # noqa: ANN401
    name = _text(key)
    # The value as JSON text tells the type: a string keeps its quotes. Lance's own json_get_int and its kin coerce,
    # and fail the whole query on a value they cannot coerce.
    written = f"json_extract(json_get(metadata, {name}), '$')"
    match value:
        case bool():
            if sign != "=":
                message = (
                    f"true and false have no order; {key!r} can only be compared with $eq, $ne, $in or $nin"
                )
                raise Rejected(message)
            found = f"{written} = '{str(value).lower()}'"
        case int() | float():
            found = _number(written, sign, value)
        case str():
            found = f"({written} LIKE '\"%' AND json_get_string(metadata, {name}) {sign} {_text(value)})"
        case _:
            message = f"{key!r} can be compared with text, a number, true or false, not with {value!r}"
            raise Rejected(message)
    return f"coalesce({found}, false)"


def _number(written: str, sign: str, value: float) -> str:
    if not math.isfinite(value):
        message = f"{value} cannot be compared with"
        raise Rejected(message)
    if abs(value) > LARGEST:
        message = f"{value} is beyond the numbers that a filter compares exactly (64 bits)"
        raise Rejected(message)
    real = f"try_cast({written} AS DOUBLE) {sign} {float(value)!r}"
    whole = int(value)
    if value != whole:
        return real
    # Whole numbers are compared as such: a double cannot tell the ids of most chats apart.
    exact = f"try_cast({written} AS BIGINT)"
    return f"(({exact} {sign} {whole}) OR ({exact} IS NULL AND {real}))"


def _text(value: str) -> str:
    if "\0" in value:
        message = f"{value!r} holds a NUL character, which no stored text has"
        raise Rejected(message)
    return "'" + value.replace("'", "''") + "'"


def _join(word: str, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else "(" + f" {word} ".join(parts) + ")"
