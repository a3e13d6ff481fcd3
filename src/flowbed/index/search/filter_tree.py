"""A filter in normal form: a tree of conditions, whose depth and size bound the work that it causes.

`$not` is carried down to the conditions, an `$and` within an `$and` is one `$and`, and equalities on one key are one
condition with a list of values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# The regular expression that every text but the empty one matches; it is not run as one.
ANY_TEXT = "(?s)."

# The key of conditions on the row's own id; no metadata can be filtered by it.
ID = "$id"

Value = str | bool | int | float
Word = Literal["AND", "OR"]


@dataclass(frozen=True, eq=False)  # 1 and true are equal in Python, and no filter takes one for the other
class Among:
    """The value of `key` (with `ID`: the row's id) is one of `values`; negated: it is not, or there is none."""

    key: str
    values: tuple[Value, ...]
    negated: bool


@dataclass(frozen=True, eq=False)
class Between:
    """The value of `key` fits all `bounds` of (sign, value); negated: it does not, or there is none."""

    key: str
    bounds: tuple[tuple[str, Value], ...]
    negated: bool


@dataclass(frozen=True, eq=False)
class Contains:
    """The row's own text contains `text`; negated: it does not."""

    text: str
    negated: bool


@dataclass(frozen=True, eq=False)
class Matches:
    """The row's own text has a part that matches the regular expression `pattern`; negated: it has none."""

    pattern: str
    negated: bool


@dataclass(frozen=True, eq=False)
class Joined:
    """All parts hold (`AND`: always true if there is none), or at least one (`OR`: never true if there is none)."""

    word: Word
    parts: tuple[Node, ...]


Condition = Among | Between | Contains | Matches
Node = Condition | Joined


def join(word: Word, parts: Iterable[Node]) -> Node:
    """Join nodes in normal form into one in normal form."""
    kept: list[Node] = []
    alike: dict[str, list[Value]] = {}  # of `= a OR = b`, or of `<> a AND <> b`, by key
    for part in _flat(word, parts):
        if isinstance(part, Joined) and not part.parts:
            return part  # one that is true decides an OR, one that is false decides an AND
        if isinstance(part, Among) and part.negated == (word == "AND"):
            alike.setdefault(part.key, []).extend(part.values)
        else:
            kept.append(part)
    kept += [Among(key, tuple(values), word == "AND") for key, values in alike.items()]
    return kept[0] if len(kept) == 1 else Joined(word, tuple(kept))


def _flat(word: Word, parts: Iterable[Node]) -> Iterator[Node]:
    for part in parts:
        if isinstance(part, Joined) and part.word == word:
            yield from part.parts
        else:
            yield part


def conditions(node: Node) -> Iterator[Condition]:
    """Iterate over the conditions of a filter."""
    if isinstance(node, Joined):
        for part in node.parts:
            yield from conditions(part)
    else:
        yield node
