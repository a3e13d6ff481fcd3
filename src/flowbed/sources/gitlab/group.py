"""Read all projects of a group of GitLab, one after the other."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flowbed.errors import Error, Misconfigured, Transient
from flowbed.records import Page, Problem
from flowbed.records.values import count, listing
from flowbed.sources.apis import cursors
from flowbed.sources.apis.choice import Choice, chosen
from flowbed.sources.apis.cursors import ALL, digest
from flowbed.sources.gitlab import position as stored
from flowbed.sources.gitlab.api import GitLabApi, Withheld, escaped, open_http
from flowbed.sources.gitlab.kinds import NAMES, SIGNS
from flowbed.sources.gitlab.links import linked_in_project, place
from flowbed.sources.gitlab.project import unseen
from flowbed.sources.gitlab.rendering import REVISION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping

    from flowbed.records import Linked
    from flowbed.sources.gitlab.project import Project
    from flowbed.sources.gitlab.rendering import Rendering

# So many projects in a row without an answer mean that GitLab is down, not the project.
SILENT = 2


@dataclass(frozen=True, kw_only=True)
class Group:
    """A source of projects of a group and its subgroups; `project` opens one by its path. `sleep` waits.

    `projects` are the paths or numbers of those to read; empty: all.
    """

    location: str
    base_url: str
    path: str
    token: str = field(repr=False)
    rendering: Rendering
    projects: tuple[str, ...]
    project: Callable[[str], Project]
    sleep: Callable[[float], Awaitable[None]]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List what changed since `cursor` and what is gone, project by project; each page has its cursor.

        A project that cannot be read is reported, and the others are read.
        """
        left = _read(cursor, self._options, self._origin)
        shown = {str(each["id"]): str(each["path_with_namespace"]) for each in await self._projects()}
        choice = self._chosen(shown, {number: path for number, (path, _) in left.projects.items()})
        listed = {number: shown[number] for number in choice.shown}
        problems = [*choice.problems, *self._lost(left, shown)]
        left.begin(listed, choice.all if self.projects else (*left.projects, *listed))
        if problems:
            yield Page(problems=problems, cursor=left.written())
        if not shown:
            reason = "the group has no projects, or shows the token none"
            problem = Problem(subject=self.location, reason=reason, skipped=True)
            yield Page(problems=[problem], cursor=left.written())
        silent = 0
        for number, path in listed.items():
            try:
                async with aclosing(self._pages(path, left.cursor(number))) as pages:  # type: ignore[type-var]
                    async for page in pages:
                        yield left.taken(number, path, page)
                silent = 0
            except (Transient, Misconfigured) as error:
                silent += isinstance(error, Transient)
                if silent >= SILENT or (
                    isinstance(error, Misconfigured) and not isinstance(error.__cause__, Withheld)
                ):
                    raise
                yield Page(problems=[_problem(self.location, path, error)], cursor=left.written())
        yield left.last_page(choice, named=bool(self.projects))

    def _chosen(self, shown: Mapping[str, str], known: Mapping[str, str]) -> Choice:
        """Return the projects to read, by their numbers.

        Raises:
            Misconfigured: the option names one that the group does not have.
        """
        if not self.projects:
            return Choice(shown=tuple(shown))

        def unknown(name: str, suggestion: str) -> Misconfigured:
            return Misconfigured(
                f"project {name!r} is not in group {self.path} of {self.location}, or the token may not see it"
                f"{suggestion}; its projects are: {listing(sorted(shown.values()), none='none')}"
            )

        below = f"{self.path}/".casefold()
        wanted = [
            each if each.isdigit() or each.casefold().startswith(below) else f"{self.path}/{each}"
            for each in self.projects
        ]
        return chosen(
            wanted,
            shown.items(),
            known,
            option="the option projects",
            unknown=unknown,
            folded=str.casefold,
        )

    @property
    def _options(self) -> str:
        return f"{REVISION} {self.rendering}"

    @property
    def _origin(self) -> str:
        return digest([f"{self.base_url} {self.path}"])

    def _lost(self, left: _Left, shown: Mapping[str, str]) -> Iterator[Problem]:
        """Name the projects that were read before, and are not shown any more."""
        lost = [f"{path} ({number})" for number, (path, _) in left.projects.items() if number not in shown]
        if lost and not self.projects:
            reason = (
                "not in the group any more, or not shown to the token; what is indexed of them is kept (name the others"
                f" in the option projects to delete it): {listing(lost, none='none')}"
            )
            yield Problem(subject=self.location, reason=reason, skipped=True)

    def _pages(self, path: str, cursor: str) -> AsyncIterator[Page]:
        return self.project(path).fetch(cursor)

    async def look(self) -> tuple[str, ...]:
        """Ask which projects the token can see, and what of them."""
        listed = {str(each["id"]): each for each in await self._projects()}
        names = {number: str(each["path_with_namespace"]) for number, each in listed.items()}
        projects = [listed[number] for number in self._chosen(names, {}).shown]
        paths = [str(each["path_with_namespace"]) for each in projects]
        lines = [
            f"GitLab group {self.path}: reads {count(len(paths), 'project')}: {listing(paths, none='none')}"
        ]
        for kind in SIGNS:
            off = [
                path
                for path, each in zip(paths, projects, strict=True)
                if each.get(f"{kind}_access_level") == "disabled"
            ]
            if off:
                lines.append(f"without {NAMES[kind]}: {listing(off, none='none')}")
        return (*lines, *([] if self.token else ["GITLAB_TOKEN is not set: only what is public is read"]))

    def linked(self, link: str, cursor: str) -> Linked | None:
        """Return what the address of an issue, a merge request, a note or a wiki page points to."""
        found = place(link, self.base_url.removesuffix("/api/v4"))
        if found is None or not found[0].casefold().startswith(f"{self.path.casefold()}/"):
            return None
        confidential = self.rendering.confidential
        left = _read(cursor, self._options, self._origin)
        for path, position in left.projects.values():
            if path.casefold() == found[0].casefold():
                return linked_in_project(found[1], found[2], stored.read(position), confidential=confidential)
        return linked_in_project(found[1], found[2], stored.Position(), confidential=confidential)

    async def _projects(self) -> list[dict[str, Any]]:
        """Return the projects of the group and its subgroups.

        Raises:
            Misconfigured: the group does not exist, or the token may not see it.
            Transient: GitLab does not answer.
        """
        http = open_http(self.base_url, self.token)
        try:
            api = GitLabApi(http=http, sleep=self.sleep)
            return [each async for each in api.projects(escaped(self.path))]
        except Withheld as error:
            raise Misconfigured(unseen(f"group {self.path} of {self.location}", self.token)) from error
        finally:
            await http.aclose()


@dataclass
class _Left:
    """What a fetch leaves: the path and the cursor of each project, by its number.

    `origin` is the digest of the address of the group, and `choice` that of the projects that the options chose, once
    what they leave out is gone; empty before.
    What is gone from the projects, and which of them were listed as a whole, comes on the last page; until then their
    cursors are those before it.
    """

    options: str
    origin: str
    choice: str
    projects: dict[str, tuple[str, str]]
    _gone: list[str] = field(default_factory=list)
    _ended: dict[str, tuple[str, str]] = field(default_factory=dict)
    _present: set[str] = field(default_factory=set)
    _within: list[str] = field(default_factory=list)

    def begin(self, listed: Mapping[str, str], wanted: Collection[str]) -> None:
        """Take the paths of the projects that are listed, and forget those that are not wanted."""
        paths = {number: listed.get(number, path) for number, (path, _) in self.projects.items()}
        self.projects = {
            number: (path, self.cursor(number)) for number, path in paths.items() if number in wanted
        }

    def cursor(self, number: str) -> str:
        return self.projects.get(number, ("", ""))[1]

    def taken(self, number: str, path: str, page: Page) -> Page:
        """Return a page of a project as one of the group."""
        if page.complete:
            self._present.update(page.present)
            # A project that is not listed may have been lost, which deletes nothing.
            self._within += [each for each in page.within or _beginnings(number) if each not in page.kept]
        if page.gone or page.complete:
            self._gone += page.gone
            self._ended[number] = (path, page.cursor)
        elif page.cursor:
            self.projects[number] = (path, page.cursor)
        return replace(page, gone=(), cursor=self.written(), complete=False, present=(), within=(), kept=())

    def last_page(self, choice: Choice, *, named: bool) -> Page:
        """Return the last page; it is complete for the projects that have been read as a whole, each once.

        Where the options (`named`) or the address chose others before, all documents of these are gone.
        """
        self.projects |= self._ended
        digested = digest(choice.all) if named else ALL
        # Where nothing is shown at all, something is wrong.
        others = bool(choice.all) and digested != self.choice and (named or not self.choice)
        self.choice = digested if choice.all else self.choice
        within, kept = tuple(self._within), tuple[str, ...]()
        if others:
            each = [beginning for number in choice.all for beginning in _beginnings(number)]
            within, kept = (), tuple(beginning for beginning in each if beginning not in self._within)
        projects = count(len(choice.shown), "project")
        return Page(
            gone=self._gone,
            cursor=self.written(),
            complete=others or bool(self._within),
            empty=f"there are no issues, merge requests or wiki pages in {projects} of the group",
            present=self._present,
            within=within,
            kept=kept,
        )

    def written(self) -> str:
        if not self.projects and self.choice:
            return ""
        return cursors.written([self.options, self.projects, self.origin, self.choice])


def _beginnings(number: str) -> list[str]:
    """Return how the ids of documents of a project begin."""
    return [f"{number}{sign}" for sign in SIGNS.values()]


def _read(cursor: str, options: str, origin: str) -> _Left:
    """Parse a cursor; one that is empty, of other options or of another `origin`, or none, begins from the start."""
    try:
        # Cursors of earlier versions name no origin.
        written_with, projects, before, choice = [*cursors.read(cursor), "", ALL][:4]
        found = {number: (path, position) for number, (path, position) in projects.items()}
    except (ValueError, TypeError, AttributeError):
        return _Left(options=options, origin=origin, choice=ALL, projects={})
    moved = before not in ("", origin)
    return _Left(
        options=options,
        origin=origin,
        choice="" if moved else choice,
        projects=found if written_with == options and not moved else {},
    )


def _problem(location: str, path: str, error: Error) -> Problem:
    said = str(error).partition(";")[0]
    reason = f"{said}; what is indexed of it is kept, and the next run tries again"
    return Problem(subject=f"{location}: {path}", reason=reason, skipped=True)
