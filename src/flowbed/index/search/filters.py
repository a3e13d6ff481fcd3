"""`where`: a filter on metadata and text, checked and translated to Lance's SQL.

The grammar, on flat metadata: `{"source": "slack", "ts": {"$gte": 1447}}`; `$eq $ne $gt $gte $lt $lte $in $nin` on a
key, `$and $or` on lists of filters, `$not` on a filter, `$contains` on the row's own text. Several keys must all hold.
A missing key matches nothing but `$ne` and `$nin`. Types are not coerced: 5 is 5.0, but neither "5" nor true.
"""

from __future__ import annotations

import json
import math
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ("$eq", "$ne", *ORDER, "$in", "$nin")
LARGEST = 2**63 - 1  # a larger JSON integer has no SQL type
DOUBLES = 2**53  # up to it a double is as exact as an integer
# Levels of $and, $or and $not. Lance's parser fails at 20 nested $not, and each level doubles its time.
DEEPEST = 16


def to_sql(where: Mapping[str, Any] | None) -> str:
    """Translate a filter into a condition that is true or false, never null; `true` for no filter.

    Raises:
        Rejected: the filter is invalid; the message says where.
    """
    return _all_of({} if where is None else where, depth=0)


def _all_of(where: Any, *, depth: int) -> str:  # what a user wrote
    if not isinstance(where, dict):
        raise Rejected(f'a filter is an object such as {{"source": "slack"}}, not {shortened(where)}')
    if depth > DEEPEST:
        raise Rejected(f"the filter is nested more than {DEEPEST} deep")
    if not where:
        return "true"
    return _join("AND", [_term(key, value, depth=depth) for key, value in where.items()])


def _term(key: Any, value: Any, *, depth: int) -> str:
    if not isinstance(key, str):
        raise Rejected(f"a filter's keys are names, not {key!r}")
    if key.startswith("$"):
        return _operator(key, value, depth=depth)
    if not isinstance(value, dict):
        return _any_of(key, [value])
    if not value:
        raise Rejected(f"the condition on {key!r} is empty; give a value or one of {', '.join(OPERATORS)}")
    bounds = [(ORDER[operator], operand) for operator, operand in value.items() if operator in ORDER]
    parts = [_condition(key, *each) for each in value.items() if each[0] not in ORDER]
    return _join("AND", [*parts, *_between(key, bounds)])


def _operator(name: str, value: Any, *, depth: int) -> str:
    match name:
        case "$and" | "$or":
            if not isinstance(value, list | tuple) or not value:
                raise Rejected(f"{name} takes a list of at least one filter, not {shortened(value)}")
            return _join(name[1:].upper(), [_all_of(part, depth=depth + 1) for part in value])
        case "$not":
            return f"NOT ({_all_of(value, depth=depth + 1)})"
        case "$contains":
            if not isinstance(value, str):
                raise Rejected(f"$contains takes the text to find, not {shortened(value)}")
            return f"coalesce(contains(document, {_text(value)}), false)"
        case _:
            known = f"$and, $or, $not, $contains, and on a key {', '.join(OPERATORS)}"
            raise Rejected(f"{name} is not an operator here; use {known}")


def _condition(key: str, operator: str, operand: Any) -> str:
    match operator:
        case "$eq":
            return _any_of(key, [operand])
        case "$ne":
            return f"NOT ({_any_of(key, [operand])})"
        case "$in" | "$nin":
            if not isinstance(operand, list | tuple):
                raise Rejected(f"{operator} on {key!r} takes a list, not {shortened(operand)}")
            matches = _any_of(key, operand)
            return matches if operator == "$in" else f"NOT ({matches})"
        case _:
            raise Rejected(f"{operator!r} on {key!r} is not an operator; use one of {', '.join(OPERATORS)}")


def _any_of(key: str, values: Sequence[Any]) -> str:
    """Write that a value is one of `values`: one list for each type, so that a row's JSON is read only once."""
    text = _as_text(key)
    plain: list[str] = []  # texts that no number or boolean is written as, so the type need not be checked
    alike: list[str] = []
    numbers: list[str] = []
    found: list[str] = []
    for value in values:
        match value:
            case bool():
                found.append(f"{_as_json(key)} = '{str(value).lower()}'")
            case str():
                (alike if _may_be_json(value) else plain).append(_text(value))
            case _ if abs(_checked(key, value)) < DOUBLES:
                numbers.append(repr(float(value)))
            case _:
                found.append(f"({_number(text, '=', value)} AND NOT {_is_text(key)})")
    if plain:
        found.append(f"{text} IN ({', '.join(plain)})")
    if alike:
        found.append(f"({text} IN ({', '.join(alike)}) AND {_is_text(key)})")
    if numbers:
        found.append(f"({_double(text)} IN ({', '.join(numbers)}) AND NOT {_is_text(key)})")
    return f"coalesce({_join('OR', found)}, false)" if found else "false"


def _between(key: str, bounds: Sequence[tuple[str, Any]]) -> list[str]:
    """Write that a value lies within bounds of (sign, value), for texts and for numbers."""
    text = _as_text(key)
    texts: list[str] = []
    numbers: list[str] = []
    for sign, value in bounds:
        match value:
            case bool():
                raise Rejected(
                    f"true and false have no order; {key!r} can only be compared with $eq, $ne, $in or $nin"
                )
            case str():
                texts.append(f"{text} {sign} {_text(value)}")
            case _:
                numbers.append(_number(text, sign, _checked(key, value)))
    found = [[*texts, _is_text(key)]] if texts else []
    found += [[*numbers, f"NOT {_is_text(key)}"]] if numbers else []
    return [f"coalesce({_join('AND', parts)}, false)" for parts in found]


def _as_text(key: str) -> str:
    # As text: Lance's json_get_int and its kin fail the whole query on a value that they cannot convert, while every
    # value has a text.
    return f"json_get_string(metadata, {_text(key)})"


def _is_text(key: str) -> str:
    # Last in a condition: SQL's AND evaluates it only for the rows that fit the rest.
    return f"({_as_json(key)} LIKE '\"%')"


def _as_json(key: str) -> str:
    # The value as JSON shows its type: a text has quotes. It takes twice as long to read as `_as_text`.
    return f"json_extract(json_get(metadata, {_text(key)}), '$')"


def _may_be_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _checked(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Rejected(
            f"{key!r} can be compared with text, a number, true or false, not with {shortened(value)}"
        )
    if abs(value) > LARGEST and not (isinstance(value, float) and math.isinf(value)):
        raise Rejected(f"{value} is beyond the numbers that a filter compares exactly (64 bits)")
    if not math.isfinite(value):
        raise Rejected(f"{value} cannot be compared")
    return value


def _number(text: str, sign: str, value: float) -> str:
    whole, nearest = int(value), float(value)
    if abs(whole) < DOUBLES:
        return f"{_double(text)} {sign} {nearest!r}"
    # A double cannot tell the ids of most chats apart, so integers are compared as integers. Any other stored number
    # is a double; if `value` lies between two doubles, it is compared with the lower one.
    if int(nearest) == whole:
        real = f"{_double(text)} {sign} {nearest!r}"
    elif sign == "=":
        real = "false"
    else:
        below = nearest if int(nearest) < whole else math.nextafter(nearest, -math.inf)
        real = f"{_double(text)} {'>' if '>' in sign else '<='} {below!r}"
    exact = f"try_cast({text} AS BIGINT)"
    return f"(({exact} {sign} {whole}) OR ({exact} IS NULL AND {real}))"


def _double(text: str) -> str:
    return f"try_cast({text} AS DOUBLE)"


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Rejected(f"{value!r} is not Unicode text: {error.reason}") from error
    return "'" + value.replace("'", "''") + "'"


def _join(word: str, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else "(" + f" {word} ".join(parts) + ")"
