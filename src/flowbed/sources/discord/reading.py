"""Read one channel, step by step: what is recent, what was never read, its threads, and a part of what is older."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Problem, canonical
from flowbed.sources.apis.estimate import history_calls
from flowbed.sources.discord.api import UNKNOWN_CHANNEL, UNKNOWN_MESSAGE, DiscordApi, DiscordRefusal
from flowbed.sources.discord.messages import (
    Place,
    day_key,
    day_of,
    first_id,
    from_api,
    has_text,
    is_by_a_person,
    is_id,
    message_hash,
    milliseconds,
)
from flowbed.sources.discord.positions import Position
from flowbed.sources.discord.server import NO_CONTENT, TEXT, WITH_MESSAGES, WITH_THREADS, Channel, threads_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

DAY = 86_400  # seconds
# Messages and threads of a page, the most that Discord gives.
PAGE = 100
# Active threads are read again after this time (seconds), and archived ones listed: an edit moves nothing.
RECHECK = DAY
# Old days are checked in slices of this many pages for each channel and fetch, and so many archived threads are read
# again.
SLICE, SLICE_THREADS = 1, 2
# A thread may be archived while a fetch lists them (seconds).
OVERLAP = 600
# Calls of a thread: one page of messages, and an empty one, which only is certainly the last.
CALLS = 2
# Malformed messages that are reported one by one.
MOST_PROBLEMS = 20
# If so many messages of people have no content at all, the bot may not read it.
SILENT = 50


@dataclass
class Content:
    """How many messages of people were seen, and whether any of them had content."""

    seen: int = 0
    found: bool = False

    def note(self, messages: list[Any]) -> None:
        """Note a page of messages.

        Raises:
            Misconfigured: the bot may not read the content of messages.
        """
        people = [each for each in messages if isinstance(each, dict) and is_by_a_person(each)]
        self.seen += len(people)
        self.found |= any(
            each.get(name) for each in people for name in ("content", "embeds", "attachments", "components")
        )
        if self.seen >= SILENT and not self.found:
            raise Misconfigured(NO_CONTENT)


@dataclass
class Found:
    """Documents of a channel by the ends of their ids, and the position after them; those without text are gone.

    `titles` are the names of threads.
    """

    documents: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    position: Position = field(default_factory=Position)


@dataclass(kw_only=True)
class ChannelReading:
    """One fetch of a channel from `position` on, up to `end` (seconds since 1970).

    `active` are its active threads, `lookback` is in seconds. `rank` is the step that it is at, and `done` whether all
    are. For estimates: its past is filled from `began` down to `lower`, with so many calls, and so many threads are
    `waiting`.
    """

    api: DiscordApi
    place: Place
    channel: Channel
    position: Position
    active: list[dict[str, Any]]
    end: int
    lookback: int
    content: Content
    rank: int = 0
    done: bool = False
    readable: bool = False
    began: int = 0
    lower: int = 0
    history_calls: int = 0
    waiting: int = 0
    seen: set[str] = field(default_factory=set)

    def left(self) -> int:
        """Estimate how many calls are left, for the past that was never read, and for the threads that changed."""
        if self.done:
            return 0
        unread = self.channel.kind in WITH_MESSAGES and not self.position.whole
        created = milliseconds(int(self.channel.id)) // 1_000
        past = history_calls(self.history_calls, began=self.began, lower=self.lower, created=created)
        return CALLS * self.waiting + (past if unread else 0)

    async def steps(self) -> AsyncGenerator[Found]:
        """Read the channel, and yield what was found with the position after it.

        Raises:
            DiscordRefusal: the bot may not read it any more.
            NoAnswer: Discord does not answer.
        """
        messages = self.channel.kind in WITH_MESSAGES
        steps = [self._recent, self._fill] if messages else []
        steps += [self._threads] if self.channel.kind in WITH_THREADS else []
        steps += [self._sweep] if messages else []
        self.waiting = sum(self._has_moved(each["id"], each) for each in self.active)
        for self.rank, step in enumerate(steps):
            async for found in step():
                yield self._reached(found)
        if not messages:
            self.position.filled, self.position.listed, self.position.whole = 0, self.end, True
        self.done = True
        yield self._reached(Found())

    def _reached(self, found: Found) -> Found:
        self.seen.update(found.documents)
        found.position = self.position.copy()
        return found

    async def _recent(self) -> AsyncIterator[Found]:
        """List everything since the look-back again: it may have been edited or deleted."""
        if self.position.filled is None:
            return
        oldest = max(min(self.position.listed, self.end - self.lookback) // DAY, self.position.filled)
        async for found, _ in self._days(oldest=oldest, end=first_id(self.end)):
            yield found
        self.position.listed = self.end

    async def _fill(self) -> AsyncIterator[Found]:
        """List what was never listed, newest first."""
        position = self.position
        if position.whole:
            return
        if position.filled is None:
            position.listed = self.end
        self.began = self.lower = self.end if position.filled is None else position.filled * DAY
        self.history_calls = 0
        async for found, reached in self._days(oldest=0, end=first_id(self.began)):
            position.filled, position.whole = reached, reached == 0
            self.lower = reached * DAY
            yield found

    async def _sweep(self) -> AsyncIterator[Found]:
        """List some old days again, each fetch the ones before: old edits and old deletions."""
        position, recent = self.position, (self.end - self.lookback) // DAY
        if not position.whole:
            return
        bound = min(position.swept if position.swept is not None else recent, recent)
        pages = 0
        async for found, reached in self._days(oldest=0, end=first_id(max(0, bound) * DAY)):
            position.swept = reached if reached > 0 else None
            yield found
            pages += 1
            if pages >= SLICE:
                return

    async def _days(self, *, oldest: int, end: int) -> AsyncIterator[tuple[Found, int]]:
        """List the messages before the id `end` back to the day `oldest`; yield also down to which day is whole."""
        held: dict[int, dict[str, Any]] = {}
        found, upper = Found(), end
        async for messages, lowest in self._history(
            self.channel.id, before=end, oldest=first_id(oldest * DAY)
        ):
            for message in self._kept(self.place, messages, found):
                held[int(message["id"])] = message
            day = oldest if lowest is None else day_of(lowest) + 1
            lower = first_id(day * DAY)
            if lower >= upper and lowest is not None:
                continue
            part = {id_: each for id_, each in held.items() if lower <= id_ < upper}
            held = {id_: each for id_, each in held.items() if id_ < lower}
            await self._collect(part, found, day, upper)
            yield found, day
            found, upper = Found(), lower

    async def _history(
        self, channel: str, *, before: int, oldest: int = 0
    ) -> AsyncIterator[tuple[list[Any], int | None]]:
        """Yield the pages of a channel or thread, newest first, and the lowest id of each; None for the last one."""
        while before > oldest:
            messages = await self.api.get("/channels/{}/messages", channel, before=before, limit=PAGE)
            self.history_calls += channel == self.channel.id
            if not isinstance(messages, list):
                raise DiscordRefusal(f"Discord lists no messages of {self.place.label}", status=200, number=0)
            self.content.note(messages)
            ids = [int(each["id"]) for each in messages if isinstance(each, dict) and is_id(each.get("id"))]
            lowest = min(ids, default=before)
            self.readable |= bool(ids)
            if not messages:
                # Only an empty page is certainly the last.
                if not self.readable:
                    await self._require_history()
                break
            if lowest >= before:
                raise DiscordRefusal(
                    f"Discord lists messages of {self.place.label} that are not older",
                    status=200,
                    number=0,
                )
            if lowest <= oldest:
                yield messages, None
                return
            before = lowest
            yield messages, lowest
        yield [], None

    async def _require_history(self) -> None:
        """Check that a channel that lists nothing may be read: without the permission, Discord answers an empty list.

        Raises:
            DiscordRefusal: it may not.
        """
        if self.channel.kind in WITH_MESSAGES and self.channel.last:
            try:
                await self.api.get(f"/channels/{{}}/messages/{self.channel.last}", self.channel.id)
            except DiscordRefusal as error:
                if error.number != UNKNOWN_MESSAGE:
                    raise DiscordRefusal(
                        "the bot lacks the permission Read Message History",
                        status=error.status,
                        number=error.number,
                    ) from error
        self.readable = True

    async def _collect(self, listed: dict[int, dict[str, Any]], found: Found, lower: int, upper: int) -> None:
        """Put the days from `lower` up to the id `upper` among the documents found, and threads begun in them.

        A thread is read again if the message that it was begun on has changed.
        """
        position = self.position
        by_day: dict[int, list[dict[str, Any]]] = {
            day: [] for day in position.days if lower <= day and first_id(day * DAY) < upper
        }
        for id_, message in sorted(listed.items()):
            if has_text(message):
                by_day.setdefault(day_of(id_), []).append(message)
        for day, messages in by_day.items():
            found.documents[day_key(day)] = messages
        position.days -= {day for day, messages in by_day.items() if not messages}
        position.days |= {day for day, messages in by_day.items() if messages}
        for thread, (_, at, mark) in list(position.threads.items()):
            if first_id(lower * DAY) <= int(thread) < upper and f"t/{thread}" not in self.seen:
                begun = listed.get(int(thread))
                if mark != (message_hash(begun) if begun and has_text(begun) else 0):
                    position.threads[thread] = (0, at, mark)

    async def _threads(self) -> AsyncIterator[Found]:
        """Read the threads that have changed, and some that are old."""
        position = self.position
        due = position.archived <= self.end - RECHECK
        listed = {each["id"]: each for each in self.active}
        found = Found()
        whole = await self._archived(listed, found, since=0 if due else position.threads_listed)
        known = position.threads
        old = sorted(
            (known[name][1], name)
            for name, each in listed.items()
            if name in known and _is_archived(each) and known[name][1] <= self.end - RECHECK
        )
        again = {name for _, name in old[:SLICE_THREADS]}
        moved = [name for name, each in listed.items() if name in again or self._has_moved(name, each)]
        self.waiting = len(moved)
        for name in sorted(moved, key=int, reverse=True):
            await self._thread(listed[name], found)
            self.waiting -= 1
            yield found
            found = Found()
        for name in [name for name, (state, _, _) in known.items() if not state and name not in listed]:
            # An archived one, begun on a message that has changed.
            await self._missing(name, found)
        if due and whole:
            for name in [name for name in known if name not in listed]:
                await self._missing(name, found)
            position.archived = self.end
        if whole:
            position.threads_listed = self.end
        yield found

    def _has_moved(self, name: str, thread: dict[str, Any]) -> bool:
        """Tell whether a thread has changed, or may have been edited since it was read."""
        state, at, _ = self.position.threads.get(name, (0, 0, 0))
        return state != _state(thread) or (not _is_archived(thread) and at <= self.end - RECHECK)

    async def _archived(self, listed: dict[str, dict[str, Any]], found: Found, *, since: int) -> bool:
        """Add the threads that were archived since then to `listed`; return whether all of them could be."""
        routes = ["/channels/{}/threads/archived/public"]
        routes += ["/channels/{}/threads/archived/private"] if self.channel.kind == TEXT else []
        try:
            for route in routes:
                await self._archive(route, listed, since)
        except DiscordRefusal as error:
            if "private" not in route:
                reason = f"archived threads are not read: {error}"
                found.problems.append(Problem(subject=self.channel.label, reason=reason, skipped=True))
                return False
            # Without the permission Manage Threads, those that the bot is in.
            return await self._joined(listed)
        return True

    async def _archive(self, route: str, listed: dict[str, dict[str, Any]], since: int) -> None:
        query: dict[str, str | int] = {"limit": PAGE}
        while True:
            answer = await self.api.get(route, self.channel.id, **query)
            threads = threads_of(answer)
            new = [each for each in threads if each["id"] not in listed]
            listed |= {each["id"]: each for each in new}
            oldest = min((when for each in threads if (when := _archived_at(each))), default=None)
            if (
                not answer.get("has_more")
                or not new
                or oldest is None
                or oldest.timestamp() < since - OVERLAP
            ):
                return
            # Others of the same time may have been cut off.
            query["before"] = (oldest + timedelta(milliseconds=1)).isoformat()

    async def _joined(self, listed: dict[str, dict[str, Any]]) -> bool:
        query: dict[str, str | int] = {"limit": PAGE}
        try:
            while True:
                answer = await self.api.get(
                    "/channels/{}/users/@me/threads/archived/private", self.channel.id, **query
                )
                threads = threads_of(answer)
                listed |= {each["id"]: each for each in threads}
                if not answer.get("has_more") or not threads:
                    return True
                query["before"] = threads[-1]["id"]
        except DiscordRefusal:
            return False

    async def _thread(self, thread: dict[str, Any], found: Found) -> None:
        """Read a thread whole; one that is refused is reported, and the others are read."""
        name, key = thread["id"], f"t/{thread['id']}"
        place = replace(self.place, thread=name, title=_title(thread))
        held: dict[int, dict[str, Any]] = {}
        try:
            async for messages, _ in self._history(name, before=first_id(self.end + DAY)):
                for message in self._kept(place, messages, found):
                    held[int(message["id"])] = message
            if not held and thread.get("message_count"):
                await self._require_thread(thread)
        except DiscordRefusal as error:
            if error.number == UNKNOWN_CHANNEL:
                return  # deleted since it was listed, which the next listing of all shows
            reason = f"{error}; what is indexed of it is kept"
            problem = Problem(subject=place.link(""), reason=reason, skipped=True)
            found.problems.append(replace(problem, document=f"{self.channel.id}/{key}"))
            return
        ordered = [each for _, each in sorted(held.items()) if has_text(each)]
        mark = next((message_hash(each["starter"]) for each in ordered if "starter" in each), 0)
        found.documents[key], found.titles[key] = ordered, place.title
        self.position.threads[name] = (_state(thread), self.end, mark)

    async def _require_thread(self, thread: dict[str, Any]) -> None:
        """Check that a thread that lists nothing may be read."""
        last = thread.get("last_message_id")
        if is_id(last):
            try:
                await self.api.get(f"/channels/{{}}/messages/{last}", thread["id"])
            except DiscordRefusal as error:
                if error.number != UNKNOWN_MESSAGE:
                    raise

    async def _missing(self, thread: str, found: Found) -> None:
        """Ask for a thread that no listing has: it is gone if Discord does not know it, and still shows its channel."""
        key = f"t/{thread}"
        try:
            answer = await self.api.get("/channels/{}", thread)
        except DiscordRefusal as error:
            if error.number == UNKNOWN_CHANNEL:
                await self.api.get("/channels/{}", self.channel.id)
                found.documents[key] = []
                del self.position.threads[thread]
                return
            reason = f"{error}; what is indexed of this thread is kept"
            problem = Problem(
                subject=replace(self.place, thread=thread).link(""), reason=reason, skipped=True
            )
            found.problems.append(replace(problem, document=f"{self.channel.id}/{key}"))
            return
        if isinstance(answer, dict) and is_id(answer.get("id")):
            await self._thread(answer, found)

    def _kept(self, place: Place, messages: list[Any], found: Found) -> Iterator[dict[str, Any]]:
        for message in messages:
            try:
                kept = from_api(message)
            except Rejected as error:
                if len(found.problems) < MOST_PROBLEMS:
                    id_ = message.get("id") if isinstance(message, dict) else None
                    subject = place.link(id_) if is_id(id_) and isinstance(id_, str) else place.label
                    found.problems.append(Problem(subject=subject, reason=str(error), skipped=True))
                continue
            yield kept


def _state(thread: dict[str, Any]) -> int:
    """Return a hash of what moves with the messages of a thread, 32 bits and never 0."""
    about = thread.get("thread_metadata")
    about = about if isinstance(about, dict) else {}
    own = [thread.get(name) for name in ("name", "last_message_id", "message_count", "total_message_sent")]
    return zlib.crc32(canonical([*own, about.get("archived"), about.get("archive_timestamp")])) or 1


def _is_archived(thread: dict[str, Any]) -> bool:
    about = thread.get("thread_metadata")
    return isinstance(about, dict) and about.get("archived") is True


def _archived_at(thread: dict[str, Any]) -> datetime | None:
    about = thread.get("thread_metadata")
    try:
        return datetime.fromisoformat(about["archive_timestamp"]) if isinstance(about, dict) else None
    except (KeyError, TypeError, ValueError):
        return None


def _title(thread: dict[str, Any]) -> str:
    name = thread.get("name")
    return " ".join(name.split()) if isinstance(name, str) and name.strip() else str(thread["id"])
