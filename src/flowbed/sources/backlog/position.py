"""How far each project was read: the cursor of a space."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from flowbed.sources.apis import cursors


@dataclass(kw_only=True)
class Position:
    """The position in one project, by its number, in seconds since 1970.

    `high` is the last change of an issue that was read, 0 before all were listed; `swept` is when all were listed last.
    `activity` is the last entry read of what happened. `issues` has by their number in the project the id, the last
    change, and when the comments were read; `wikis` and `documents` have by their ids the last change, and when they
    were read. `notation` is that of the project, `options` names what was rendered: with others all is read again.
    """

    id: int = 0
    key: str = ""
    notation: str = ""
    options: str = ""
    high: int = 0
    swept: int = 0
    activity: int = 0
    issues: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    wikis: dict[str, tuple[int, int]] = field(default_factory=dict)
    documents: dict[str, tuple[int, int]] = field(default_factory=dict)

    def copy(self) -> Position:
        """Return a copy that further reading does not change."""
        return replace(self, issues=dict(self.issues), wikis=dict(self.wikis), documents=dict(self.documents))

    def names(self) -> set[str]:
        """Return the ids of all documents that were found so far."""
        return {
            *(f"{self.id}#{number}" for number in self.issues),
            *(f"{self.id}/wikis/{name}" for name in self.wikis),
            *(f"{self.id}/documents/{name}" for name in self.documents),
        }


def announced(before: dict[int, Position], after: dict[int, Position]) -> dict[int, Position]:
    """Return a copy of positions `before`, with the documents of those `after` as if they had changed since.

    Where `before` lacks some, its project is swept by the next fetch: they may be gone.
    """
    found = {number: each.copy() for number, each in before.items()}
    for number, each in after.items():
        own = found.setdefault(
            number, Position(id=number, key=each.key, notation=each.notation, options=each.options)
        )
        if not all(
            getattr(each, kind).keys() <= getattr(own, kind).keys()
            for kind in ("issues", "wikis", "documents")
        ):
            own.swept = 0
        own.issues = {**{name: (id_, 0, 0) for name, (id_, _, _) in each.issues.items()}, **own.issues}
        own.wikis = {**dict.fromkeys(each.wikis, (0, 0)), **own.wikis}
        own.documents = {**dict.fromkeys(each.documents, (0, 0)), **own.documents}
    return found


def written(positions: dict[int, Position]) -> str:
    """Return positions as a cursor."""
    # Not `asdict`, which copies every entry: a cursor is written three times for each page.
    return cursors.written({str(each.id): vars(each) for each in positions.values()})


def read(cursor: str) -> dict[int, Position]:
    """Parse a cursor; one that is empty or no cursor of a space begins from the start."""
    try:
        return {int(number): _position(fields) for number, fields in cursors.read(cursor).items()}
    except (ValueError, TypeError, AttributeError, KeyError):
        return {}


def _position(fields: dict[str, Any]) -> Position:
    known = {
        name: {key: tuple(each) for key, each in fields[name].items()}
        for name in ("issues", "wikis", "documents")
    }
    return Position(**{**fields, **known})


def documents(positions: dict[int, Position]) -> set[str]:
    """Return the ids of all documents that were found so far."""
    return {name for each in positions.values() for name in each.names()}


def places(positions: dict[int, Position]) -> set[str]:
    """Return the numbers of the projects."""
    return set(map(str, positions))
