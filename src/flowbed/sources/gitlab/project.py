"""Read a project of GitLab over its API: what is new, what changed, and what is gone."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Entry, Page, Problem, canonical
from flowbed.sources.gitlab import position as stored
from flowbed.sources.gitlab.api import GitLabApi, Withheld, escaped, open_http
from flowbed.sources.gitlab.links import linked_in_project, place
from flowbed.sources.gitlab.position import Position
from flowbed.sources.gitlab.rendering import REVISION, Rendering, document, identity
from flowbed.sources.paging import PAGE_ENTRIES
from flowbed.sources.raw_answers import RawAnswers, opened, unkept

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from flowbed.records import Document, Linked
    from flowbed.sources.gitlab.position import Listing

# A new note moves its issue at most once a minute, and clocks of several servers differ: so much is listed again.
OVERLAP = timedelta(minutes=5)
# Explicit deletions of a page: each was proved, and few of them fit into a page that went wrong.
MOST_GONE = 20
# Pages are yielded when they hold this many characters of documents.
PAGE_CHARACTERS = 4 * 2**20

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
        http = open_http(self.base_url, self.token)
        raw, failure = opened(self.raw, "GitLab")
        try:
            position = stored.read(cursor, options)
            kept = _kept(raw, str(self.rendering)) if raw and not position.number else Position()
            reading = _Reading(
                api=GitLabApi(http=http, sleep=self.sleep),
                source=self,
                position=replace(kept, options=options) if kept.number else position,
                first=not position.number and not kept.number,
                again=bool(kept.number),
                now=self.clock() // 1_000_000,
                raw=raw,
                problems=[failure] if failure else [],
            )
            async with aclosing(reading.pages()) as pages:
                async for page in pages:
                    yield page
        finally:
            if raw is not None:
                raw.close()
            await http.aclose()

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
            found[1], found[2], stored.parsed(cursor), confidential=self.rendering.confidential
        )


def _kept(raw: RawAnswers, options: str) -> Position:
    """Return the position of the raw answers, where they have all documents before it."""
    try:
        position = stored.parsed(raw.position(options))
        return position if position.documents() <= raw.documents() else Position()
    except sqlite3.Error:
        return Position()  # what is damaged is replaced by what GitLab answers now


@dataclass(kw_only=True)
class _Reading:
    """One fetch: the `first`, or one that lists everything `again` of raw answers, or one of changes.

    `trouble` says that something could not be read.
    """

    api: GitLabApi
    source: Project
    position: Position
    first: bool
    again: bool
    now: int
    raw: RawAnswers | None
    project: dict[str, Any] = field(default_factory=dict)
    trouble: bool = False
    seen: set[str] = field(default_factory=set)
    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    held: int = 0

    async def pages(self) -> AsyncGenerator[Page]:
        if await self._is_visible():
            async for page in self._read():
                yield page
        for page in self._repeated() if self.again else ():
            yield page
        # Between its pages, a fetch that lists everything again has no position: it must not go on in the middle.
        again, self.again = self.again, False
        yield self._page(complete=(self.first or again) and not self.trouble)

    async def _is_visible(self) -> bool:
        try:
            await self._open()
        except Withheld as error:
            if self.first:
                raise Misconfigured(unseen(self.source.location, self.source.token)) from error
            self._kept(self.source.location, error)
            return False
        return True

    async def _read(self) -> AsyncIterator[Page]:
        due = not self.first and self.now - self.position.swept >= self.source.sweep
        for kind in filter(self._is_on, KINDS):
            async for page in self._kind(kind, due=due):
                yield page
        if self._is_on("wiki"):
            async for page in self._wiki():
                yield page
        if (self.first or due) and not self.trouble:
            self.position.swept = self.now

    def _repeated(self) -> Iterator[Page]:
        """List everything that this fetch has not listed, as GitLab answered it before."""
        known = self.position.documents()
        for name, (row, notes) in self.raw.answers() if self.raw else ():
            if name in known and name not in self.seen:
                try:
                    self._entry(name, row, notes)
                except Rejected as error:
                    self._malformed(name, str(error), document=name)
            if self.held >= PAGE_CHARACTERS or len(self.entries) >= PAGE_ENTRIES:
                yield self._page()

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
        self.trouble = True
        reason = f"{error}; what is indexed of it is kept, and the next run tries again"
        self.problems.append(Problem(subject=subject, reason=reason, skipped=True))

    def _page(self, *, complete: bool = False) -> Page:
        cursor = self.position.written()
        self._keep(lambda raw: raw.keep(str(self.source.rendering), cursor))
        page = Page(
            entries=self.entries,
            gone=self.gone,
            problems=self.problems,
            cursor="" if self.again else cursor,
            complete=complete,
        )
        self.entries, self.gone, self.problems, self.held = [], [], [], 0
        return page

    def _keep(self, write: Callable[[RawAnswers], None]) -> None:
        """Write to the file of raw answers, and go on without it where that fails."""
        if self.raw is None or self.source.raw is None:
            return
        try:
            write(self.raw)
        except sqlite3.Error as error:
            self.raw = None
            self.problems.append(unkept(self.source.raw, "GitLab", error))

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
            if self.entries or self.gone:
                yield self._page()

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
            if self.entries or self.gone:
                yield self._page()
        lost = [iid for iid in missing if await self._is_lost(kind, iid)]
        if lost:
            # They may have answered "not found" because all of the project does.
            await self._open()
        for iid in lost if self._is_on(kind) else ():
            self._gone(kind, iid)
            if len(self.gone) >= MOST_GONE:
                yield self._page()

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
        self.gone.append(name)
        self._keep(lambda raw: raw.remove(name))

    async def _add(self, kind: str, row: Any) -> None:  # any JSON value
        """Read the notes of an issue or merge request, and add its document, once in a fetch."""
        try:
            name = identity(row if isinstance(row, dict) else {})
        except Rejected as error:
            self._malformed(self.source.location, str(error))
            return
        if name in self.seen:
            return
        self.seen.add(name)
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
        listing.known[iid] = count if isinstance(count, int) else -1

    def _malformed(self, subject: str, reason: str, *, document: str = "") -> None:
        # Skipped, since the next fetch would find the same: what changed after it has to be reached.
        self.trouble |= not document
        self.problems.append(Problem(subject=subject, reason=reason, skipped=True, document=document))

    def _answered(self, name: str, row: Mapping[str, Any], notes: list[Any] | None) -> None:
        """Keep what GitLab answered, and add its document."""
        whole = {**row, "project": self.project["path_with_namespace"]}
        self._keep(lambda raw: raw.put(name, [whole, notes]))
        self._entry(name, whole, notes)

    def _entry(self, name: str, row: Mapping[str, Any], notes: list[Any] | None) -> None:
        self.seen.add(name)
        made = document(name, row, self.source.rendering, notes)
        self.held += len(made.text)
        self.entries.append(Entry(document=name, etag=made.hash[:32], read=partial(_held, made)))

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
            if self.held >= PAGE_CHARACTERS:
                yield self._page()
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
