"""A filter in normal form as Lance's SQL: every condition is true or false, never null."""

from __future__ import annotations

import heapq
import json
import math
from typing import TYPE_CHECKING

from flowbed.errors import Rejected
from flowbed.index.search.filter_tree import ANY_TEXT, ID, Among, Between, Contains, Joined, Matches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.index.search.filter_tree import Node, Value, Word

DOUBLES = 2**53  # up to it a double is as exact as an integer


def write(node: Node) -> str:
    """Write a filter as SQL.

    Raises:
        Rejected: a text is not valid Unicode.
    """
    return _written(node)[1]


def has_key(key: str) -> str:
    """Write that a row has a value under `key`."""
    return f"{_as_text(key)} IS NOT NULL"


def _written(node: Node) -> tuple[int, str]:
    """Return how deep the conditions are nested in parentheses, and the SQL."""
    match node:
        case Joined(word, parts):
            if not parts:
                return 0, "true" if word == "AND" else "false"
            return _nested(word, [_written(part) for part in parts])
        case Among(key, values, negated):
            found = _any_of(key, values)
        case Between(key, bounds, negated):
            found = _join("AND", _between(key, bounds))
        case Contains(text, negated):
            found = f"coalesce(contains(document, {_text(text)}), false)"
        case Matches(pattern, negated) if pattern == ANY_TEXT:
            found = "coalesce(document <> '', false)"
        case Matches(pattern, negated):
            # Not `regexp_like`: the optimizer makes a LIKE of it, in which it takes a backslash for an escape.
            found = f"regexp_match(document, {_text(pattern)}) IS NOT NULL"
    return 0, f"NOT ({found})" if negated else found


def _nested(word: Word, parts: Sequence[tuple[int, str]]) -> tuple[int, str]:
    """Join conditions two by two, the shallow ones first and the deeper one on the left.

    Lance walks a tree by recursion: an OR of 1,000 in a row overflows its stack. Its parser fails at 50 levels, where a
    level on the left counts once and one on the right twice. This way 64 conditions in 16 levels need 22.
    """
    heap = [(depth, place, sql) for place, (depth, sql) in enumerate(dict.fromkeys(parts))]
    heapq.heapify(heap)
    for place in range(len(heap), 2 * len(heap) - 1):
        _, _, right = heapq.heappop(heap)
        depth, _, left = heapq.heappop(heap)
        heapq.heappush(heap, (depth + 1, place, f"({left} {word} {right})"))
    depth, _, sql = heap[0]
    return depth, sql


def _any_of(key: str, values: Sequence[Value]) -> str:
    """Write that a value is one of `values`: one list for each type, so that a row's JSON is read only once."""
    if key == ID:
        return _in("id", [_text(str(value)) for value in values]) if values else "false"
    text = _as_text(key)
    write_list: Mapping[str, Callable[[Sequence[str]], str]] = {
        "boolean": lambda listed: _in(_as_json(key), listed),
        "text": lambda listed: _in(text, listed),
        "json": lambda listed: f"({_in(text, listed)} AND {_is_text(key)})",
        "number": lambda listed: f"({_in(_double(text), listed)} AND NOT {_is_text(key)})",
        "large": lambda listed: f"({_large(text, listed)} AND NOT {_is_text(key)})",
    }
    lists: dict[str, list[str]] = {}
    for value in values:
        kind, literal = _literal(value)
        lists.setdefault(kind, []).append(literal)
    found = [write_list[kind](listed) for kind, listed in lists.items()]
    return f"coalesce({_join('OR', found)}, false)" if found else "false"


def _literal(value: Value) -> tuple[str, str]:
    """Return the kind of list that a value is compared in, and the value as it is written there."""
    match value:
        case bool():
            return "boolean", f"'{str(value).lower()}'"
        case str():
            # Of other texts the type need not be checked: no number or boolean is written like them.
            return "json" if _may_be_json(value) else "text", _text(value)
        case _ if abs(value) < DOUBLES:
            return "number", repr(float(value))
        case _:
            return "large", str(int(value))  # as large as this, no number has a fraction


def _large(text: str, integers: Sequence[str]) -> str:
    """Write that a number is one of these, which doubles cannot tell apart: integers compare as integers."""
    whole = _in(_integer(text), integers)
    doubles = [repr(float(each)) for each in integers if int(float(each)) == int(each)]
    if not doubles:
        return whole
    return f"({whole} OR ({_integer(text)} IS NULL AND {_in(_double(text), doubles)}))"


def _in(found: str, values: Sequence[str]) -> str:
    return f"{found} IN ({', '.join(dict.fromkeys(values))})"


def _between(key: str, bounds: Sequence[tuple[str, Value]]) -> list[str]:
    """Write that a value lies within bounds of (sign, value), for texts and for numbers."""
    text = _as_text(key)
    texts: list[str] = []
    numbers: list[str] = []
    for sign, value in bounds:
        if isinstance(value, str):
            texts.append(f"{text} {sign} {_text(value)}")
        else:
            numbers.append(_bound(text, sign, value))
    found = [[*texts, _is_text(key)]] if texts else []
    found += [[*numbers, f"NOT {_is_text(key)}"]] if numbers else []
    return [f"coalesce({_join('AND', parts)}, false)" for parts in found]


def _bound(text: str, sign: str, value: float) -> str:
    whole, nearest = int(value), float(value)
    if abs(whole) < DOUBLES:
        return f"{_double(text)} {sign} {nearest!r}"
    # A double cannot tell the ids of most chats apart, so integers are compared as integers. Any other stored number
    # is a double; if `value` lies between two doubles, it is compared with the lower one.
    if int(nearest) == whole:
        real = f"{_double(text)} {sign} {nearest!r}"
    else:
        below = nearest if int(nearest) < whole else math.nextafter(nearest, -math.inf)
        real = f"{_double(text)} {'>' if '>' in sign else '<='} {below!r}"
    return f"(({_integer(text)} {sign} {whole}) OR ({_integer(text)} IS NULL AND {real}))"


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


def _integer(text: str) -> str:
    return f"try_cast({text} AS BIGINT)"


def _double(text: str) -> str:
    return f"try_cast({text} AS DOUBLE)"


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Rejected(f"{value!r} is not Unicode text: {error.reason}") from error
    return "'" + value.replace("'", "''") + "'"


def _join(word: Word, parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else "(" + f" {word} ".join(parts) + ")"
