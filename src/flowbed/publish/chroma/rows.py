"""Rows of the index as Chroma stores them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbed.records import Scalar

# Chroma's integers have 64 bits; this key is its own.
LARGEST = 2**63
RESERVED = "chroma:document"


def chroma_metadata(text: str | None) -> dict[str, Scalar] | None:
    """Turn a row's metadata (JSON) into Chroma's: None if it is empty, which Chroma refuses.

    Integers of more than 64 bits become text. The one key that Chroma reserves gets an underscore before it.
    """
    found = json.loads(text) if text else {}
    return {
        f"_{name}" if name == RESERVED else name: _fitting(value)
        for name, value in found.items()
        if value is not None
    } or None


def _fitting(value: Scalar) -> Scalar:
    if isinstance(value, int) and not -LARGEST <= value < LARGEST:
        return str(value)
    return value
