"""Names of sources and collections, which are parts of keys in the store; ids of vector stores are such names too."""

from __future__ import annotations

import hashlib
import re

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
# Folders of the store that belong to no source and no collection.
RESERVED = frozenset({"files", "forgotten", "index-jobs", "jobs", "plans", "submissions"})
_STORES = re.compile(r"vs_[0-9a-f]{32}")


def is_name(name: str) -> bool:
    """Return whether a source or a collection may have a name."""
    return NAME.fullmatch(name) is not None and name not in RESERVED


def rule() -> str:
    """Say in words what names are allowed."""
    reserved = ", ".join(sorted(RESERVED))
    return (
        f"use lower-case letters, digits, - and _, starting with a letter or digit; {reserved} are reserved"
    )


def new_store_id(seed: str) -> str:
    """Make the id of a store from a secret, or from what makes a request unique."""
    return f"vs_{hashlib.sha256(seed.encode()).hexdigest()[:32]}"


def is_store(collection: str) -> bool:
    """Return whether a collection is that of a vector store, which only its owner may read."""
    return _STORES.fullmatch(collection) is not None
