"""Batch files that other programs write into the store: the names under which the ledger knows them."""

from __future__ import annotations

# No source of the settings can have such a name, since they have no dots: no fetch ever lists, or deletes, these rows.
_SUFFIX = ".external"


def external_source(source: str) -> str:
    """Return the source under which the ledger keeps what other programs wrote below the folder of a source."""
    return f"{source}{_SUFFIX}"


def external_owner(source: str) -> str:
    """Return the folder's source of an external source of the ledger."""
    return source.removesuffix(_SUFFIX)


def is_external(source: str) -> bool:
    """Return whether a source of the ledger holds what other programs wrote."""
    return source.endswith(_SUFFIX)
