"""Chroma's filters, checked as Chroma checks them and translated to those of the index.

The grammars differ little: Chroma compares by order only with numbers, wants the operands of a list to be of one type,
and has one condition on a key and one key in an object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.index.search.filter_tree import ANY_TEXT

if TYPE_CHECKING:
    from collections.abc import Callable

    Filter = dict[str, Any]

EVERY: Filter = {}
NONE: Filter = {"$not": {}}
HAS_TEXT: Filter = {"$regex": ANY_TEXT}
DOCUMENT = "#document"  # the key that stands for the text of a row
ORDER = ("$gt", "$gte", "$lt", "$lte")
SCALARS = (str, bool, int, float)
# Conditions on a text, and whether they are negated.
TEXT = {
    "$contains": ("$contains", False),
    "$not_contains": ("$contains", True),
    "$regex": ("$regex", False),
    "$not_regex": ("$regex", True),
}
LARGEST = 2**63 - 1  # Chroma's integers have 64 bits
DEEPEST = 32  # levels of $and and $or; the index takes fewer, and a deeper one would exhaust Python's stack


def to_filter(where: Any, where_document: Any) -> Filter | None:
    """Translate `where` and `where_document`, both parsed JSON; None where there is neither.

    Raises:
        Rejected: one of them is invalid, in Chroma's words.
    """
    parts = []
    if where is not None:
        parts.append(_joined(where, _condition, _invalid, DEEPEST))
    if where_document is not None:
        parts.append(_joined(where_document, _text, _invalid_document, DEEPEST))
    if len(parts) == 1:
        return parts[0]
    return {"$and": parts} if parts else None


def _joined(
    where: Any, leaf: Callable[[str, Any], Filter], invalid: Callable[[], Rejected], deeper: int
) -> Filter:  # user input
    if not deeper:
        raise Rejected(f"the filter is nested more than {DEEPEST} deep")
    if not isinstance(where, dict) or len(where) != 1:
        raise invalid()
    ((key, value),) = where.items()
    if key not in ("$and", "$or"):
        return leaf(key, value)
    if not isinstance(value, list):
        raise invalid()
    parts = [_joined(part, leaf, invalid, deeper - 1) for part in value]
    if not parts:
        return EVERY if key == "$and" else NONE
    return {key: parts}


def _text(operator: str, pattern: Any) -> Filter:
    if operator not in TEXT or not isinstance(pattern, str):
        raise _invalid_document()
    name, negated = TEXT[operator]
    found: Filter = {name: pattern}
    if name == "$regex" or not pattern:  # may hold for the empty text, which stands for none in the index
        found = {"$and": [found, HAS_TEXT]}
    return {"$not": found} if negated else found


def _condition(key: str, value: Any) -> Filter:
    if key.startswith("$"):
        raise _invalid()
    if not isinstance(value, dict):
        return {key: {"$eq": _scalar(value)}}
    if len(value) != 1:
        raise _invalid()
    ((operator, operand),) = value.items()
    if key == DOCUMENT:
        return _joined(value, _text, _invalid, DEEPEST)
    if operator in ("$contains", "$not_contains"):
        # About an element of a list. No row has a list: metadata is flat.
        _scalar(operand)
        return NONE if operator == "$contains" else EVERY
    return {key: {operator: _operand(operator, operand)}}


def _operand(operator: str, operand: Any) -> Any:
    match operator:
        case "$eq" | "$ne":
            return _scalar(operand)
        case "$in" | "$nin":
            return _list(operand)
        case _ if operator in ORDER and not isinstance(_scalar(operand), str | bool):
            return operand
    raise _invalid()


def _scalar(value: Any) -> Any:
    if not isinstance(value, SCALARS):
        raise _invalid()
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        raise _invalid()
    return value


def _list(values: Any) -> list[Any]:
    if not isinstance(values, list) or len({type(each) for each in values}) != 1:
        raise _invalid()
    return [_scalar(each) for each in values]


def _invalid() -> Rejected:
    return Rejected("Invalid where clause")


def _invalid_document() -> Rejected:
    return Rejected("Invalid where document clause")
