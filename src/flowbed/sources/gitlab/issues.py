"""Read the issues or merge requests of a project: those that changed, and at times all, to notice what is gone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.sources.gitlab import position as stored
from flowbed.sources.gitlab.api import Withheld
from flowbed.sources.gitlab.kinds import SIGNS, is_on
from flowbed.sources.gitlab.reading import field_of
from flowbed.sources.gitlab.rendering import identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.records import Page
    from flowbed.sources.gitlab.position import Listing
    from flowbed.sources.gitlab.reading import Reading

# A new note moves its issue at most once a minute, and clocks of several servers differ: so much is listed again.
OVERLAP = timedelta(minutes=5)


@dataclass(frozen=True)
class Issues:
    """The issues of a project, or its merge requests, as `kind` says."""

    reading: Reading
    kind: str

    @property
    def _listing(self) -> Listing:
        listing: Listing = getattr(self.reading.position, self.kind)
        return listing

    @property
    def _path(self) -> str:
        return f"/projects/{self.reading.position.number}/{self.kind}"

    async def changed(self) -> AsyncIterator[Page]:
        """Read what changed since the last fetch.

        Raises:
            Withheld: GitLab does not show them.
        """
        listing, api = self._listing, self.reading.api
        # What changes from now on is for the next fetch too: an end that moves may never be reached.
        end = _written(datetime.fromtimestamp(api.date or self.reading.now, UTC))

        def over(rows: list[Any]) -> bool:
            return bool(rows) and min(map(_changed, rows)) > end

        listed = api.listed(self._path, after=_earlier(listing.high), order="updated", over=over)
        async for rows in listed:
            for row in rows:
                await self._add(row)
            listing.high = max([listing.high, *(min(_changed(row), end) for row in rows)])
            for page in self.reading.found.pages():
                yield page

    async def swept(self) -> AsyncIterator[Page]:
        """List everything: what is missing is asked for one by one, and what has other notes is read again.

        Raises:
            Withheld: GitLab does not show them.
        """
        listing, reading = self._listing, self.reading
        # Named before the listing begins: what is created meanwhile cannot seem to be missing.
        missing = dict(listing.known)
        async for rows in reading.api.listed(self._path, after="", order="created"):
            for row in rows:
                iid = str(field_of(row, "iid"))
                missing.pop(iid, None)
                if listing.known.get(iid) != field_of(row, "user_notes_count"):
                    await self._add(row)
            for page in reading.found.pages():
                yield page
        lost = [iid for iid in missing if await self._is_lost(iid)]
        if lost:
            # They may have answered "not found" because all of the project does.
            await reading.open()
        for iid in lost if is_on(reading.project, self.kind) else ():
            self._gone(iid)

    async def _is_lost(self, iid: str) -> bool:
        """Ask for one that was not listed; add it if it is there after all."""
        try:
            await self._add(await self.reading.api.get(f"{self._path}/{iid}"))
        except Withheld as error:
            return error.missing
        return False

    def _gone(self, iid: str) -> None:
        if self._listing.known.pop(iid, None) is not None:
            self.reading.removed(f"{self.reading.position.number}{SIGNS[self.kind]}{iid}")

    async def _add(self, row: Any) -> None:  # any JSON value
        """Read the notes of one, and add its document, once in a fetch."""
        reading, found = self.reading, self.reading.found
        try:
            name = identity(row if isinstance(row, dict) else {})
        except Rejected as error:
            reading.malformed(reading.location, str(error), kind=self.kind)
            return
        if name in found.seen:
            return
        found.seen.add(name)
        iid = str(row["iid"])
        if reading.rendering.hides(row):
            self._gone(iid)
            return
        count = row.get("user_notes_count")
        try:
            notes = await reading.api.notes(f"{self._path}/{iid}") if count != 0 else []
            reading.answered(name, row, notes)
        except Withheld:
            return  # deleted since it was listed, which the next sweep notices
        except Rejected as error:
            reading.malformed(name, str(error), document=name)
        self._listing.known[iid] = count if isinstance(count, int) else stored.UNREAD


def _written(moment: datetime) -> str:
    """Write a time in UTC with milliseconds, so that later times sort after earlier ones."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _utc(time: Any) -> str:  # any JSON value
    """Return a time of GitLab's, whose zone is that of its host, in UTC; empty if it is none."""
    try:
        return _written(datetime.fromisoformat(time))
    except (ValueError, TypeError, OverflowError):
        return ""


def _changed(row: Any) -> str:  # any JSON value
    return _utc(field_of(row, "updated_at"))


def _earlier(high: str) -> str:
    """Return the time from which to list again."""
    return _written(datetime.fromisoformat(high) - OVERLAP) if high else ""
