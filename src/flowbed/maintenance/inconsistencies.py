"""The kinds of faults between index, ledger and store, their descriptions, and the faults found in a collection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.index import audit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Faults of a whole collection, of a delta, or of waiting chunks; `index.audit` has those of rows.
SPACE = "space"
UNFIT = "unfit"
UNREADABLE = "unreadable"
VECTOR_INDEX = "vector-index"
FULL_TEXT_INDEX = "full-text-index"
DELTA_MISSING = "delta-missing"
DELTA_DAMAGED = "delta-damaged"
DELTA_SPACE = "delta-space"
TEXT_LOST = "text-lost"

MEANINGS = {
    **audit.MEANINGS,
    SPACE: "whose live space is unknown",
    UNFIT: "that cannot be committed to",
    UNREADABLE: "that cannot be read",
    VECTOR_INDEX: "that cannot be read",
    FULL_TEXT_INDEX: "that cannot be read",
    DELTA_MISSING: "needed by a run, but not in the store",
    DELTA_DAMAGED: "with other bytes than the run recorded",
    DELTA_SPACE: "of another space than the collection",
    TEXT_LOST: "waiting to be embedded, but no longer in the batch file",
}
THINGS = {
    audit.MISSING: "chunk",
    SPACE: "collection",
    UNFIT: "index",
    UNREADABLE: "index",
    VECTOR_INDEX: "vector index",
    FULL_TEXT_INDEX: "full-text index",
    DELTA_MISSING: "delta",
    DELTA_DAMAGED: "delta",
    DELTA_SPACE: "delta",
    TEXT_LOST: "chunk",
}

EXAMPLES = 20  # subjects to name for each fault; the others are counted


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of fault: how many rows, chunks or deltas have it, and the names of some."""

    kind: str
    count: int
    what: str
    examples: tuple[str, ...]


@dataclass
class Inconsistencies:
    """All faults found in a collection, by kind. Its size depends on the faults, not on the collection."""

    rows: int = 0
    live: int = 0
    chunks: int = 0
    deltas: int = 0
    faults: dict[str, list[str]] = field(default_factory=dict)

    def add(self, faults: Mapping[str, Sequence[str]]) -> None:
        """Add faulty subjects, by kind of fault."""
        for kind, subjects in faults.items():
            if subjects:
                self.faults.setdefault(kind, []).extend(subjects)

    @property
    def summary(self) -> tuple[Fault, ...]:
        """The faults in words, with examples."""
        return tuple(
            Fault(kind=kind, count=len(each), what=describe(kind, len(each)), examples=tuple(each[:EXAMPLES]))
            for kind, each in sorted(self.faults.items())
        )

    def keep(self, other: Inconsistencies) -> None:
        """Keep only the faults that the other pass has found too."""
        for kind in list(self.faults):
            again = set(other.faults.get(kind, ()))
            self.faults[kind] = [each for each in self.faults[kind] if each in again]
            if not self.faults[kind]:
                del self.faults[kind]


def describe(kind: str, count: int) -> str:
    """Describe a number of faults of a kind."""
    thing = THINGS.get(kind, "row")
    plural = {"index": "indexes", "vector index": "vector indexes"}.get(thing, f"{thing}s")
    return f"{count:,} {thing if count == 1 else plural} {MEANINGS[kind]}"
