"""Follow an API from fetch to fetch, with cursors that survive a crash anywhere, and answers kept for a reset."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from flowbed.records import Entry, Page, Problem
from flowbed.sources.apis.raw_answers import RawAnswers, opened, unkept
from flowbed.sources.paging import PAGE_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flowbed.http.client import HttpClient

P = TypeVar("P")

# Pages are yielded when they hold this many characters of documents.
PAGE_CHARACTERS = 4 * 2**20


class Cursors(Protocol[P]):
    """How a source writes how far it was read: the functions of the module of its positions."""

    def read(self, cursor: str) -> P:
        """Parse a cursor; one that is empty or damaged gives positions that are false."""

    def written(self, positions: P) -> str:
        """Return positions as a cursor."""

    def documents(self, positions: P) -> set[str]:
        """Return the ids of all documents that were found so far."""

    def announced(self, before: P, after: P) -> P:
        """Return a copy of the positions `before`, with the documents of those `after` as if they had changed since."""


@dataclass(kw_only=True)
class Following(Generic[P]):
    """What one fetch finds, as pages; it moves `positions`, in place or by others.

    It is the `first` fetch, or lists everything `again` of `raw` answers, or what changed. `held` are the characters of
    `entries`; `trouble` says that something could not be read, so that what was not listed may still be there.

    A run stores the documents of a page with the cursor before it, and may be killed then. Each cursor therefore knows
    the documents of the next page: otherwise nobody would notice that one of them is deleted meanwhile. What is gone
    comes on the last page, and the cursors before it know that too.
    """

    cursors: Cursors[P]
    positions: P
    first: bool
    again: bool
    http: HttpClient
    vendor: str
    options: str
    file: Path | None
    raw: RawAnswers | None
    entries: list[Entry] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    held: int = 0
    trouble: bool = False
    _writable: bool = field(default=True, init=False)
    _saved: P = field(init=False)
    _known: P = field(init=False)

    def __post_init__(self) -> None:
        """Remember where the fetch begins."""
        self._saved = self._known = self.cursors.announced(self.positions, self.positions)

    async def __aenter__(self) -> Self:
        """Return this fetch."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the client and the file of raw answers."""
        if self.raw is not None:
            self.raw.close()
        await self.http.aclose()

    @property
    def full(self) -> bool:
        """Whether what was found is enough for a page."""
        return self.held >= PAGE_CHARACTERS or len(self.entries) >= PAGE_ENTRIES

    def add(self, entry: Entry, size: int) -> None:
        """Add a document of so many characters."""
        self.entries.append(entry)
        self.held += size

    def keep(self, write: Callable[[RawAnswers], None]) -> None:
        """Write to the file of raw answers, and go on without it where that fails."""
        if self.raw is None or self.file is None or not self._writable:
            return
        try:
            write(self.raw)
        except sqlite3.Error as error:
            self._writable = False
            self.problems.append(unkept(self.file, self.vendor, error))

    def pages(self) -> Iterator[Page]:
        """Yield what was found, if that is anything, and before it a page whose cursor knows the documents."""
        if not (self.entries or self.problems):
            return
        announced = self.cursors.announced
        self._known = announced(self._known, self.positions)
        # Between its pages, a fetch that lists everything again has no position: it must not go on in the middle.
        if self.entries and not self.again:
            yield Page(cursor=self.cursors.written(announced(self._saved, self._known)))
        unfinished = "" if self.again else self.cursors.written(announced(self.positions, self._known))
        yield self._page(unfinished)
        self._saved = announced(self.positions, self.positions)

    def last_pages(self, *, complete: bool, empty: str = "") -> Iterator[Page]:
        """Yield what is left, and at last what is gone; `complete` and `empty` are those of the last page."""
        if self.entries:
            yield from self.pages()
        gone, self.gone = self.gone, []
        yield self._page(self.cursors.written(self.positions), gone=gone, complete=complete, empty=empty)

    def _page(
        self, cursor: str, *, gone: list[str] | None = None, complete: bool = False, empty: str = ""
    ) -> Page:
        reached = self.cursors.written(self.positions)
        self.keep(lambda raw: raw.keep(self.options, reached))
        page = Page(
            entries=self.entries,
            gone=gone or (),
            problems=self.problems,
            cursor=cursor,
            complete=complete,
            empty=empty,
        )
        self.entries, self.problems, self.held = [], [], 0
        return page


def following(
    cursors: Cursors[P], positions: P, *, http: HttpClient, raw: Path | None, vendor: str, options: str
) -> Following[P]:
    """Begin a fetch at `positions`, or without them at those of the answers that were kept under the same `options`."""
    answers, failure = opened(raw, vendor)
    kept = _kept(cursors, answers, options) if answers is not None and not positions else None
    return Following(
        cursors=cursors,
        positions=positions if kept is None else kept,
        first=not positions and kept is None,
        again=kept is not None,
        http=http,
        vendor=vendor,
        options=options,
        file=raw,
        raw=answers,
        problems=[] if failure is None else [failure],
    )


def _kept(cursors: Cursors[P], raw: RawAnswers, options: str) -> P | None:
    """Return the positions of the raw answers, where they have all documents before them."""
    try:
        positions = cursors.read(raw.position(options))
        return positions if positions and cursors.documents(positions) <= raw.documents() else None
    except sqlite3.Error:
        return None  # what is damaged is replaced by what the API answers now
