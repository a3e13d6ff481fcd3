"""How far a project was read: the cursor."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from flowbed.sources import cursors


@dataclass(kw_only=True)
class Listing:
    """The issues or merge requests of a project: `high` is the last change that was read, as GitLab writes times.

    `known` has the number of notes of each by its iid.
    """

    high: str = ""
    known: dict[str, int] = field(default_factory=dict)


@dataclass(kw_only=True)
class Position:
    """The position in one project, by its number; `swept` is when it was last listed as a whole, 0 for never.

    `wikis` has a digest of each page by its slug. `options` names what was rendered: with others all is read again.
    """

    number: int = 0
    options: str = ""
    swept: int = 0
    issues: Listing = field(default_factory=Listing)
    merge_requests: Listing = field(default_factory=Listing)
    wikis: dict[str, str] = field(default_factory=dict)

    def documents(self) -> set[str]:
        """Return the ids of all documents that were found so far."""
        return {
            *(f"{self.number}#{iid}" for iid in self.issues.known),
            *(f"{self.number}!{iid}" for iid in self.merge_requests.known),
            *(f"{self.number}/wikis/{slug}" for slug in self.wikis),
        }

    def written(self) -> str:
        """Return this position as a cursor."""
        return cursors.written({str(self.number): asdict(self)})


def read(cursor: str, options: str) -> Position:
    """Parse a cursor; one that is empty, of other options, or no cursor of a project begins from the start."""
    position = parsed(cursor)
    return position if position.options == options else Position(options=options)


def parsed(cursor: str) -> Position:
    """Parse a cursor of any options; what is no cursor of a project is the start."""
    try:
        ((_, fields),) = cursors.read(cursor).items()
        listings = {name: Listing(**fields[name]) for name in ("issues", "merge_requests")}
        return Position(**{**fields, **listings})
    except (ValueError, TypeError, AttributeError, KeyError):
        return Position()
