"""Read a space of Backlog over its API, project by project."""

from __future__ import annotations

import sqlite3
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Entry, Page, Problem
from flowbed.records.values import listing, suggestion
from flowbed.sources.backlog import position as stored
from flowbed.sources.backlog.api import BacklogApi, NoAnswer, Withheld, open_http
from flowbed.sources.backlog.links import linked_in_space
from flowbed.sources.backlog.position import Position
from flowbed.sources.backlog.project import ProjectReading
from flowbed.sources.backlog.rendering import REVISION, Rendering, document
from flowbed.sources.paging import PAGE_ENTRIES
from flowbed.sources.raw_answers import RawAnswers, opened, unkept

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Iterator,
        Mapping,
        Sequence,
    )
    from pathlib import Path

    from flowbed.records import Document, Linked
    from flowbed.sources.backlog.project import Found

# Pages are yielded when they hold this many characters of documents.
PAGE_CHARACTERS = 4 * 2**20
# What was kept is used as long as this is the same: increase it whenever something else is kept.
KEPT = "1"
# Projects that are named in a message; the others are counted.
SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Space:
    """A source of the issues, wiki pages and documents of projects; `clock` returns microseconds since 1970.

    `projects` are the keys of those to read (all that are not archived, if empty). `sweep` is after how many seconds
    all issues are listed again, to notice what was deleted. `raw` is the file that keeps what Backlog answered.
    """

    location: str
    base_url: str
    token: str = field(repr=False)
    projects: tuple[str, ...]
    sweep: int
    raw: Path | None
    clock: Callable[[], int]
    sleep: Callable[[float], Awaitable[None]]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List what changed since `cursor` and what is gone; each page has its cursor.

        From the beginning, everything is listed again of what Backlog answered before, if that was kept.
        """
        http = open_http(self.base_url, self.token)
        raw, failure = opened(self.raw, "Backlog")
        try:
            api = BacklogApi(http=http, sleep=self.sleep)
            projects = await open_projects(api, self.base_url, self.projects)
            positions = stored.read(cursor)
            if any(each.options != str(REVISION) for each in positions.values()):
                positions = {}
            kept = _kept(raw) if raw and not positions else {}
            fetch = _Fetch(
                source=self,
                api=api,
                projects=projects,
                positions=kept or positions,
                first=not positions and not kept,
                again=bool(kept),
                raw=raw,
                problems=[failure] if failure else [],
            )
            async with aclosing(fetch.pages()) as pages:
                async for page in pages:
                    yield page
        finally:
            if raw is not None:
                raw.close()
            await http.aclose()

    async def look(self) -> tuple[str, ...]:
        """Ask which projects the key can read."""
        http = open_http(self.base_url, self.token)
        try:
            api = BacklogApi(http=http, sleep=self.sleep, waits=())
            projects = await open_projects(api, self.base_url, self.projects)
            lines = [
                f"{self.base_url}: reads {listing([_label(each) for each in projects], none='no project')}"
            ]
            for each in projects[:SHOWN]:
                try:
                    await api.get("/issues/count", projectId=[each["id"]])
                except Withheld as error:
                    lines.append(f"does not read issues of {_label(each)}: {error}")
        finally:
            await http.aclose()
        return tuple(lines)

    def linked(self, link: str, cursor: str) -> Linked | None:
        """Return what the address of an issue, a comment, a wiki page or a document points to."""
        return linked_in_space(link, self.base_url, stored.read(cursor))


async def open_projects(api: BacklogApi, space: str, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """Return the projects to read; `wanted` are their keys, empty: all that are not archived.

    Raises:
        Misconfigured: the key is refused, or a project that is wanted does not exist.
        NoAnswer: Backlog does not answer.
    """
    try:
        listed = await api.rows("/projects")
    except Withheld as error:
        raise Misconfigured(f"{space} does not exist, or is no space of Backlog: {error}") from error
    found = [each for each in listed if isinstance(each.get("id"), int)]
    if not wanted:
        return [each for each in found if each.get("archived") is not True]
    known = {str(each.get("projectKey")).casefold(): each for each in found}
    for key in wanted:
        if key.casefold() not in known:
            names = [str(each.get("projectKey")) for each in found]
            raise Misconfigured(
                f"project {key!r} does not exist in {space}, or the member whose key it is does not take part in it"
                f"{suggestion(key, names)}; the key sees: {', '.join(sorted(names)) or 'no project'}"
            )
    return [known[key.casefold()] for key in dict.fromkeys(wanted)]


def _kept(raw: RawAnswers) -> dict[int, Position]:
    """Return the positions of the raw answers, where they have all documents before them."""
    try:
        positions = stored.read(raw.position(KEPT))
        names = {name for each in positions.values() for name in each.names()}
        return positions if names <= raw.documents() else {}
    except sqlite3.Error:
        return {}  # what is damaged is replaced by what Backlog answers now


@dataclass(kw_only=True)
class _Fetch:
    """One fetch: the `first`, or one that lists everything `again` of raw answers, or one of changes.

    `trouble` says that something could not be read.
    """

    source: Space
    api: BacklogApi
    projects: list[dict[str, Any]]
    positions: dict[int, Position]
    first: bool
    again: bool
    raw: RawAnswers | None
    problems: list[Problem]
    entries: list[Entry] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    held: int = 0
    trouble: bool = False
    saved: dict[int, Position] = field(default_factory=dict)
    ever: dict[int, Position] = field(default_factory=dict)

    async def pages(self) -> AsyncGenerator[Page]:
        self.saved = {number: each.copy() for number, each in self.positions.items()}
        self.ever = stored.announced(self.saved, {})
        self._report_unseen()
        for project in self.projects:
            async for page in self._project(project):
                yield page
        for page in self._repeated() if self.again else ():
            yield page
        # Between its pages, a fetch that lists everything again has no position: it must not go on in the middle.
        again, self.again = self.again, False
        labels = listing([_label(each) for each in self.projects], none="no project")
        yield self._page(
            complete=(self.first or again) and not self.trouble,
            last=True,
            empty=f"there are no issues, wiki pages or documents in {labels}",
        )

    def _report_unseen(self) -> None:
        """Name the projects that were read before, and are not shown any more; and say why there is none."""
        if not self.projects:
            self._trouble(
                "projects", "the key sees no project that is not archived: its member has to take part in one"
            )
        shown = {each["id"] for each in self.projects}
        for number, position in self.positions.items():
            if number not in shown and position.names() and not self.source.projects:
                self._trouble(
                    f"project {position.key or number}",
                    "is not shown any more: it was archived or deleted, or the key may not see it; what is indexed"
                    " of it is kept",
                )

    def _trouble(self, subject: str, reason: str) -> None:
        self.trouble = True
        self.problems.append(Problem(subject=subject, reason=reason, skipped=True))

    async def _project(self, project: dict[str, Any]) -> AsyncIterator[Page]:
        """Read a project. One that fails keeps what was read of it, and the others go on."""
        number = project["id"]
        position = self.positions.get(number, Position(id=number)).copy()
        position.options = str(REVISION)
        reading = ProjectReading(
            api=self.api,
            project=project,
            position=position,
            # By Backlog's clock, since it is compared with the times of changes.
            now=self.api.date or self.source.clock() // 1_000_000,
            sweep=self.source.sweep,
            label=_label(project),
        )
        try:
            async for found in reading.pages():
                self._take(project, found)
                self.positions[number] = position.copy()
                if self.held >= PAGE_CHARACTERS or len(self.entries) >= PAGE_ENTRIES:
                    for page in self._pages():
                        yield page
        except (NoAnswer, Withheld) as error:
            if isinstance(error, NoAnswer) and not await self._answers():
                raise
            said = str(error).partition(";")[0]
            self._trouble(
                _label(project), f"{said}; what is indexed of it is kept, and the next run tries again"
            )
        self.trouble |= reading.trouble
        if self.entries or self.problems:
            for page in self._pages():
                yield page

    async def _answers(self) -> bool:
        """Return whether Backlog answers at all: then only the project fails."""
        try:
            await BacklogApi(http=self.api.http, sleep=self.source.sleep, waits=()).get("/projects")
        except NoAnswer:
            return False
        return True

    def _take(self, project: dict[str, Any], found: Found) -> None:
        self.problems += found.problems
        for each in found.answers:
            body = {"record": each.record, "comments": each.comments, "notation": each.notation}
            whole = {**body, "project": project.get("projectKey", "")}
            self._keep(partial(_put, name=each.name, body=whole))
            self._entry(each.name, whole)
        for name in found.gone:
            self._keep(partial(_remove, name=name))
            self.gone.append(name)

    def _entry(self, name: str, body: Mapping[str, Any]) -> None:
        """Add a document, or the problem that it is none."""
        self.seen.add(name)
        rendering = Rendering(url=self.source.base_url, notation=body["notation"], project=body["project"])
        try:
            made = document(name, body["record"], rendering, body["comments"])
        except Rejected as error:
            self.problems.append(Problem(subject=name, reason=str(error), skipped=True, document=name))
            return
        self.held += len(made.text)
        self.entries.append(Entry(document=name, etag=made.hash[:32], read=partial(_held, made)))

    def _repeated(self) -> Iterator[Page]:
        """List everything that this fetch has not listed, as Backlog answered it before."""
        wanted = {each["id"] for each in self.projects}
        known = {
            name
            for number, each in self.positions.items()
            if number in wanted or not self.source.projects
            for name in each.names()
        }
        for name, body in self.raw.answers() if self.raw else ():
            if name in known and name not in self.seen:
                self._entry(name, body)
            if self.held >= PAGE_CHARACTERS or len(self.entries) >= PAGE_ENTRIES:
                yield self._page()

    def _pages(self) -> Iterator[Page]:
        """Yield what was found, and before it a page whose cursor knows the new documents."""
        self.ever = stored.announced(self.ever, self.positions)
        if self.entries and not self.again:
            yield Page(cursor=stored.written(stored.announced(self.saved, self.ever)))
        yield self._page()
        self.saved = {number: each.copy() for number, each in self.positions.items()}

    def _page(self, *, complete: bool = False, last: bool = False, empty: str = "") -> Page:
        """Return what was found. What is gone comes last: until then it is known, and would be found once more."""
        cursor = stored.written(self.positions)
        self._keep(lambda raw: raw.keep(KEPT, cursor))
        page = Page(
            entries=self.entries,
            gone=self.gone if last else (),
            problems=self.problems,
            cursor="" if self.again else cursor if last else self._unfinished(),
            complete=complete,
            empty=empty,
        )
        self.entries, self.problems, self.held = [], [], 0
        return page

    def _unfinished(self) -> str:
        """Return the cursor within a fetch: what is gone is still known, and is looked for by the next one."""
        positions = stored.announced(self.positions, self.ever)
        for number, position in self.positions.items():
            if position.names() < positions[number].names():
                positions[number].swept = 0
        return stored.written(positions)

    def _keep(self, write: Callable[[RawAnswers], None]) -> None:
        """Write to the file of raw answers, and go on without it where that fails."""
        if self.raw is None or self.source.raw is None:
            return
        try:
            write(self.raw)
        except sqlite3.Error as error:
            self.raw = None
            self.problems.append(unkept(self.source.raw, "Backlog", error))


def _put(raw: RawAnswers, *, name: str, body: Mapping[str, Any]) -> None:
    raw.put(name, body)


def _remove(raw: RawAnswers, *, name: str) -> None:
    raw.remove(name)


def _held(made: Document) -> Document:
    return made


def _label(project: Mapping[str, Any]) -> str:
    return str(project.get("projectKey") or project.get("id"))
