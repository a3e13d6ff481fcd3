"""Read one project of Backlog: what is new, what changed, and what is gone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.records import Problem
from flowbed.sources.backlog.api import ROWS, NoAnswer, Withheld
from flowbed.sources.backlog.rendering import identity, moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from flowbed.sources.backlog.api import BacklogApi
    from flowbed.sources.backlog.position import Position

DAY = 86_400  # seconds
# Clocks of several servers differ: so much is listed again (seconds).
OVERLAP = 300
# Times have whole seconds: what changed so shortly before it was read (seconds) may have changed once more.
SETTLING = 60
# Pages overlap by so many rows: a row that is deleted meanwhile pulls others over the end of a page.
STEP = 90
# Listings that are begun again because rows moved meanwhile.
ATTEMPTS = 4
# So many issues and documents are asked again in each fetch, those asked longest ago first: a comment, or deleting one,
# may move nothing.
SLICE = 20
# What is reported of malformed records, one by one.
MOST_PROBLEMS = 20

ISSUE_DELETED, WIKI_DELETED, ISSUES_CHANGED, DOCUMENT_DELETED = 4, 7, 14, 37
FEED = [ISSUE_DELETED, WIKI_DELETED, ISSUES_CHANGED, DOCUMENT_DELETED]


@dataclass(frozen=True)
class Answer:
    """What Backlog answered for a document: its record, its comments (None of a wiki page), and the notation."""

    name: str
    record: dict[str, Any]
    comments: list[Any] | None
    notation: str


@dataclass
class Found:
    """Documents that were read, those that are gone, and what could not be read; `position` is that after them."""

    answers: list[Answer] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(kw_only=True)
class ProjectReading:
    """One fetch of a project from `position` on, at the time `now`; `sweep` is in seconds.

    `label` is how people know the project. `trouble` says that something could not be read. For estimates: of a
    project that is read for the first time, so many issues are `unread`; so many pages of its wiki are `waiting`.
    """

    api: BacklogApi
    project: Mapping[str, Any]
    position: Position
    now: int
    sweep: int
    label: str
    found: Found = field(default_factory=Found)
    seen: set[str] = field(default_factory=set)
    trouble: bool = False
    unread: int = 0
    waiting: int = 0

    def left(self) -> int:
        """Return how many calls are left at least: the comments of issues, and pages."""
        return max(0, self.unread) + self.waiting

    async def pages(self) -> AsyncIterator[Found]:
        """Read the project, and yield what was found while the position says that it was.

        Raises:
            NoAnswer: Backlog does not answer.
        """
        position = self.position
        notation = "backlog" if self.project.get("textFormattingRule") == "backlog" else "markdown"
        if position.notation not in ("", notation):
            # Everything reads differently now, and nothing of it has moved.
            position.high = 0
            position.issues = {name: (id_, 0, 0) for name, (id_, _, _) in position.issues.items()}
            position.wikis = dict.fromkeys(position.wikis, (0, 0))
            position.documents = dict.fromkeys(position.documents, (0, 0))
        position.notation, position.key = notation, str(self.project.get("projectKey", ""))
        parts = [("issues", self._issues)]
        parts += [("wiki", self._wikis)] if self.project.get("useWiki") is not False else []
        parts += [("documents", self._documents)]
        for name, part in parts:
            try:
                async for _ in part():
                    yield self._taken()
            except Withheld as error:
                if name != "documents" or position.documents:  # which not every space has
                    self.trouble = True
                    reason = f"{error}; what is indexed of it is kept, and the next run tries again"
                    subject = f"{self.label}: {name}"
                    self.found.problems.append(Problem(subject=subject, reason=reason, skipped=True))
            yield self._taken()

    def _taken(self) -> Found:
        found, self.found = self.found, Found()
        return found

    # Issues.

    async def _issues(self) -> AsyncIterator[None]:
        position = self.position
        first = not position.activity
        if first:
            newest = await self.api.rows(f"/projects/{position.id}/activities", count=1)
            position.activity = _id(newest[0]) if newest else 1
        else:
            async for _ in self._feed():
                yield
        # Of an interrupted first fetch, some issues are known.
        due = bool(position.issues) and self.now - position.swept >= self.sweep
        async for _ in self._changed():
            yield
        if due:
            async for _ in self._swept():
                yield
        elif not position.swept:
            position.swept = self.now
        async for _ in self._asked_again():
            yield

    async def _feed(self) -> AsyncIterator[None]:
        """Ask for everything that was deleted or changed with others, as Backlog lists it."""
        while True:
            rows = await self.api.rows(
                f"/projects/{self.position.id}/activities",
                activityTypeId=FEED,
                minId=self.position.activity,
                order="asc",
                count=ROWS,
            )
            new = [row for row in rows if _id(row) > self.position.activity]
            for row in new:
                content = row.get("content")
                await self._happened(row.get("type"), content if isinstance(content, dict) else {})
                self.position.activity = max(self.position.activity, _id(row))
            yield
            if not new:
                return

    async def _happened(self, kind: object, content: dict[str, Any]) -> None:
        if kind == ISSUE_DELETED:
            await self._ask_issue(str(content.get("key_id")))
        elif kind == ISSUES_CHANGED:
            links = content.get("link")
            for each in links if isinstance(links, list) else ():
                if isinstance(each, dict):
                    await self._ask_issue(str(each.get("key_id")))
        elif kind == WIKI_DELETED:
            await self._ask_page("wikis", str(content.get("id")))
        elif kind == DOCUMENT_DELETED:
            await self._ask_page("documents", str(content.get("id")))

    async def _changed(self) -> AsyncIterator[None]:
        """Read the issues that changed since the last fetch, newest first."""
        position = self.position
        query: dict[str, Any] = {"sort": "updated", "order": "desc", "projectId": [position.id]}
        if position.high:
            # Backlog takes a day here, and does not say of which time zone.
            query["updatedSince"] = (
                f"{datetime.fromtimestamp(position.high, UTC) - timedelta(days=1):%Y-%m-%d}"
            )
        else:
            self.unread = await self._count() - len(position.issues)
        highest, listed = position.high, set[int]()
        async for rows in self._without_gaps(query, listed, since=position.high - OVERLAP):
            for row in rows:
                highest = max(highest, self._moment(row))
                await self._add_issue(row)
            yield
        # What changed before its page was listed is at the top now; what changed after that is for the next fetch.
        for offset in range(0, ATTEMPTS * ROWS, ROWS):
            rows = await self.api.rows("/issues", **query, offset=offset, count=ROWS)
            new = [row for row in rows if _id(row) not in listed]
            for row in new:
                await self._add_issue(row)
            yield
            if not new:
                break
        position.high, self.unread = highest, 0

    async def _without_gaps(
        self, query: dict[str, Any], listed: set[int], *, since: int
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield pages of issues that overlap, so that none is missed that moves meanwhile; note what was `listed`."""
        offset = attempts = 0
        while True:
            rows = await self.api.rows("/issues", **query, offset=offset, count=ROWS)
            if offset and rows and _id(rows[0]) not in listed:
                # Rows were deleted meanwhile: what they pulled up was not listed.
                attempts += 1
                if attempts > ATTEMPTS:
                    raise NoAnswer(f"issues of {self.label} are deleted faster than they can be listed")
                offset = max(0, offset - STEP)
                continue
            listed.update(map(_id, rows))
            yield rows
            if len(rows) < ROWS or self._moment(rows[-1]) < since:
                return
            offset += STEP

    async def _swept(self) -> AsyncIterator[None]:
        """List all issues, and ask for those that are missing, unless their number moved meanwhile."""
        number = self.position.id
        for _ in range(ATTEMPTS):
            listed: set[str] = set()
            before = await self._count()
            for offset in range(0, before + ROWS, ROWS):
                rows = await self.api.rows(
                    "/issues", projectId=[number], sort="created", order="asc", offset=offset, count=ROWS
                )
                for row in rows:
                    listed.add(str(row.get("keyId")))
                    await self._add_issue(row)
                yield
                if len(rows) < ROWS:
                    break
            if before == await self._count() == len(listed):
                for name in [name for name in self.position.issues if name not in listed]:
                    await self._ask_issue(name)
                self.position.swept = self.now
                return

    async def _count(self) -> int:
        answer = await self.api.get("/issues/count", projectId=[self.position.id])
        count = answer.get("count") if isinstance(answer, dict) else None
        return count if isinstance(count, int) else -1

    async def _asked_again(self) -> AsyncIterator[None]:
        """Read some issues again, those read longest ago first."""
        old = sorted((at, name) for name, (_, _, at) in self.position.issues.items() if at <= self.now - DAY)
        for _, name in old[:SLICE]:
            if f"{self.position.id}#{name}" not in self.seen:
                await self._ask_issue(name, again=True)
        yield

    async def _ask_issue(self, name: str, *, again: bool = False) -> None:
        """Ask for one issue: it is gone if Backlog does not know it, and still shows its project."""
        known = self.position.issues.get(name)
        if known is None:
            return
        try:
            row = await self.api.get(f"/issues/{known[0]}")
        except Withheld as error:
            if not error.missing:
                self._kept(f"{self.position.id}#{name}", error)
                return
            await self.api.get(f"/projects/{self.position.id}")
        else:
            if (
                isinstance(row, dict)
                and row.get("projectId") == self.position.id
                and str(row.get("keyId")) == name
            ):
                await self._add_issue(row, again=again)
                return
            # It was moved to another project.
        del self.position.issues[name]
        self.found.gone.append(f"{self.position.id}#{name}")

    async def _add_issue(self, row: dict[str, Any], *, again: bool = False) -> None:
        """Read the comments of an issue that changed, and add its document, once in a fetch."""
        try:
            name, updated = identity(row), moment(row)
        except Rejected as error:
            self._malformed(f"{self.label}: {row.get('issueKey', 'an issue')}", error)
            return
        if row.get("projectId") != self.position.id or name in self.seen:
            return
        number = str(row["keyId"])
        known = self.position.issues.get(number)
        if not again and known is not None and known[1] == updated and known[2] >= updated + SETTLING:
            return
        try:
            comments = await self._comments(row["id"])
        except Withheld:
            return  # deleted since it was listed, which the next fetch notices
        self.seen.add(name)
        self.unread -= number not in self.position.issues
        self.position.issues[number] = (row["id"], updated, self.now)
        self.found.answers.append(Answer(name, row, comments, self.position.notation))

    async def _comments(self, issue: int) -> list[Any]:
        """Return all comments of an issue, oldest first."""
        found: dict[int, Any] = {}
        query: dict[str, Any] = {"count": ROWS, "order": "asc"}
        while True:
            rows = await self.api.rows(f"/issues/{issue}/comments", **query)
            new = [row for row in rows if _id(row) not in found]
            found |= {_id(row): row for row in new}
            if len(rows) < ROWS or not new:
                return [each for _, each in sorted(found.items())]
            query["minId"] = max(found)

    # Wiki pages and documents.

    async def _wikis(self) -> AsyncIterator[None]:
        """Compare all pages of the wiki, whose listing has their last changes."""
        rows = await self.api.rows("/wikis", projectIdOrKey=self.position.id)
        names = [
            str(row.get("id"))
            for row in rows
            if self._has_moved(self.position.wikis, str(row.get("id")), row)
        ]
        for number, name in enumerate(names, start=1):
            self.waiting = len(names) - number
            try:
                await self._add_page("wikis", name, await self.api.get(f"/wikis/{name}"))
            except Withheld:
                continue  # deleted since it was listed
            yield
        listed = {str(row.get("id")) for row in rows}
        for name in [name for name in self.position.wikis if name not in listed]:
            await self._ask_page("wikis", name)
        yield

    async def _documents(self) -> AsyncIterator[None]:
        """Compare all documents, which are listed with their texts; those in the trash are gone.

        Comments are read of those that changed, and of some others.
        """
        tree = await self.api.get("/documents/tree", projectIdOrKey=self.position.id)
        trash = set(_ids(tree.get("trashTree") if isinstance(tree, dict) else None))
        known = self.position.documents
        old = sorted((at, name) for name, (_, at) in known.items() if at <= self.now - DAY)
        again = {name for _, name in old[:SLICE]}
        listed: set[str] = set()
        offset = 0
        while True:
            rows = await self.api.rows(
                "/documents",
                projectId=[self.position.id],
                sort="updated",
                order="desc",
                offset=offset,
                count=ROWS,
            )
            for row in rows:
                name = str(row.get("id"))
                listed.add(name)
                if name not in trash and (name in again or self._has_moved(known, name, row)):
                    await self._add_document(name, row)
            yield
            if len(rows) < ROWS:
                break
            offset += STEP
        for name in [name for name in known if name in trash or name not in listed]:
            await self._ask_page("documents", name, trash=trash)
        yield

    def _has_moved(self, known: dict[str, tuple[int, int]], name: str, row: Mapping[str, Any]) -> bool:
        updated, at = known.get(name, (-1, 0))
        return updated != self._moment(row) or at < updated + SETTLING

    async def _add_document(self, name: str, row: Mapping[str, Any]) -> None:
        """Read the comments of a document, and add it, once in a fetch."""
        if f"{self.position.id}/documents/{name}" in self.seen:
            return
        try:
            comments = await self.api.rows(f"/documents/{name}/comments")
        except Withheld:
            comments = []  # of a space without them, or it was deleted since it was listed
        await self._add_page("documents", name, row, comments)

    async def _add_page(
        self,
        kind: str,
        name: str,
        row: Any,  # any JSON value
        comments: list[dict[str, Any]] | None = None,
    ) -> None:
        try:
            found = identity(row if isinstance(row, dict) else {})
            updated = moment(row)
        except Rejected as error:
            self._malformed(f"{self.label}: {kind}/{name}", error)
            return
        if row["projectId"] != self.position.id or found in self.seen:
            return
        self.seen.add(found)
        getattr(self.position, kind)[name] = (updated, self.now)
        self.found.answers.append(Answer(found, row, comments, self.position.notation))

    async def _ask_page(self, kind: str, name: str, *, trash: set[str] | None = None) -> None:
        """Ask for a page: it is gone if it is in the trash, or Backlog does not know it and still shows its project."""
        known: dict[str, tuple[int, int]] = getattr(self.position, kind)
        if name not in known:
            return
        if not trash or name not in trash:
            try:
                row = await self.api.get(f"/{kind}/{name}")
            except Withheld as error:
                if not error.missing:
                    self._kept(f"{self.position.id}/{kind}/{name}", error)
                    return
            else:
                if isinstance(row, dict) and row.get("projectId") == self.position.id:
                    return  # a page that was just written, or moved in the listing
            await self.api.get(f"/projects/{self.position.id}")
        del known[name]
        self.found.gone.append(f"{self.position.id}/{kind}/{name}")

    def _kept(self, name: str, error: Withheld) -> None:
        problem = Problem(subject=name, reason=f"{error}; what is indexed of it is kept", skipped=True)
        self.found.problems.append(replace(problem, document=name))

    def _malformed(self, subject: str, error: Rejected) -> None:
        # Skipped, since the next fetch would find the same: what changed after it has to be reached.
        self.trouble = True
        if len(self.found.problems) < MOST_PROBLEMS:
            self.found.problems.append(Problem(subject=subject, reason=str(error), skipped=True))

    def _moment(self, row: Mapping[str, Any]) -> int:
        try:
            return moment(row)
        except Rejected:
            return 0


def _id(row: Mapping[str, Any]) -> int:
    found = row.get("id")
    return found if isinstance(found, int) else 0


def _ids(tree: object) -> list[str]:
    """Return the ids of the documents of a tree, however deep."""
    found, waiting = [], [tree]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            found += [each["id"]] if isinstance(each.get("id"), str) else []
            children = each.get("children")
            waiting += children if isinstance(children, list) else []
    return found
