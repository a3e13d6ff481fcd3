"""Read a Slack workspace over its Web API: what is new, what changed, and what is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Rejected
from flowbed.records import Entry, Page, Problem
from flowbed.sources.slack import positions as stored
from flowbed.sources.slack.api import (
    OF_THE_CHANNEL,
    OF_THE_POSITION,
    THREAD_GONE,
    SlackApi,
    SlackRefusal,
    next_cursor,
    open_http,
)
from flowbed.sources.slack.links import ANY_WORKSPACE, linked_in_workspace
from flowbed.sources.slack.messages import (
    Channel,
    checked,
    day_of,
    etag,
    has_text,
    is_timestamp,
    link,
    message_hash,
    read_document,
    thread_of,
    timestamp,
)
from flowbed.sources.slack.positions import Position
from flowbed.sources.slack.workspace import open_workspace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence

    from flowbed.records import Document, Linked
    from flowbed.sources.slack.positions import Thread
    from flowbed.sources.slack.text import Names
    from flowbed.sources.slack.workspace import Workspace

DAY = 86_400  # seconds
# What was posted this long before the listing (seconds) may not be visible yet, so it is listed by the next fetch.
SETTLING = 60
# A thread with a reply within `lookback` is read again after this time (seconds): an edited reply moves nothing.
RECHECK = DAY
# Old days are checked in slices of this many pages for each channel and fetch.
SLICE = 1
# A listing that restarts more often than this because its position expired does not advance.
RESTARTS = 5
# The most replies of a page, as Slack advises.
REPLIES = 200
# Channels that are named in a message; the others are counted.
SHOWN = 20
# Malformed messages that are reported one by one.
MOST_PROBLEMS = 20


@dataclass(frozen=True, kw_only=True)
class SlackOptions:
    """What to read: the names or ids of channels (all where the app is a member), and days; `page` is the page size."""

    channels: tuple[str, ...]
    lookback: int
    page: int


@dataclass(frozen=True, kw_only=True)
class Web:
    """A source of the threads and days of a workspace; a document's id is that of `Export`."""

    location: str
    token: str = field(repr=False)
    options: SlackOptions
    sleep: Callable[[float], Awaitable[None]]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List what changed since `cursor`, a slice of what is older, and what is gone; each page has its cursor."""
        http = open_http(self.location, self.token)
        try:
            api = SlackApi(http=http, sleep=self.sleep)
            workspace = await open_workspace(api, self.options.channels)
            reading = _Reading(api, workspace, self.options, stored.read(cursor), first=not cursor)
            async for page in reading.pages():
                yield page
        finally:
            await http.aclose()

    async def look(self) -> tuple[str, ...]:
        """Ask which channels the app can read, and which it cannot."""
        http = open_http(self.location, self.token)
        try:
            api = SlackApi(http=http, sleep=self.sleep, waits=())
            seen = await open_workspace(api, self.options.channels)
        finally:
            await http.aclose()
        lines = [f"Slack workspace {seen.team}: reads {_listing([each.label for each in seen.channels])}"]
        if seen.unread and not self.options.channels:
            lines.append(f"does not read {_listing(seen.unread)}: the app is not in them")
        return (*lines, *(f"{each.subject}: {each.reason}" for each in seen.problems))

    def linked(self, link: str, cursor: str) -> Linked | None:
        """Return what a link to a message points to, and what is known of it where it is missing."""
        return linked_in_workspace(link, ANY_WORKSPACE, stored.read(cursor), self.options.channels)


@dataclass
class _Found:
    """The documents of a part of a channel, by the ends of their ids; those without text are gone."""

    documents: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


Step = Callable[[Channel, Position, int], AsyncIterator[_Found]]


@dataclass
class _Reading:
    """One fetch."""

    api: SlackApi
    workspace: Workspace
    options: SlackOptions
    positions: dict[str, Position]
    first: bool
    seen: set[str] = field(default_factory=set)
    limited: set[str] = field(default_factory=set)
    trouble: bool = False

    async def pages(self) -> AsyncIterator[Page]:
        # The end is fixed at the start: a moving end would never be reached.
        end = self.workspace.date - SETTLING
        problems = list(self.workspace.problems)
        self.trouble = bool(problems)
        if problems:
            yield Page(problems=problems, cursor=self._cursor())
        channels = sorted(
            self.workspace.channels, key=lambda each: self.positions.get(each.id, Position()).listed
        )
        for step in (self._recent, self._fill, self._old_threads, self._sweep):
            for channel in channels:
                async for page in self._step(step, channel, end):
                    yield page
        whole = all(self.positions[each.id].whole for each in channels)
        complete = self.first and whole and not self.trouble and not self.limited
        yield Page(cursor=self._cursor(), complete=complete)

    async def _step(self, step: Step, channel: Channel, end: int) -> AsyncIterator[Page]:
        """Read a part of a channel. A channel that is refused keeps its position, and the others go on."""
        position = self.positions.setdefault(channel.id, Position())
        before = position.copy()
        try:
            async for found in step(channel, position, end):
                page = self._page(channel, found)
                if page.entries or page.gone or page.problems:
                    yield page
                before = position.copy()
        except SlackRefusal as error:
            self.positions[channel.id] = before
            self.trouble = True
            reason = f"{error}; what is indexed of it is kept, and the next run tries again"
            problem = Problem(subject=channel.label, reason=reason, skipped=True, folder=f"{channel.id}/")
            yield Page(problems=[problem], cursor=self._cursor())

    def _cursor(self) -> str:
        return stored.written(self.positions)

    def _page(self, channel: Channel, found: _Found) -> Page:
        entries, gone = [], []
        for key, messages in found.documents.items():
            name = f"{channel.id}/{key}"
            if name in self.seen:
                continue
            self.seen.add(name)
            if messages:
                raw = [orjson.dumps(each) for each in messages]
                read = partial(_document, channel, key, raw, self.workspace.names, self.workspace.base)
                entries.append(
                    Entry(document=name, etag=etag(channel, messages, self.workspace.base), read=read)
                )
            elif not self.first:
                gone.append(name)
        if found.problems:
            self.trouble = True
        return Page(entries=entries, gone=gone, problems=found.problems, cursor=self._cursor())

    async def _recent(self, channel: Channel, position: Position, end: int) -> AsyncIterator[_Found]:
        """List everything since the look-back again: it may have been edited, deleted or answered."""
        if position.filled is None:
            return
        oldest = max(_midnight(min(position.listed, end - self.options.lookback)), position.filled)
        async for found, _ in self._days(channel, position, oldest=oldest, end=end):
            yield found
        position.listed = end

    async def _fill(self, channel: Channel, position: Position, end: int) -> AsyncIterator[_Found]:
        """List what was never listed, newest first."""
        if position.whole:
            return
        if position.filled is None:
            position.listed = end
        bound = end if position.filled is None else position.filled
        async for found, reached in self._days(channel, position, oldest=0, end=bound):
            position.filled = reached
            position.whole = reached == 0
            yield found

    async def _old_threads(self, channel: Channel, position: Position, end: int) -> AsyncIterator[_Found]:
        """Read threads again that were answered lately: an edited or deleted reply may move nothing on the parent."""
        for thread, (newest, _, checked_at, _) in sorted(position.threads.items()):
            lively = timestamp(newest)[0] >= end - self.options.lookback
            if f"{channel.id}/t/{thread}" in self.seen or not lively or checked_at > end - RECHECK:
                continue
            found = _Found()
            await self._thread(channel, position, thread, found, end)
            yield found

    async def _sweep(self, channel: Channel, position: Position, end: int) -> AsyncIterator[_Found]:
        """List some old days again, each fetch the ones before: late replies, old edits and old deletions."""
        recent = _midnight(end - self.options.lookback)
        if not position.whole:
            return
        bound = position.swept if position.swept is not None else recent
        pages = 0
        async for found, reached in self._days(
            channel, position, oldest=0, end=min(bound, recent), every_thread=True
        ):
            position.swept = reached if reached > 0 else None
            yield found
            pages += 1
            if pages >= SLICE:
                return

    async def _days(
        self, channel: Channel, position: Position, *, oldest: int, end: int, every_thread: bool = False
    ) -> AsyncIterator[tuple[_Found, int]]:
        """List the days from `end` back to `oldest`, and read their threads; also yield down to where that is complete.

        A bound is the start of a day, or `end` of the whole listing.
        """
        held: dict[str, dict[str, Any]] = {}
        found = _Found()
        upper = end
        async for messages, is_last in self._history(channel, oldest=oldest, end=end):
            for message in self._checked(channel, messages, found):
                held[message["ts"]] = message
            lowest = min((timestamp(ts)[0] for ts in held), default=upper)
            lower = oldest if is_last else _midnight(lowest) + DAY
            if lower >= upper and not is_last:
                continue
            part = {ts: each for ts, each in held.items() if timestamp(ts)[0] >= lower}
            held = {ts: each for ts, each in held.items() if ts not in part}
            await self._collect(
                channel, position, part, found, (lower, upper), every_thread=every_thread, now=end
            )
            yield found, lower
            found, upper = _Found(), lower

    async def _history(
        self, channel: Channel, *, oldest: int, end: int
    ) -> AsyncIterator[tuple[list[Any], bool]]:
        """Yield the pages of a channel's history, newest first, and whether each is the last."""
        # Inclusive, and one counter before the end: a message at the end itself belongs to what follows.
        latest, cursor, restarts = f"{end - 1}.999999", "", 0
        lowest = latest
        while True:
            try:
                answer = await self.api.call(
                    "conversations.history",
                    channel=channel.id,
                    oldest=f"{oldest}.000000",
                    latest=latest,
                    limit=self.options.page,
                    cursor=cursor,
                    inclusive="true",
                )
            except SlackRefusal as error:
                if error.code not in OF_THE_POSITION or restarts >= RESTARTS:
                    raise
                # Begin again at the oldest message so far; what is listed twice counts once.
                latest, cursor, restarts = lowest, "", restarts + 1
                continue
            restarts = 0
            if answer.get("is_limited"):
                self.limited.add(channel.id)
            messages = answer.get("messages")
            messages = messages if isinstance(messages, list) else []
            stamps = [
                each["ts"] for each in messages if isinstance(each, dict) and is_timestamp(each.get("ts"))
            ]
            lowest = min([lowest, *stamps], key=timestamp)
            cursor = next_cursor(answer)
            yield messages, not cursor
            if not cursor:
                return

    async def _collect(  # noqa: C901 - one step for each kind of message
        self,
        channel: Channel,
        position: Position,
        listed: dict[str, dict[str, Any]],
        found: _Found,
        bounds: tuple[int, int],
        *,
        every_thread: bool,
        now: int,
    ) -> None:
        """Put the days of a part of the history, and its threads, among the documents found."""
        lower, upper = bounds
        if channel.id in self.limited:
            # Older messages are hidden by the plan of the workspace, which is no deletion.
            lower = max(lower, min(map(_seconds, listed), default=upper))
        by_day: dict[int, list[dict[str, Any]]] = {
            day: [] for day in position.days if lower <= day * DAY < upper
        }
        for ts, message in sorted(listed.items(), key=lambda item: timestamp(item[0])):
            thread = thread_of(message)
            if thread:
                parent = message_hash(message) if thread == ts else None
                if every_thread or _moved(position.threads.get(thread), message, parent):
                    await self._thread(channel, position, thread, found, now, parent=parent)
                continue
            # It may have had replies before, all of them deleted.
            if position.threads.pop(ts, None) is not None:
                found.documents[f"t/{ts}"] = []
            if has_text(message):
                by_day.setdefault(_seconds(ts) // DAY, []).append(message)
        for day, messages in by_day.items():
            found.documents[f"d/{day_of(day * DAY)}"] = messages
        position.days -= {day for day, messages in by_day.items() if not messages}
        position.days |= {day for day, messages in by_day.items() if messages}
        for thread in [each for each in position.threads if each not in listed]:
            if lower <= _seconds(thread) < upper:
                await self._thread(channel, position, thread, found, now)

    async def _thread(
        self,
        channel: Channel,
        position: Position,
        thread: str,
        found: _Found,
        now: int,
        *,
        parent: int | None = None,
    ) -> None:
        """Read a thread; one that does not exist any more is gone. `parent` is the hash of its parent, if listed."""
        key = f"t/{thread}"
        if f"{channel.id}/{key}" in self.seen or key in found.documents:
            return
        messages: dict[str, dict[str, Any]] = {}
        try:
            async for answer in self.api.pages(
                "conversations.replies", channel=channel.id, ts=thread, limit=min(self.options.page, REPLIES)
            ):
                listed = answer.get("messages")
                # Later pages may repeat the parent.
                for each in self._checked(channel, listed if isinstance(listed, list) else [], found):
                    messages[each["ts"]] = each
        except SlackRefusal as error:
            if error.code in OF_THE_CHANNEL:
                raise
            if error.code != THREAD_GONE:
                # One thread must not keep the others from being read.
                problem = Problem(
                    subject=link(self.workspace.base, channel.id, thread), reason=str(error), skipped=True
                )
                found.problems.append(replace(problem, document=f"{channel.id}/{key}"))
                return
        ordered = sorted(messages.values(), key=lambda each: timestamp(each["ts"]))
        found.documents[key] = [each for each in ordered if has_text(each)]
        if not ordered:
            position.threads.pop(thread, None)
            return
        replies = [each["ts"] for each in ordered if each["ts"] != thread]
        known = position.threads.get(thread)
        mark = parent if parent is not None else known[3] if known else 0
        position.threads[thread] = (replies[-1] if replies else thread, len(replies), now, mark)

    def _checked(self, channel: Channel, messages: Iterable[Any], found: _Found) -> Iterator[dict[str, Any]]:
        for message in messages:
            try:
                kept = checked(message)
            except Rejected as error:
                if len(found.problems) < MOST_PROBLEMS:
                    subject = (
                        f"{channel.label}: {message.get('ts') if isinstance(message, dict) else 'a message'}"
                    )
                    found.problems.append(Problem(subject=subject, reason=str(error), skipped=True))
                continue
            yield kept


def _document(channel: Channel, key: str, raw: Sequence[bytes], names: Names, base: str) -> Document:
    return read_document(channel, key, [orjson.loads(each) for each in raw], names, base)


def _moved(known: Thread | None, message: Mapping[str, Any], parent: int | None) -> bool:
    """Return whether a thread must be read again, by its parent, or by a reply that was also sent to the channel."""
    if known is None:
        return True
    newest, count, _, hash_ = known
    if parent is None:
        return timestamp(newest) < timestamp(message["ts"])
    return (newest, count, hash_) != (message.get("latest_reply", ""), message["reply_count"], parent)


def _listing(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:SHOWN])
    return (f"{shown} and {len(labels) - SHOWN:,} more" if len(labels) > SHOWN else shown) or "no channel"


def _midnight(seconds: int) -> int:
    return max(0, seconds) // DAY * DAY


def _seconds(ts: str) -> int:
    return timestamp(ts)[0]
