"""What a write of a Chroma client makes of the rows that are there: Chroma's rules for merging, without I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    Rows = Mapping[str, "Row"]
    Rule = Callable[["Row | None", "Change"], "Row | None"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """A row: `vector` is float32; a row without text has None."""

    vector: NDArray[np.float32]
    text: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """What a client sent for one row; what is None was not sent, and a metadata key that is None is to be removed."""

    id: str
    vector: NDArray[np.float32] | None = None
    text: str | None = None
    metadata: Mapping[str, Any] | None = None


def changed(rows: Rows, changes: Iterable[Change], rule: Rule) -> dict[str, Row]:
    """Apply changes in order to the rows that are there, and return those that differ by what was sent."""
    found: dict[str, Row] = {}
    for change in changes:
        row = rule(found.get(change.id, rows.get(change.id)), change)
        if row is not None:
            found[change.id] = row
    return found


def added(row: Row | None, change: Change) -> Row | None:
    """Add a row; one that is there stays as it is, silently."""
    if row is not None or change.vector is None:
        return None
    return Row(vector=change.vector, text=change.text, metadata=_merged({}, change.metadata))


def updated(row: Row | None, change: Change) -> Row | None:
    """Change what was sent of a row; one that is not there is left out, silently."""
    if row is None:
        return None
    return replace(
        row,
        vector=row.vector if change.vector is None else change.vector,
        text=row.text if change.text is None else change.text,
        metadata=_merged(row.metadata, change.metadata),
    )


def upserted(row: Row | None, change: Change) -> Row | None:
    """Add a row, or change what was sent of it."""
    return added(row, change) if row is None else updated(row, change)


def _merged(before: Mapping[str, Any], sent: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge metadata key by key."""
    merged = {**before, **(sent or {})}
    return {key: value for key, value in merged.items() if value is not None}
