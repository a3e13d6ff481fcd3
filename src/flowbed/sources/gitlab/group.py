"""Read all projects of a group of GitLab, one after the other."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flowbed.errors import Error, Misconfigured, Transient
from flowbed.records import Page, Problem
from flowbed.records.values import count, listing
from flowbed.sources.apis import cursors
from flowbed.sources.gitlab import position as stored
from flowbed.sources.gitlab.api import GitLabApi, Withheld, escaped, open_http
from flowbed.sources.gitlab.links import linked_in_project, place
from flowbed.sources.gitlab.project import KINDS, NAMES, unseen
from flowbed.sources.gitlab.rendering import REVISION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from flowbed.records import Linked
    from flowbed.sources.gitlab.project import Project
    from flowbed.sources.gitlab.rendering import Rendering

# So many projects in a row without an answer mean that GitLab is down, not the project.
SILENT = 2


@dataclass(frozen=True, kw_only=True)
class Group:
    """A source of all projects of a group and its subgroups; `project` opens one by its path. `sleep` waits."""

    location: str
    base_url: str
    path: str
    token: str = field(repr=False)
    rendering: Rendering
    project: Callable[[str], Project]
    sleep: Callable[[float], Awaitable[None]]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List what changed since `cursor` and what is gone, project by project; each page has its cursor.

        A project that cannot be read is reported, and the others are read.
        """
        options = f"{REVISION} {self.rendering}"
        known = _read(cursor, options)
        listed = {str(each["id"]): str(each["path_with_namespace"]) for each in await self._projects()}
        left = _Left(options=options, projects=dict(known), complete=not known)
        left.projects |= {
            number: (path, left.cursor(number)) for number, path in listed.items() if number in known
        }
        lost = [f"{path} ({number})" for number, (path, _) in known.items() if number not in listed]
        if lost:
            reason = (
                "not in the group any more, or not shown to the token; what is indexed of them is kept:"
                f" {listing(lost, none='none')}"
            )
            yield Page(
                problems=[Problem(subject=self.location, reason=reason, skipped=True)], cursor=left.written()
            )
        silent = 0
        for number, path in listed.items():
            try:
                async with aclosing(self._pages(path, left.cursor(number))) as pages:  # type: ignore[type-var]
                    async for page in pages:
                        yield left.taken(number, path, page)
                left.ended()
                silent = 0
            except (Transient, Misconfigured) as error:
                silent += isinstance(error, Transient)
                if silent >= SILENT or (
                    isinstance(error, Misconfigured) and not isinstance(error.__cause__, Withheld)
                ):
                    raise
                left.complete = False
                yield Page(problems=[_problem(self.location, path, error)], cursor=left.written())
        yield left.last_page()

    def _pages(self, path: str, cursor: str) -> AsyncIterator[Page]:
        return self.project(path).fetch(cursor)

    async def look(self) -> tuple[str, ...]:
        """Ask which projects the token can see, and what of them."""
        projects = await self._projects()
        paths = [str(each["path_with_namespace"]) for each in projects]
        lines = [
            f"GitLab group {self.path}: reads {count(len(paths), 'project')}: {listing(paths, none='none')}"
        ]
        for kind in (*KINDS, "wiki"):
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
        for path, position in _read(cursor, f"{REVISION} {self.rendering}").values():
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

    What is gone from the projects comes on the last page; until then their cursors are those before it.
    """

    options: str
    projects: dict[str, tuple[str, str]]
    complete: bool
    _gone: list[str] = field(default_factory=list)
    _ended: dict[str, tuple[str, str]] = field(default_factory=dict)
    _last: bool = False

    def cursor(self, number: str) -> str:
        return self.projects.get(number, ("", ""))[1]

    def taken(self, number: str, path: str, page: Page) -> Page:
        """Return a page of a project as one of the group."""
        self._last = page.complete
        if page.gone:
            self._gone += page.gone
            self._ended[number] = (path, page.cursor)
        elif page.cursor:
            self.projects[number] = (path, page.cursor)
        return replace(page, gone=(), cursor=self.written(), complete=False)

    def last_page(self) -> Page:
        self.projects |= self._ended
        return Page(
            gone=self._gone,
            cursor=self.written(),
            complete=self.complete,
            empty="the group has no projects",
        )

    def ended(self) -> None:
        self.complete, self._last = self.complete and self._last, False

    def written(self) -> str:
        if not self.projects:
            return ""
        return cursors.written([self.options, self.projects])


def _read(cursor: str, options: str) -> Mapping[str, tuple[str, str]]:
    """Parse a cursor; one that is empty, of other options, or no cursor of a group begins from the start."""
    try:
        written_with, projects = cursors.read(cursor)
        found = {number: (path, position) for number, (path, position) in projects.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
    return found if written_with == options else {}


def _problem(location: str, path: str, error: Error) -> Problem:
    said = str(error).partition(";")[0]
    reason = f"{said}; what is indexed of it is kept, and the next run tries again"
    return Problem(subject=f"{location}: {path}", reason=reason, skipped=True)
