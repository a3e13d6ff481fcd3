"""Attributes of files as metadata of their chunks, and OpenAI's filters on them as Flowbed's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.records import Scalar

    Where = dict[str, Any]

# Chunks have metadata of their own, such as `title` and `page`: attributes must not meet them.
PREFIX = "attr."
COMPARISONS = {
    "eq": "$eq",
    "ne": "$ne",
    "gt": "$gt",
    "gte": "$gte",
    "lt": "$lt",
    "lte": "$lte",
    "in": "$in",
    "nin": "$nin",
}
JOINS = {"and": "$and", "or": "$or"}
# Levels of `and` and `or`: OpenAI names no limit; no client nests deeper, and each level costs a search time.
DEEPEST = 8
PARAM = "filters"


def metadata_of(attributes: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the metadata that chunks of a file with these attributes have."""
    return {f"{PREFIX}{key}": value for key, value in attributes.items()}


def to_where(filters: Any) -> Where:
    """Translate a filter on attributes. A missing one matches only `ne` and `nin`.

    Raises:
        Rejected: it is no filter, or nested too deep.
    """
    return _node(filters, depth=0)


def _node(node: Any, *, depth: int) -> Where:
    if depth > DEEPEST:
        raise Rejected(f"The filter is nested more than {DEEPEST} deep.", param=PARAM, code="invalid_value")
    if not isinstance(node, dict):
        raise Rejected(
            'A filter is an object such as {"type": "eq", "key": "author", "value": "Ada"}.', param=PARAM
        )
    kind = node.get("type")
    if isinstance(kind, str) and kind in JOINS:
        return _joined(kind, node, depth=depth)
    if isinstance(kind, str) and kind in COMPARISONS:
        return _comparison(kind, node)
    known = ", ".join((*COMPARISONS, *JOINS))
    raise Rejected(f"A filter has an unknown type; use one of {known}.", param=PARAM, code="invalid_value")


def _joined(kind: str, node: Mapping[str, Any], *, depth: int) -> Where:
    parts = node.get("filters")
    if not isinstance(parts, list) or not parts:
        raise Rejected(f"A filter of type {kind} needs a list of filters.", param=PARAM)
    return {JOINS[kind]: [_node(part, depth=depth + 1) for part in parts]}


def _comparison(kind: str, node: Mapping[str, Any]) -> Where:
    key, value = node.get("key"), node.get("value")
    if not isinstance(key, str) or not key:
        raise Rejected(f"A filter of type {kind} needs a key.", param=PARAM)
    several = kind in {"in", "nin"}
    if several != isinstance(value, list) or not _are_scalars(value if several else [value]):
        wanted = "a list of strings, numbers or booleans" if several else "a string, a number or a boolean"
        raise Rejected(f"A filter of type {kind} on {key!r} needs as value {wanted}.", param=PARAM)
    return {f"{PREFIX}{key}": {COMPARISONS[kind]: value}}


def _are_scalars(values: Any) -> bool:
    return all(isinstance(value, str | int | float) for value in values)
