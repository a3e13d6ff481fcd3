"""Follow an API from fetch to fetch, with cursors that survive a crash anywhere, and answers kept for a reset."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from flowbed.records import Entry, Page, Problem
from flowbed.sources.apis.cursors import ALL, Heading, digest, heading
from flowbed.sources.apis.raw_answers import RawAnswers, opened, unkept
from flowbed.sources.paging import PAGE_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
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

    def places(self, positions: P) -> set[str]:
        """Return the ids of the channels or projects that may be lost alone, and come back."""

    def announced(self, before: P, after: P) -> P:
        """Return a copy of the positions `before`, with the documents of those `after` as if they had changed since."""


@dataclass(kw_only=True)
class Following(Generic[P]):
    """What one fetch finds, as pages; it moves `positions`, in place or by others.

    It is the `first` fetch, or lists everything `again` of `raw` answers, or what changed. `held` are the characters of
    `entries`; `trouble` says that something could not be read, so that what was not listed may still be there;
    `troubled` are the channels or projects where that was.

    `proving` says that no listing was complete since the beginning, in this fetch or in those before that ended early.
    Documents that were deleted before the beginning are then unknown to the positions, so the first fetch that gets to
    its end without trouble says which ones are there. `unproved` are places of which that is not known, though it is
    of others: they were lost then, or are new since. The first fetch that has read one of them says which documents
    are there.

    `origin` is the digest of the address that is read, and `choice` that of the places that the options chose. Where
    one of them has changed, the last page says that all other documents are gone.

    A run stores the documents of a page with the cursor before it, and may be killed then. Each cursor therefore knows
    the documents of the next page: otherwise nobody would notice that one of them is deleted meanwhile. What is gone
    comes on the last page, and the cursors before it know that too.
    """

    cursors: Cursors[P]
    positions: P
    first: bool
    again: bool
    proving: bool
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
    unproved: set[str] = field(default_factory=set)
    origin: str = ""
    choice: str = ALL
    troubled: set[str] = field(default_factory=set)
    _writable: bool = field(default=True, init=False)
    _saved: P = field(init=False)
    _known: P = field(init=False)
    _before: set[str] = field(init=False)

    def __post_init__(self) -> None:
        """Remember where the fetch begins."""
        self._saved = self._known = self.cursors.announced(self.positions, self.positions)
        self._before = self.cursors.places(self.positions)

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

    def forget(self, documents: Collection[str]) -> None:
        """Delete what was answered of documents that the options leave out."""
        for name in documents:
            self.keep(partial(RawAnswers.remove, document=name))

    def pages(self) -> Iterator[Page]:
        """Yield what was found, if that is anything, and before it a page whose cursor knows the documents."""
        if not (self.entries or self.problems):
            return
        announced = self.cursors.announced
        self._known = announced(self._known, self.positions)
        # Between its pages, a fetch that lists everything again has no position: it must not go on in the middle.
        if self.entries and not self.again:
            yield Page(cursor=self._written(announced(self._saved, self._known)))
        unfinished = "" if self.again else self._written(announced(self.positions, self._known))
        yield self._page(unfinished)
        self._saved = announced(self.positions, self.positions)

    def last_pages(
        self,
        *,
        whole: bool,
        wanted: Mapping[str, tuple[str, ...]],
        read: Collection[str],
        named: bool,
        empty: str,
    ) -> Iterator[Page]:
        """Yield what is left, and at last what is gone, or where this is `proving`, what is there.

        `whole` says that everything was read, now or before. `wanted` are the channels or projects to read, with how
        the ids of their documents begin, and `read` those of them that were read as a whole, now or before.
        Unless the options name the wanted ones (`named`), others may have been lost, which deletes nothing; where they
        name others than before, what they leave out is gone.
        Where some could not be read, and perhaps never can be, the listing is complete for those that were.
        `empty` is that of the last page.
        """
        if self.entries:
            yield from self.pages()
        choice = digest(wanted) if named else ALL
        within, kept = tuple[str, ...](), tuple[str, ...]()
        if self.proving and whole and not self.trouble:
            complete = True
            # What was read at another address is gone, even if only what can be seen here is wanted.
            within = () if named or not self.choice else _beginnings(wanted, read)
            self.unproved = self.cursors.places(self.positions) - set(read)
        else:
            proved = self._proved(read)
            # Where nothing is shown at all, something is wrong.
            if complete := bool(wanted) and choice != self.choice and (named or not self.choice):
                kept = _beginnings(wanted, wanted.keys() - proved)
            elif complete := bool(proved):
                within = _beginnings(wanted, proved)
        self.proving = self.proving and not complete
        self.choice = choice if wanted else self.choice
        self._before = self.cursors.places(self.positions)
        page = self._page(self._written(self.positions))
        gone, self.gone = self.gone, []
        known = self.cursors.documents(self.positions) - self.seen if complete else ()
        present = {name for name in known if name.startswith(within or "")}
        yield replace(
            page, gone=gone, complete=complete, empty=empty, present=present, within=within, kept=kept
        )

    def _proved(self, read: Collection[str]) -> set[str]:
        """Return the unproved places that were read as a whole without trouble, and note that they are proved."""
        unproved = {*read, *self.cursors.places(self.positions)} if self.proving else set[str]()
        self.unproved = unproved or self._unproved(self.positions)
        proved = self.unproved.intersection(read) - self.troubled
        self.unproved -= proved
        return proved

    def _unproved(self, positions: P) -> set[str]:
        """Return the places whose earlier deletions are not known, with those that are new since the last fetch."""
        return self.unproved | (self.cursors.places(positions) - self._before)

    def _written(self, positions: P) -> str:
        unproved = frozenset(self._unproved(positions))
        said = Heading(proving=self.proving, unproved=unproved, origin=self.origin, choice=self.choice)
        return said.before(self.cursors.written(positions))

    def _page(self, cursor: str) -> Page:
        reached = self.cursors.written(self.positions)
        self.keep(lambda raw: raw.keep(self.options, reached))
        page = Page(entries=self.entries, problems=self.problems, cursor=cursor)
        self.entries, self.problems, self.held = [], [], 0
        return page


def following(
    cursors: Cursors[P],
    cursor: str,
    positions: P,
    *,
    origin: str,
    http: HttpClient,
    raw: Path | None,
    vendor: str,
    options: str,
) -> Following[P]:
    """Begin a fetch at `positions`, or without them at those of the answers that were kept under the same `options`.

    `cursor` is that of the positions, which mean nothing where they are of another `origin`.
    """
    said = heading(cursor)
    moved = said.origin not in ("", digest([origin]))
    if moved:
        positions = cursors.read("")
    answers, failure = opened(raw, vendor)
    kept = _kept(cursors, answers, options) if answers is not None and not positions else None
    return Following(
        cursors=cursors,
        positions=positions if kept is None else kept,
        first=not positions and kept is None,
        again=kept is not None,
        proving=not positions or said.proving,
        unproved=set() if moved else set(said.unproved),
        origin=digest([origin]),
        choice="" if moved else said.choice,
        http=http,
        vendor=vendor,
        options=options,
        file=raw,
        raw=answers,
        problems=[] if failure is None else [failure],
    )


def _beginnings(wanted: Mapping[str, tuple[str, ...]], names: Collection[str]) -> tuple[str, ...]:
    return tuple(beginning for name, each in wanted.items() if name in names for beginning in each)


def _kept(cursors: Cursors[P], raw: RawAnswers, options: str) -> P | None:
    """Return the positions of the raw answers, where they have all documents before them."""
    try:
        positions = cursors.read(raw.position(options))
        return positions if positions and cursors.documents(positions) <= raw.documents() else None
    except sqlite3.Error:
        return None  # what is damaged is replaced by what the API answers now
