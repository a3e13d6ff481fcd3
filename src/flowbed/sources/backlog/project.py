"""Read one project of Backlog: what is new, what changed, and what is gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbed.records import Problem
from flowbed.records.values import listing
from flowbed.sources.backlog.api import ROWS, Withheld
from flowbed.sources.backlog.issues import Issues
from flowbed.sources.backlog.pages import Pages
from flowbed.sources.backlog.reading import id_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from flowbed.sources.backlog.reading import Found, Reading

ISSUE_DELETED, WIKI_DELETED, ISSUES_CHANGED, DOCUMENT_DELETED = 4, 7, 14, 37
FEED = [ISSUE_DELETED, WIKI_DELETED, ISSUES_CHANGED, DOCUMENT_DELETED]


@dataclass(kw_only=True)
class ProjectReading:
    """One fetch of a `project`, its record of Backlog; `sweep` is in seconds."""

    reading: Reading
    project: Mapping[str, Any]
    sweep: int
    issues: Issues = field(init=False)
    pages: Pages = field(init=False)

    def __post_init__(self) -> None:
        """Prepare to read its parts."""
        self.issues, self.pages = Issues(self.reading, self.sweep), Pages(self.reading)

    async def read(self) -> AsyncIterator[Found]:
        """Read the project, and yield what was found while the position says that it was.

        Raises:
            NoAnswer: Backlog does not answer.
        """
        reading, position = self.reading, self.reading.position
        notation = "backlog" if self.project.get("textFormattingRule") == "backlog" else "markdown"
        if position.notation not in ("", notation):
            # Everything reads differently now, and nothing of it has moved.
            position.high = 0
            position.issues = {name: (id_, 0, 0) for name, (id_, _, _) in position.issues.items()}
            position.wikis = dict.fromkeys(position.wikis, (0, 0))
            position.documents = dict.fromkeys(position.documents, (0, 0))
        position.notation, position.key = notation, str(self.project.get("projectKey", ""))
        parts = [("issues", self._issues)]
        parts += [("wiki", self.pages.wikis)] if self.project.get("useWiki") is not False else []
        parts += [("documents", self.pages.documents)]
        withheld: dict[str, Withheld] = {}
        for name, part in parts:
            try:
                async for _ in part():
                    yield reading.taken()
            except Withheld as error:
                if name != "documents" or position.documents:  # which not every space has
                    withheld[name] = error
            yield reading.taken()
        if withheld:
            reading.trouble = True
            first = next(iter(withheld.values()))
            reason = f"{first}; what is indexed of it is kept, and the next run tries again"
            subject = f"{reading.label}: {listing([*withheld], none='')}"
            reading.found.problems.append(Problem(subject=subject, reason=reason, skipped=True))
            yield reading.taken()

    async def _issues(self) -> AsyncIterator[None]:
        position = self.reading.position
        if not position.activity:
            newest = await self.reading.api.rows(f"/projects/{position.id}/activities", count=1)
            position.activity = id_of(newest[0]) if newest else 1
        else:
            async for _ in self._feed():
                yield
        async for _ in self.issues.read():
            yield

    async def _feed(self) -> AsyncIterator[None]:
        """Ask for everything that was deleted or changed with others, as Backlog lists it."""
        while True:
            rows = await self.reading.api.rows(
                f"/projects/{self.reading.position.id}/activities",
                activityTypeId=FEED,
                minId=self.reading.position.activity,
                order="asc",
                count=ROWS,
            )
            new = [row for row in rows if id_of(row) > self.reading.position.activity]
            for row in new:
                content = row.get("content")
                await self._happened(row.get("type"), content if isinstance(content, dict) else {})
                self.reading.position.activity = max(self.reading.position.activity, id_of(row))
            yield
            if not new:
                return

    async def _happened(self, kind: object, content: dict[str, Any]) -> None:
        if kind == ISSUE_DELETED:
            await self.issues.ask(str(content.get("key_id")))
        elif kind == ISSUES_CHANGED:
            links = content.get("link")
            for each in links if isinstance(links, list) else ():
                if isinstance(each, dict):
                    await self.issues.ask(str(each.get("key_id")))
        elif kind == WIKI_DELETED:
            await self.pages.ask("wikis", str(content.get("id")))
        elif kind == DOCUMENT_DELETED:
            await self.pages.ask("documents", str(content.get("id")))
