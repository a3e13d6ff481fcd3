"""Ids of vector stores, which are the names of their collections too."""

from __future__ import annotations

import hashlib
import re

_STORES = re.compile(r"vs_[0-9a-f]{32}")


def new_store_id(seed: str) -> str:
    """Make the id of a store from a secret, or from what makes a request unique."""
    return f"vs_{hashlib.sha256(seed.encode()).hexdigest()[:32]}"


def is_store(collection: str) -> bool:
    """Return whether a collection is that of a vector store, which only its owner may read."""
    return _STORES.fullmatch(collection) is not None
