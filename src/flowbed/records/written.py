"""Documents that are written one by one, through the server or Python: no fetch lists them."""

from __future__ import annotations

from dataclasses import dataclass

# No source of the settings can have such a name, since they have no dots: no fetch ever lists, or deletes, these rows.
_SUFFIX = ".documents"


def documents_source(collection: str) -> str:
    """Return the source under which the ledger keeps the documents that were written into a collection."""
    return f"{collection}{_SUFFIX}"


def documents_collection(source: str) -> str:
    """Return the collection of a source of documents."""
    return source.removesuffix(_SUFFIX)


def is_documents(source: str) -> bool:
    """Return whether a source of the ledger holds documents that were written one by one."""
    return source.endswith(_SUFFIX)


@dataclass(frozen=True, kw_only=True)
class WrittenDocument:
    """What the ledger says of a document: the ids of its chunks in order, and their tokens.

    `unsent` tokens are of the `unsent_chunks` that no worker has taken yet. `waiting` says that something is not
    committed yet. `reason` says why a chunk was refused, empty if none was.
    """

    chunks: tuple[str, ...] = ()
    tokens: int = 0
    unsent: int = 0
    unsent_chunks: int = 0
    waiting: bool = False
    reason: str = ""
