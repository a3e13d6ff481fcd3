"""How far a project was read: the cursor."""

from __future__ import annotations

from dataclasses import dataclass, field

from flowbed.sources.apis import cursors

# The number of notes of an issue that was not read yet.
UNREAD = -1


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

    def __bool__(self) -> bool:
        """Tell whether any of the project was read."""
        return bool(self.number)


def announced(before: Position, after: Position) -> Position:
    """Return a copy of the position `before`, with the documents of that `after` as if they had changed since.

    Where `before` lacks some, everything is listed by the next fetch: they may be gone.
    """
    listings = {
        name: Listing(high=own.high, known={**dict.fromkeys(other.known, UNREAD), **own.known})
        for name in ("issues", "merge_requests")
        for own, other in [(getattr(before, name), getattr(after, name))]
    }
    known = after.wikis.keys() <= before.wikis.keys() and all(
        getattr(after, name).known.keys() <= getattr(before, name).known.keys() for name in listings
    )
    return Position(
        number=before.number or after.number,
        options=before.options or after.options,
        swept=before.swept if known else 0,
        wikis={**dict.fromkeys(after.wikis, ""), **before.wikis},
        **listings,
    )


def written(positions: Position) -> str:
    """Return a position as a cursor."""
    if not positions:
        return ""
    # Not `asdict`, which copies every entry: a cursor is written three times for each page.
    listings = {name: vars(getattr(positions, name)) for name in ("issues", "merge_requests")}
    return cursors.written({str(positions.number): {**vars(positions), **listings}})


def read(cursor: str) -> Position:
    """Parse a cursor of any options; one that is empty or no cursor of a project is the start."""
    try:
        ((_, fields),) = cursors.read(cursor).items()
        listings = {name: Listing(**fields[name]) for name in ("issues", "merge_requests")}
        return Position(**{**fields, **listings})
    except (ValueError, TypeError, AttributeError, KeyError):
        return Position()


def documents(positions: Position) -> set[str]:
    """Return the ids of all documents that were found so far."""
    number = positions.number
    return {
        *(f"{number}#{iid}" for iid in positions.issues.known),
        *(f"{number}!{iid}" for iid in positions.merge_requests.known),
        *(f"{number}/wikis/{slug}" for slug in positions.wikis),
    }


def places(positions: Position) -> set[str]:
    """Return the kinds of documents, each of which may be lost alone."""
    return {"issues", "merge_requests", "wiki"} if positions else set()
