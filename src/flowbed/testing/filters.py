"""The filter grammar in plain Python: which rows a `where` matches, to compare an index's answers with."""

from __future__ import annotations

import math
import operator
import re
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.index.search.filter_tree import ID
from flowbed.index.search.filters import DEEPEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Fits = Callable[[Mapping[str, Any], str], bool]
    Fitting = Callable[..., bool]

ORDER = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}

LISTS = ("$in", "$nin")


def fits(where: Mapping[str, Any] | None) -> Fitting:
    """Return the predicate on a row's metadata and document, and its id if the filter has `$id`.

    Raises:
        Rejected: the filter is not valid.
    """
    whole = _all(where if where is not None else {}, DEEPEST)
    return lambda metadata, document, id="": whole({**metadata, ID: id}, document)  # noqa: A006 - as in a row


def _all(where: Any, deeper: int) -> Fits:  # user input
    if not isinstance(where, dict) or deeper < 0:
        raise Rejected(f"no filter, or one nested too deep: {where!r}")
    terms = [_term(key, value, deeper) for key, value in where.items()]
    return lambda metadata, document: all(term(metadata, document) for term in terms)


def _term(key: Any, value: Any, deeper: int) -> Fits:
    match key, value:
        case "$and" | "$or", [_, *_]:
            parts = [_all(part, deeper - 1) for part in value]
            join = all if key == "$and" else any
            return lambda metadata, document: join(part(metadata, document) for part in parts)
        case "$not", _:
            inner = _all(value, deeper - 1)
            return lambda metadata, document: not inner(metadata, document)
        case "$contains", str() if _is_unicode(value):
            return lambda _, document: value in document
        case "$regex", str() if _is_unicode(value):
            pattern = re.compile(value)  # for patterns that mean the same in Python and in Rust
            return lambda _, document: pattern.search(document) is not None
        case str(), _ if (key == ID or not key.startswith("$")) and _is_unicode(key):
            said = value if isinstance(value, dict) else {"$eq": value}
            conditions = [_condition(name, operand) for name, operand in said.items()]
            if conditions and (key != ID or _are_ids(said)):
                return lambda metadata, _: all(holds(metadata.get(key)) for holds in conditions)
    raise Rejected(f"not of the grammar: {key!r}: {value!r}")


def _are_ids(said: Mapping[str, Any]) -> bool:
    """Tell whether conditions compare with texts alone, and by no order."""
    listed = [each for name, operand in said.items() for each in (operand if name in LISTS else [operand])]
    return not said.keys() & ORDER.keys() and all(isinstance(each, str) for each in listed)


def _condition(name: Any, operand: Any) -> Callable[[Any], bool]:
    match name, operand:
        case "$eq" | "$ne", _:
            same = _kind(operand)
            return lambda value: (_of(value) == same and value == operand) == (name == "$eq")
        case "$in" | "$nin", [*_]:
            kinds = [_kind(each) for each in operand]
            return lambda value: (
                any(_of(value) == kind and value == each for kind, each in zip(kinds, operand, strict=True))
                == (name == "$in")
            )
        case str(), _ if name in ORDER and _kind(operand) is not bool:
            same, compare = _kind(operand), ORDER[name]
            return lambda value: _of(value) == same and compare(value, operand)
    raise Rejected(f"not of the grammar: {name!r}: {operand!r}")


def _of(value: object) -> type | None:
    """Return the type of a stored value, with all numbers as one type; None if it cannot be compared or is missing."""
    match value:
        case bool():
            return bool
        case int() | float():
            return float
        case str():
            return str
    return None


def _kind(operand: object) -> type:
    kind = _of(operand)
    number = isinstance(operand, int | float) and kind is float
    exact = not number or (abs(operand) < 2**63 and not math.isnan(operand))  # type: ignore[arg-type]
    if kind is None or not exact or (isinstance(operand, str) and not _is_unicode(operand)):
        raise Rejected(f"nothing to compare with: {operand!r}")
    return kind


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in text)
