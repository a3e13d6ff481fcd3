"""Read the issues of a project: those that changed, and at times all, to notice what is gone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.sources.backlog.api import ROWS, NoAnswer, Withheld
from flowbed.sources.backlog.reading import DAY, SETTLING, SLICE, STEP, Answer, id_of
from flowbed.sources.backlog.rendering import identity, moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.sources.backlog.reading import Reading

# Clocks of several servers differ: so much is listed again (seconds).
OVERLAP = 300
# Listings that are begun again because rows moved meanwhile.
ATTEMPTS = 4


@dataclass(frozen=True)
class Issues:
    """The issues of a project; `sweep` is after how many seconds all of them are listed again."""

    reading: Reading
    sweep: int

    async def read(self) -> AsyncIterator[None]:
        """Read what changed, and ask for some again; yield where the position says what was read."""
        position, now = self.reading.position, self.reading.now
        # Of an interrupted first fetch, some issues are known.
        due = bool(position.issues) and now - position.swept >= self.sweep
        async for _ in self._changed():
            yield
        if due:
            async for _ in self._swept():
                yield
        elif not position.swept:
            position.swept = now
        async for _ in self._asked_again():
            yield

    async def _changed(self) -> AsyncIterator[None]:
        """Read the issues that changed since the last fetch, newest first."""
        position = self.reading.position
        query: dict[str, Any] = {"sort": "updated", "order": "desc", "projectId": [position.id]}
        if position.high:
            # Backlog takes a day here, and does not say of which time zone.
            query["updatedSince"] = (
                f"{datetime.fromtimestamp(position.high, UTC) - timedelta(days=1):%Y-%m-%d}"
            )
        else:
            self.reading.unread = await self._count() - len(position.issues)
        highest, listed = position.high, set[int]()
        async for rows in self._without_gaps(query, listed, since=position.high - OVERLAP):
            for row in rows:
                highest = max(highest, self.reading.moment(row))
                await self._add_issue(row)
            yield
        # What changed before its page was listed is at the top now; what changed after that is for the next fetch.
        for offset in range(0, ATTEMPTS * ROWS, ROWS):
            rows = await self.reading.api.rows("/issues", **query, offset=offset, count=ROWS)
            new = [row for row in rows if id_of(row) not in listed]
            for row in new:
                await self._add_issue(row)
            yield
            if not new:
                break
        position.high, self.reading.unread = highest, 0

    async def _without_gaps(
        self, query: dict[str, Any], listed: set[int], *, since: int
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield pages of issues that overlap, so that none is missed that moves meanwhile; note what was `listed`."""
        offset = attempts = 0
        while True:
            rows = await self.reading.api.rows("/issues", **query, offset=offset, count=ROWS)
            if offset and rows and id_of(rows[0]) not in listed:
                # Rows were deleted meanwhile: what they pulled up was not listed.
                attempts += 1
                if attempts > ATTEMPTS:
                    raise NoAnswer(
                        f"issues of {self.reading.label} are deleted faster than they can be listed"
                    )
                offset = max(0, offset - STEP)
                continue
            listed.update(map(id_of, rows))
            yield rows
            if len(rows) < ROWS or self.reading.moment(rows[-1]) < since:
                return
            offset += STEP

    async def _swept(self) -> AsyncIterator[None]:
        """List all issues, and ask for those that are missing, unless their number moved meanwhile."""
        number = self.reading.position.id
        for _ in range(ATTEMPTS):
            listed: set[str] = set()
            before = await self._count()
            for offset in range(0, before + ROWS, ROWS):
                rows = await self.reading.api.rows(
                    "/issues", projectId=[number], sort="created", order="asc", offset=offset, count=ROWS
                )
                for row in rows:
                    listed.add(str(row.get("keyId")))
                    await self._add_issue(row)
                yield
                if len(rows) < ROWS:
                    break
            if before == await self._count() == len(listed):
                for name in [name for name in self.reading.position.issues if name not in listed]:
                    await self.ask(name)
                self.reading.position.swept = self.reading.now
                return

    async def _count(self) -> int:
        answer = await self.reading.api.get("/issues/count", projectId=[self.reading.position.id])
        count = answer.get("count") if isinstance(answer, dict) else None
        return count if isinstance(count, int) else -1

    async def _asked_again(self) -> AsyncIterator[None]:
        """Read some issues again, those read longest ago first."""
        old = sorted(
            (at, name)
            for name, (_, _, at) in self.reading.position.issues.items()
            if at <= self.reading.now - DAY
        )
        for _, name in old[:SLICE]:
            if f"{self.reading.position.id}#{name}" not in self.reading.seen:
                await self.ask(name, again=True)
        yield

    async def ask(self, name: str, *, again: bool = False) -> None:
        """Ask for one issue: it is gone if Backlog does not know it, and still shows its project."""
        known = self.reading.position.issues.get(name)
        if known is None:
            return
        try:
            row = await self.reading.api.get(f"/issues/{known[0]}")
        except Withheld as error:
            if not error.missing:
                self.reading.keep(f"{self.reading.position.id}#{name}", error)
                return
            await self.reading.api.get(f"/projects/{self.reading.position.id}")
        else:
            if (
                isinstance(row, dict)
                and row.get("projectId") == self.reading.position.id
                and str(row.get("keyId")) == name
            ):
                await self._add_issue(row, again=again)
                return
            # It was moved to another project.
        del self.reading.position.issues[name]
        self.reading.found.gone.append(f"{self.reading.position.id}#{name}")

    async def _add_issue(self, row: dict[str, Any], *, again: bool = False) -> None:
        """Read the comments of an issue that changed, and add its document, once in a fetch."""
        try:
            name, updated = identity(row), moment(row)
        except Rejected as error:
            self.reading.malformed(f"{self.reading.label}: {row.get('issueKey', 'an issue')}", error)
            return
        if row.get("projectId") != self.reading.position.id or name in self.reading.seen:
            return
        number = str(row["keyId"])
        known = self.reading.position.issues.get(number)
        if not again and known is not None and known[1] == updated and known[2] >= updated + SETTLING:
            return
        try:
            comments = await self._comments(row["id"])
        except Withheld:
            return  # deleted since it was listed, which the next fetch notices
        self.reading.seen.add(name)
        self.reading.unread -= number not in self.reading.position.issues
        self.reading.position.issues[number] = (row["id"], updated, self.reading.now)
        self.reading.found.answers.append(Answer(name, row, comments, self.reading.position.notation))

    async def _comments(self, issue: int) -> list[Any]:
        """Return all comments of an issue, oldest first."""
        found: dict[int, Any] = {}
        query: dict[str, Any] = {"count": ROWS, "order": "asc"}
        while True:
            rows = await self.reading.api.rows(f"/issues/{issue}/comments", **query)
            new = [row for row in rows if id_of(row) not in found]
            found |= {id_of(row): row for row in new}
            if len(rows) < ROWS or not new:
                return [each for _, each in sorted(found.items())]
            query["minId"] = max(found)
