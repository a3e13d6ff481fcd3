"""Conditions on metadata that frameworks know and filters have no operator for."""

from __future__ import annotations

from typing import Any

Where = dict[str, Any]


def present(key: str) -> Where:
    """Return the filter of rows that have the key: with a text, a number or a boolean."""
    kinds = [{"$gte": ""}, {"$lt": 0}, {"$gte": 0}, {"$in": [True, False]}]
    return {"$or": [{key: kind} for kind in kinds]}


def absent(key: str) -> Where:
    """Return the filter of rows without the key."""
    return {"$not": present(key)}


def nothing() -> Where:
    """Return a filter that no row matches."""
    return {"$not": {}}
