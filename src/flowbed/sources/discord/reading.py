"""Read one channel, step by step: what is recent, what was never read, its threads, and a part of what is older."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbed.sources.apis.estimate import history_calls
from flowbed.sources.discord.history import DAY, Found, History
from flowbed.sources.discord.messages import (
    day_key,
    day_of,
    first_id,
    has_text,
    message_hash,
    milliseconds,
)
from flowbed.sources.discord.server import WITH_MESSAGES, WITH_THREADS
from flowbed.sources.discord.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from flowbed.sources.discord.api import DiscordApi
    from flowbed.sources.discord.history import Content
    from flowbed.sources.discord.messages import Place
    from flowbed.sources.discord.positions import Position
    from flowbed.sources.discord.server import Channel

# Old days are checked in slices of this many pages for each channel and fetch.
SLICE = 1
# Calls of a thread: one page of messages, and an empty one, which only is certainly the last.
CALLS = 2


@dataclass(kw_only=True)
class ChannelReading:
    """One fetch of a channel from `position` on, up to `end` (seconds since 1970).

    `active` are its active threads, `lookback` is in seconds. `rank` is the step that it is at, and `done` whether all
    are. For estimates: its past is filled from `began` down to `lower`.
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
    began: int = 0
    lower: int = 0
    seen: set[str] = field(default_factory=set)
    history: History = field(init=False)
    threads: Threads = field(init=False)

    def __post_init__(self) -> None:
        """Prepare to read the channel and its threads."""
        self.history = History(api=self.api, place=self.place, channel=self.channel, content=self.content)
        self.threads = Threads(history=self.history, position=self.position, active=self.active, end=self.end)

    def left(self) -> int:
        """Estimate how many calls are left, for the past that was never read, and for the threads that changed."""
        if self.done:
            return 0
        unread = self.channel.kind in WITH_MESSAGES and not self.position.whole
        created = milliseconds(int(self.channel.id)) // 1_000
        past = history_calls(self.history.calls, began=self.began, lower=self.lower, created=created)
        return CALLS * self.threads.waiting + (past if unread else 0)

    async def steps(self) -> AsyncGenerator[Found]:
        """Read the channel, and yield what was found with the position after it.

        Raises:
            DiscordRefusal: the bot may not read it any more.
            NoAnswer: Discord does not answer.
        """
        messages = self.channel.kind in WITH_MESSAGES
        steps = [self._recent, self._fill] if messages else []
        steps += [self.threads.read] if self.channel.kind in WITH_THREADS else []
        steps += [self._sweep] if messages else []
        self.threads.waiting = self.threads.changed()
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
        self.history.calls = 0
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
        async for messages, lowest in self.history.pages(
            self.channel.id, before=end, oldest=first_id(oldest * DAY)
        ):
            for message in self.history.checked(self.place, messages, found):
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
