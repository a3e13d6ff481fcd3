"""Read a project of GitLab over its API: what is new, what changed, and what is gone."""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Entry, Page, Problem, canonical
from flowbed.sources.apis.following import Following, following
from flowbed.sources.gitlab import position as stored
from flowbed.sources.gitlab.api import GitLabApi, Withheld, escaped, open_http
from flowbed.sources.gitlab.links import linked_in_project, place
from flowbed.sources.gitlab.position import Position
from flowbed.sources.gitlab.rendering import REVISION, Rendering, document, identity

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from flowbed.records import Document, Linked
    from flowbed.sources.gitlab.position import Listing

# A new note moves its issue at most once a minute, and clocks of several servers differ: so much is listed again.
OVERLAP = timedelta(minutes=5)

KINDS = ("issues", "merge_requests")
NAMES = {"issues": "issues", "merge_requests": "merge requests", "wiki": "the wiki"}


@dataclass(frozen=True, kw_only=True)
class Project:
    """A source of the issues, merge requests and wiki pages of a project; `clock` returns microseconds since 1970.

    `sweep` is after how many seconds everything is listed again, to notice what was deleted. `raw` is the file that
    keeps what GitLab answered.
    """

    location: str
    base_url: str
    path: str
    token: str
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
            position if position.options == options else Position(),
            http=http,
            raw=self.raw,
            vendor="GitLab",
            options=str(self.rendering),
        ) as found:
            found.positions.options = options
            api = GitLabApi(http=http, sleep=self.sleep)
            reading = _Reading(api=api, source=self, found=found, now=self.clock() // 1_000_000)
            async with aclosing(reading.pages()) as pages:
                async for page in pages:
                    yield page

    async def look(self) -> tuple[str, ...]:
        """Ask what of the project the token can see."""
        http = open_http(self.base_url, self.token)
        try:
            api = GitLabApi(http=http, sleep=self.sleep)
            try:
                project = await api.get(f"/projects/{escaped(self.path)}")
            except Withheld as error:
                raise Misconfigured(unseen(self.location, self.token)) from error
            reads, lines = [], []
            for kind in (*KINDS, "wiki"):
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


@dataclass(kw_only=True)
class _Reading:
    """One fetch, at the time `now`."""

    api: GitLabApi
    source: Project
    found: Following[Position]
    now: int
    project: dict[str, Any] = field(default_factory=dict)

    @property
    def position(self) -> Position:
        return self.found.positions

    async def pages(self) -> AsyncGenerator[Page]:
        following = self.found
        if await self._is_visible():
            async for page in self._read():
                yield page
        for page in self._repeated() if following.again else ():
            yield page
        complete = (following.first or following.again) and not following.trouble
        for page in following.last_pages(complete=complete):
            yield page

    async def _is_visible(self) -> bool:
        try:
            await self._open()
        except Withheld as error:
            if self.found.first:
                raise Misconfigured(unseen(self.source.location, self.source.token)) from error
            self._kept(self.source.location, error)
            return False
        return True

    async def _read(self) -> AsyncIterator[Page]:
        due = not self.found.first and self.now - self.position.swept >= self.source.sweep
        for kind in filter(self._is_on, KINDS):
            async for page in self._kind(kind, due=due):
                yield page
        if self._is_on("wiki"):
            async for page in self._wiki():
                yield page
        if (self.found.first or due) and not self.found.trouble:
            self.position.swept = self.now

    def _repeated(self) -> Iterator[Page]:
        """List everything that this fetch has not listed, as GitLab answered it before."""
        known = stored.documents(self.position)
        for name, (row, notes) in self.found.raw.answers() if self.found.raw else ():
            if name in known and name not in self.found.seen:
                try:
                    self._entry(name, row, notes)
                except Rejected as error:
                    self._malformed(name, str(error), document=name)
            if self.found.full:
                yield from self.found.pages()

    async def _kind(self, kind: str, *, due: bool) -> AsyncIterator[Page]:
        try:
            async for page in self._changed(kind):
                yield page
            if due:
                async for page in self._swept(kind):
                    yield page
        except Withheld as error:
            self._kept(f"{self.source.location}: {NAMES[kind]}", error)

    async def _open(self) -> None:
        number = self.position.number
        self.project = await self.api.get(f"/projects/{number or escaped(self.source.path)}")
        self.position.number = self.project["id"]

    def _is_on(self, kind: str) -> bool:
        """Tell whether the project has issues, merge requests or a wiki; older versions do not say."""
        return is_on(self.project, kind)

    def _kept(self, subject: str, error: Rejected) -> None:
        self.found.trouble = True
        reason = f"{error}; what is indexed of it is kept, and the next run tries again"
        self.found.problems.append(Problem(subject=subject, reason=reason, skipped=True))

    async def _changed(self, kind: str) -> AsyncIterator[Page]:
        """Read what changed since the last fetch."""
        listing: Listing = getattr(self.position, kind)
        # What changes from now on is for the next fetch too: an end that moves may never be reached.
        end = _written(datetime.fromtimestamp(self.api.date or self.now, UTC))
        since = _earlier(listing.high)
        async for rows in self.api.listed(
            f"/projects/{self.position.number}/{kind}", after=since, order="updated"
        ):
            for row in rows:
                await self._add(kind, row)
            changes = [_utc(_field(row, "updated_at")) for row in rows]
            listing.high = max([listing.high, *(min(change, end) for change in changes)])
            if changes and min(changes) > end:
                break
            for page in self.found.pages():
                yield page

    async def _swept(self, kind: str) -> AsyncIterator[Page]:
        """List everything: what is missing is asked for one by one, and what has other notes is read again."""
        listing: Listing = getattr(self.position, kind)
        # Named before the listing begins: what is created meanwhile cannot seem to be missing.
        missing = dict(listing.known)
        path = f"/projects/{self.position.number}/{kind}"
        async for rows in self.api.listed(path, after="", order="created"):
            for row in rows:
                iid = str(_field(row, "iid"))
                missing.pop(iid, None)
                if listing.known.get(iid) != _field(row, "user_notes_count"):
                    await self._add(kind, row)
            for page in self.found.pages():
                yield page
        lost = [iid for iid in missing if await self._is_lost(kind, iid)]
        if lost:
            # They may have answered "not found" because all of the project does.
            await self._open()
        for iid in lost if self._is_on(kind) else ():
            self._gone(kind, iid)

    async def _is_lost(self, kind: str, iid: str) -> bool:
        """Ask for one that was not listed; add it if it is there after all."""
        try:
            await self._add(kind, await self.api.get(f"/projects/{self.position.number}/{kind}/{iid}"))
        except Withheld as error:
            return error.missing
        return False

    def _gone(self, kind: str, iid: str) -> None:
        listing: Listing = getattr(self.position, kind)
        if listing.known.pop(iid, None) is not None:
            self._removed(f"{self.position.number}{'!' if kind == 'merge_requests' else '#'}{iid}")

    def _removed(self, name: str) -> None:
        self.found.gone.append(name)
        self.found.keep(lambda raw: raw.remove(name))

    async def _add(self, kind: str, row: Any) -> None:  # any JSON value
        """Read the notes of an issue or merge request, and add its document, once in a fetch."""
        try:
            name = identity(row if isinstance(row, dict) else {})
        except Rejected as error:
            self._malformed(self.source.location, str(error))
            return
        if name in self.found.seen:
            return
        self.found.seen.add(name)
        iid = str(row["iid"])
        listing: Listing = getattr(self.position, kind)
        if self.source.rendering.hides(row):
            self._gone(kind, iid)
            return
        count = row.get("user_notes_count")
        try:
            path = f"/projects/{self.position.number}/{kind}/{iid}"
            notes = await self.api.notes(path) if count != 0 else []
            self._answered(name, row, notes)
        except Withheld:
            return  # deleted since it was listed, which the next sweep notices
        except Rejected as error:
            self._malformed(name, str(error), document=name)
        listing.known[iid] = count if isinstance(count, int) else stored.UNREAD

    def _malformed(self, subject: str, reason: str, *, document: str = "") -> None:
        # Skipped, since the next fetch would find the same: what changed after it has to be reached.
        self.found.trouble |= not document
        self.found.problems.append(Problem(subject=subject, reason=reason, skipped=True, document=document))

    def _answered(self, name: str, row: Mapping[str, Any], notes: list[Any] | None) -> None:
        """Keep what GitLab answered, and add its document."""
        whole = {**row, "project": self.project["path_with_namespace"]}
        self.found.keep(lambda raw: raw.put(name, [whole, notes]))
        self._entry(name, whole, notes)

    def _entry(self, name: str, row: Mapping[str, Any], notes: list[Any] | None) -> None:
        self.found.seen.add(name)
        made = document(name, row, self.source.rendering, notes)
        self.found.add(Entry(document=name, etag=made.hash[:32], read=partial(_held, made)), len(made.text))

    async def _wiki(self) -> AsyncIterator[Page]:
        """Compare all pages of the wiki, whose listing has no dates."""
        try:
            rows = await self.api.get(f"/projects/{self.position.number}/wikis", with_content=1)
        except Withheld as error:
            self._kept(f"{self.source.location}: {NAMES['wiki']}", error)
            return
        known, listed = self.position.wikis, set()
        for row in rows if isinstance(rows, list) else [None]:
            listed.add(self._wiki_page(row, known))
            for page in self.found.pages() if self.found.full else ():
                yield page
        if None in listed:
            return
        for slug in [slug for slug in known if slug not in listed]:
            del known[slug]
            self._removed(f"{self.position.number}/wikis/{slug}")

    def _wiki_page(self, row: Any, known: dict[str, str]) -> str | None:  # any JSON value
        """Add a page if it has changed, and return its slug; None if it cannot be read."""
        slug = _field(row, "slug")
        if not isinstance(slug, str):
            self._malformed(
                f"{self.source.location}: {NAMES['wiki']}", "GitLab answers a page without a slug"
            )
            return None
        digest = hashlib.sha256(canonical(row)).hexdigest()[:12]
        if known.get(slug) == digest:
            return slug
        known[slug] = digest
        name = f"{self.position.number}/wikis/{slug}"
        url = f"{self.project['web_url']}/-/wikis/{escaped(slug)}"
        try:
            self._answered(name, {"web_url": url, **row, "project_id": self.position.number}, None)
        except Rejected as error:
            self._malformed(name, str(error), document=name)
        return slug


def is_on(project: Mapping[str, Any], kind: str) -> bool:
    """Tell whether a project has issues, merge requests or a wiki; older versions do not say."""
    return bool(project.get(f"{kind}_access_level", "enabled") != "disabled")


def unseen(what: str, token: str) -> str:
    """Say what to do where GitLab does not show a project or a group."""
    if not token:
        return f"{what} does not exist, or is not public: set GITLAB_TOKEN to a token with the scope read_api"
    return f"{what} does not exist, or GITLAB_TOKEN may not see it: it needs the scope read_api and a member of it"


def _held(made: Document) -> Document:
    return made


def _field(row: Any, name: str) -> Any:  # any JSON value
    return row.get(name) if isinstance(row, dict) else None


def _written(moment: datetime) -> str:
    """Write a time in UTC with milliseconds, so that later times sort after earlier ones."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _utc(time: Any) -> str:  # any JSON value
    """Return a time of GitLab's, whose zone is that of its host, in UTC; empty if it is none."""
    try:
        return _written(datetime.fromisoformat(time))
    except (ValueError, TypeError, OverflowError):
        return ""


def _earlier(high: str) -> str:
    """Return the time from which to list again."""
    return _written(datetime.fromisoformat(high) - OVERLAP) if high else ""
