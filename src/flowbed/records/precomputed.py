"""Rows that come with their vectors: nothing is fetched, chunked or embedded for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.records import Problem

# No source of the settings can have such a name, since they have no dots: no fetch ever lists, or deletes, these rows.
_SUFFIX = ".precomputed"


def precomputed_source(collection: str) -> str:
    """Return the source under which the ledger keeps the precomputed rows of a collection."""
    return f"{collection}{_SUFFIX}"


def precomputed_collection(source: str) -> str:
    """Return the collection of a source of precomputed rows."""
    return source.removesuffix(_SUFFIX)


def is_precomputed(source: str) -> bool:
    """Return whether a source of the ledger is that of precomputed rows."""
    return source.endswith(_SUFFIX)


@dataclass(frozen=True, kw_only=True, eq=False)
class PrecomputedRows:
    """Rows to insert or replace, column by column, and the ids of rows to delete.

    `vectors` are of shape (ids, dimensions), fastest as a float32 array. A text is None where a row has none; its
    metadata are scalars. Of
    an id that is there twice the last row counts; `deleted` ids are not among `ids`.
    """

    ids: Sequence[str] = ()
    vectors: NDArray[np.float32] | Sequence[Sequence[float]] = ()
    texts: Sequence[str | None] = ()
    metadata: Sequence[Mapping[str, object] | None] = ()
    deleted: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """The result of writing precomputed rows, in numbers of rows.

    `unknown` ids were to be deleted and are not there. `refused` names the rows that were not written, with reasons, or
    the delta that could not be committed. `run` is the id of the run that holds them, empty where nothing changed;
    `version` the version of the index that contains it, None until it is committed.
    """

    written: int = 0
    unchanged: int = 0
    deleted: int = 0
    unknown: int = 0
    refused: tuple[Problem, ...] = field(default=())
    run: str = ""
    version: int | None = None
