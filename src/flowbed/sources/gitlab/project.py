"""Read a project of GitLab over its API: what is new, what changed, and what is gone."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, Rejected
from flowbed.records.values import listing
from flowbed.sources.apis.following import following
from flowbed.sources.gitlab import position as stored
from flowbed.sources.gitlab.api import GitLabApi, Withheld, escaped, open_http
from flowbed.sources.gitlab.issues import Issues
from flowbed.sources.gitlab.kinds import NAMES, SIGNS, is_on
from flowbed.sources.gitlab.links import linked_in_project, place
from flowbed.sources.gitlab.position import Position
from flowbed.sources.gitlab.reading import Reading
from flowbed.sources.gitlab.rendering import REVISION, Rendering
from flowbed.sources.gitlab.wiki import Wiki

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from flowbed.records import Linked, Page


@dataclass(frozen=True, kw_only=True)
class Project:
    """A source of the issues, merge requests and wiki pages of a project; `clock` returns microseconds since 1970.

    `sweep` is after how many seconds everything is listed again, to notice what was deleted. `raw` is the file that
    keeps what GitLab answered. A cursor of another `origin` means nothing.
    """

    location: str
    origin: str
    base_url: str
    path: str
    token: str = field(repr=False)
    rendering: Rendering
    sweep: int
    raw: Path | None
    clock: Callable[[], int]
    sleep: Callable[[float], Awaitable[None]]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List what changed since `cursor` and what is gone; each page has its cursor.

        From the beginning, everything is listed again of what GitLab answered before, if that was kept.
        """
        options = f"{REVISION} {self.rendering}"
        position = stored.read(cursor)
        http = open_http(self.base_url, self.token)
        async with following(
            stored,
            cursor,
            position if position.options == options else Position(),
            origin=self.origin,
            http=http,
            raw=self.raw,
            vendor="GitLab",
            options=str(self.rendering),
        ) as found:
            found.positions.options = options
            api = GitLabApi(http=http, sleep=self.sleep)
            reading = Reading(
                api=api,
                location=self.location,
                path=self.path,
                rendering=self.rendering,
                found=found,
                now=self.clock() // 1_000_000,
            )
            async with aclosing(_Fetch(source=self, reading=reading).pages()) as pages:
                async for page in pages:
                    yield page

    async def look(self) -> tuple[str, ...]:
        """Ask what of the project the token can see."""
        http = open_http(self.base_url, self.token)
        try:
            api = GitLabApi(http=http, sleep=self.sleep)
            try:
                project = await api.project(escaped(self.path))
            except Withheld as error:
                raise Misconfigured(unseen(self.location, self.token)) from error
            reads, lines = [], []
            for kind in SIGNS:
                if not is_on(project, kind):
                    lines.append(f"{NAMES[kind]}: switched off in the project")
                    continue
                try:
                    path = f"/projects/{project['id']}/{'wikis' if kind == 'wiki' else kind}"
                    await api.get(path, per_page=1)
                    reads.append(NAMES[kind])
                except Withheld as error:
                    lines.append(f"{NAMES[kind]}: {error}; the token's user may not see them")
        finally:
            await http.aclose()
        lines += [] if self.token else ["GITLAB_TOKEN is not set: only what is public is read"]
        name = project.get("path_with_namespace", self.path)
        return (f"GitLab project {name}: reads {', '.join(reads) or 'nothing'}", *lines)

    def linked(self, link: str, cursor: str) -> Linked | None:
        """Return what the address of an issue, a merge request, a note or a wiki page points to."""
        found = place(link, self.base_url.removesuffix("/api/v4"))
        if found is None or found[0].casefold() != self.path.casefold():
            return None
        return linked_in_project(
            found[1], found[2], stored.read(cursor), confidential=self.rendering.confidential
        )


@dataclass(frozen=True, kw_only=True)
class _Fetch:
    """One fetch of a project."""

    source: Project
    reading: Reading

    async def pages(self) -> AsyncGenerator[Page]:
        reading, following = self.reading, self.reading.found
        if await self._is_visible():
            async for page in self._read():
                yield page
        for page in self._repeated() if following.again else ():
            yield page
        off = listing([NAMES[kind] for kind in SIGNS if not is_on(reading.project, kind)], none="")
        number = reading.position.number
        for page in following.last_pages(
            whole=True,
            wanted={kind: (f"{number}{sign}",) for kind, sign in SIGNS.items() if reading.project},
            read=[*filter(self._was_read, SIGNS)],
            named=True,
            empty=f"there are no issues, merge requests or wiki pages in {reading.path} that the token may see"
            f"{off and f' (switched off: {off})'}",
        ):
            yield page

    async def _is_visible(self) -> bool:
        reading = self.reading
        try:
            await reading.open()
        except Withheld as error:
            if reading.found.first:
                raise Misconfigured(unseen(reading.location, self.source.token)) from error
            reading.kept(reading.location, error)
            return False
        return True

    async def _read(self) -> AsyncIterator[Page]:
        reading = self.reading
        due = not reading.found.first and reading.now - reading.position.swept >= self.source.sweep
        for kind in SIGNS:
            if not is_on(reading.project, kind):
                continue
            try:
                async for page in self._kind(kind, due=due):
                    yield page
            except Withheld as error:
                reading.withheld[kind] = error
        reading.report_withheld()
        if reading.found.first or due:
            # What cannot be read now may never be: listing all the rest each time would not help.
            reading.position.swept = reading.now

    async def _kind(self, kind: str, *, due: bool) -> AsyncIterator[Page]:
        if kind == "wiki":
            async for page in Wiki(self.reading).compared():
                yield page
            return
        issues = Issues(self.reading, kind)
        async for page in issues.changed():
            yield page
        if due:
            async for page in issues.swept():
                yield page

    def _was_read(self, kind: str) -> bool:
        project = self.reading.project
        return bool(project) and is_on(project, kind) and kind not in self.reading.withheld

    def _repeated(self) -> Iterator[Page]:
        """List everything that this fetch has not listed, as GitLab answered it before."""
        reading, found = self.reading, self.reading.found
        known = stored.documents(reading.position)
        for name, (row, notes) in found.raw.answers() if found.raw else ():
            if name in known and name not in found.seen:
                try:
                    reading.add(name, row, notes)
                except Rejected as error:
                    reading.malformed(name, str(error), document=name)
            if found.full:
                yield from found.pages()


def unseen(what: str, token: str) -> str:
    """Say what to do where GitLab does not show a project or a group."""
    if not token:
        return f"{what} does not exist, or is not public: set GITLAB_TOKEN to a token with the scope read_api"
    return f"{what} does not exist, or GITLAB_TOKEN may not see it: it needs the scope read_api and a member of it"
