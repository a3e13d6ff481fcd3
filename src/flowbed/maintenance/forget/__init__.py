"""Forgetting: erases rows everywhere, keeps them from returning, and says what could not be reached."""

from __future__ import annotations

from dataclasses import dataclass, field

# More rows than this are more often a filter that matches too much than intended.
MOST = 100


@dataclass(frozen=True, kw_only=True)
class Forgettable:
    """What a request would forget: chunks by (collection, id), whole documents by (source, id).

    `shared` are the ids of other rows with the same texts, which stay.
    """

    chunks: tuple[tuple[str, str], ...] = ()
    documents: tuple[tuple[str, str], ...] = ()
    shared: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Erased:
    """A place that was purged: how many things of a kind."""

    place: str
    what: str
    count: int


@dataclass(frozen=True, kw_only=True)
class NotReached:
    """A place that may still hold the rows, and what to do about it."""

    place: str
    why: str


@dataclass(kw_only=True)
class Receipt:
    """What a request erased, and where it could not; `complete` if nothing in the project is left to do.

    It names no row. `at` is when it ended (µs since 1970), `kept` counts other rows with the same texts, which stay.
    """

    id: str
    at: int = 0
    chunks: int = 0
    documents: int = 0
    kept: int = 0
    complete: bool = True
    erased: list[Erased] = field(default_factory=list)
    not_reached: list[NotReached] = field(default_factory=list)

    def add(self, place: str, what: str, count: int) -> None:
        """Add a place that was purged, if anything was there."""
        if count:
            self.erased.append(Erased(place=place, what=what, count=count))

    def miss(self, place: str, why: str, *, left: bool = False) -> None:
        """Add a place that may still hold the rows; `left` says that the request has to be resumed for it."""
        self.not_reached.append(NotReached(place=place, why=why))
        self.complete = self.complete and not left
