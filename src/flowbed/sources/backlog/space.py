"""Read a space of Backlog over its API, project by project."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Entry, Page, Problem
from flowbed.records.values import listing
from flowbed.sources.apis.choice import Choice, chosen
from flowbed.sources.apis.estimate import in_words
from flowbed.sources.apis.following import Following, following
from flowbed.sources.backlog import position as stored
from flowbed.sources.backlog.api import BacklogApi, NoAnswer, Withheld, open_http
from flowbed.sources.backlog.links import linked_in_space
from flowbed.sources.backlog.position import Position
from flowbed.sources.backlog.project import ProjectReading
from flowbed.sources.backlog.reading import Reading
from flowbed.sources.backlog.rendering import REVISION, Rendering, document

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
    from flowbed.sources.apis.raw_answers import RawAnswers
    from flowbed.sources.backlog.reading import Found

# What was kept is used as long as this is the same: increase it whenever something else is kept.
KEPT = "2"
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
        positions = stored.read(cursor)
        if any(each.options != str(REVISION) for each in positions.values()):
            positions = {}
        http = open_http(self.base_url, self.token)
        async with following(
            stored,
            cursor,
            positions,
            origin=self.base_url,
            http=http,
            raw=self.raw,
            vendor="Backlog",
            options=KEPT,
        ) as found:
            api = BacklogApi(http=http, sleep=self.sleep)
            before = {str(number): each.key for number, each in found.positions.items()}
            projects, choice = await open_projects(api, self.base_url, self.projects, before)
            fetch = _Fetch(
                source=self, api=api, projects=projects, choice=choice, found=found, began=api.date
            )
            async with aclosing(fetch.pages()) as pages:
                async for page in pages:
                    yield page

    async def look(self) -> tuple[str, ...]:
        """Ask which projects the key can read."""
        http = open_http(self.base_url, self.token)
        try:
            api = BacklogApi(http=http, sleep=self.sleep, waits=())
            projects, _ = await open_projects(api, self.base_url, self.projects, {})
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


async def open_projects(
    api: BacklogApi, space: str, wanted: Sequence[str], before: Mapping[str, str]
) -> tuple[list[dict[str, Any]], Choice]:
    """Return the projects to read, and what is known of all that are chosen.

    `wanted` are their keys, empty: all that are not archived. `before` has the keys of those that were read before, by
    their numbers.

    Raises:
        Misconfigured: the key is refused, or a project that is wanted does not exist.
        NoAnswer: Backlog does not answer.
    """
    try:
        listed = await api.rows("/projects")
    except Withheld as error:
        raise Misconfigured(f"{space} does not exist, or is no space of Backlog: {error}") from error
    found = [each for each in listed if isinstance(each.get("id"), int)]
    shown = [(str(each["id"]), _label(each)) for each in found]
    if not wanted:
        choice = Choice(shown=tuple(str(each["id"]) for each in found if each.get("archived") is not True))
    else:

        def unknown(key: str, suggestion: str) -> Misconfigured:
            sees = ", ".join(sorted(label for _, label in shown)) or "no project"
            return Misconfigured(
                f"project {key!r} does not exist in {space}, or the member whose key it is does not take part in it"
                f"{suggestion}; the key sees: {sees}"
            )

        choice = chosen(
            wanted, shown, before, option="the option projects", unknown=unknown, folded=str.casefold
        )
    projects = {str(each["id"]): each for each in found}
    return [projects[each] for each in choice.shown], choice


@dataclass(kw_only=True)
class _Fetch:
    """One fetch, which `began` then by Backlog's clock; `unread` counts the projects that it has not come to."""

    source: Space
    api: BacklogApi
    projects: list[dict[str, Any]]
    choice: Choice
    found: Following[dict[int, Position]]
    began: int
    unread: int = 0

    async def pages(self) -> AsyncGenerator[Page]:
        following = self.found
        self._leave_out()
        self._report_unseen()
        for number, project in enumerate(self.projects, start=1):
            self.unread = len(self.projects) - number
            async for page in self._project(project):
                yield page
        for page in self._repeated() if following.again else ():
            yield page
        labels = listing([_label(each) for each in self.projects], none="no project")
        for page in following.last_pages(
            whole=True,
            wanted={each: (f"{each}#", f"{each}/") for each in self.choice.all},
            read=self.choice.shown,
            named=bool(self.source.projects),
            empty=f"there are no issues, wiki pages or documents in {labels}",
        ):
            yield page

    def _leave_out(self) -> None:
        """Forget the projects that the options leave out."""
        positions = self.found.positions
        wanted = {int(each) for each in self.choice.all}
        for number in positions.keys() - wanted if self.source.projects else ():
            self.found.forget(positions.pop(number).names())

    def _report_unseen(self) -> None:
        """Name the projects that were read before, and are not shown any more; and say why there is none."""
        for problem in self.choice.problems:
            self.found.trouble = True
            self.found.problems.append(problem)
        if not self.projects and not self.source.projects:
            self._trouble(
                "projects", "the key sees no project that is not archived: its member has to take part in one"
            )
        shown = {each["id"] for each in self.projects}
        for number, position in self.found.positions.items():
            if number not in shown and position.names() and not self.source.projects:
                self._trouble(
                    f"project {position.key or number}",
                    "is not shown any more: it was archived or deleted, or the key may not see it; what is indexed"
                    " of it is kept: name the other projects in the option projects to delete it",
                )

    def _trouble(self, subject: str, reason: str) -> None:
        self.found.trouble = True
        self.found.problems.append(Problem(subject=subject, reason=reason, skipped=True))

    async def _project(self, project: dict[str, Any]) -> AsyncIterator[Page]:
        """Read a project. One that fails keeps what was read of it, and the others go on."""
        number = project["id"]
        position = self.found.positions.get(number, Position(id=number)).copy()
        position.options = str(REVISION)
        reading = Reading(
            api=self.api,
            position=position,
            # By Backlog's clock, since it is compared with the times of changes.
            now=self.api.date or self.source.clock() // 1_000_000,
            label=_label(project),
        )
        whole = ProjectReading(reading=reading, project=project, sweep=self.source.sweep)
        self.api.left = partial(self._left, reading)
        try:
            async for found in whole.read():
                self._take(project, found)
                self.found.positions[number] = position.copy()
                for page in self.found.pages() if self.found.full else ():
                    yield page
        except (NoAnswer, Withheld) as error:
            if isinstance(error, NoAnswer) and not await self._answers():
                raise
            said = str(error).partition(";")[0]
            self._trouble(
                _label(project), f"{said}; what is indexed of it is kept, and the next run tries again"
            )
            reading.trouble = True
        if reading.trouble:
            self.found.trouble = True
            self.found.troubled.add(str(number))
        for page in self.found.pages():
            yield page

    def _left(self, reading: Reading, rest: float) -> str:
        """Say how many calls are left at least, and how long they take at the pace so far."""
        # A project that was not begun is one call at least.
        calls = reading.left() + self.unread
        words = in_words(calls, calls * (self.api.date - self.began + rest) / max(1, self.api.answers))
        return f"; {words}" if words else ""

    async def _answers(self) -> bool:
        """Return whether Backlog answers at all: then only the project fails."""
        try:
            await BacklogApi(http=self.api.http, sleep=self.source.sleep, waits=()).get("/projects")
        except NoAnswer:
            return False
        return True

    def _take(self, project: dict[str, Any], found: Found) -> None:
        self.found.problems += found.problems
        for each in found.answers:
            body = {"record": each.record, "comments": each.comments, "notation": each.notation}
            whole = {**body, "project": project.get("projectKey", "")}
            self.found.keep(partial(_put, name=each.name, body=whole))
            self._entry(each.name, whole)
        for name in found.gone:
            self.found.keep(partial(_remove, name=name))
            self.found.gone.append(name)

    def _entry(self, name: str, body: Mapping[str, Any]) -> None:
        """Add a document, or the problem that it is none."""
        self.found.seen.add(name)
        rendering = Rendering(url=self.source.base_url, notation=body["notation"], project=body["project"])
        try:
            made = document(name, body["record"], rendering, body["comments"])
        except Rejected as error:
            self.found.problems.append(Problem(subject=name, reason=str(error), skipped=True, document=name))
            return
        self.found.add(Entry(document=name, etag=made.hash[:32], read=partial(_held, made)), len(made.text))

    def _repeated(self) -> Iterator[Page]:
        """List everything that this fetch has not listed, as Backlog answered it before."""
        known = stored.documents(self.found.positions)
        for name, body in self.found.raw.answers() if self.found.raw else ():
            if name in known and name not in self.found.seen:
                self._entry(name, body)
            if self.found.full:
                yield from self.found.pages()


def _put(raw: RawAnswers, *, name: str, body: Mapping[str, Any]) -> None:
    raw.put(name, body)


def _remove(raw: RawAnswers, *, name: str) -> None:
    raw.remove(name)


def _held(made: Document) -> Document:
    return made


def _label(project: Mapping[str, Any]) -> str:
    return str(project.get("projectKey") or project.get("id"))
