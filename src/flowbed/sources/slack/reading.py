"""Read one channel, step by step: what is recent, what was never read, and a part of what is older."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.records import Problem
from flowbed.sources.slack.api import (
    OF_THE_CHANNEL,
    OF_THE_POSITION,
    THREAD_GONE,
    SlackApi,
    SlackRefusal,
    next_cursor,
)
from flowbed.sources.slack.messages import (
    Channel,
    checked,
    day_of,
    has_text,
    is_timestamp,
    link,
    message_hash,
    thread_of,
    timestamp,
)
from flowbed.sources.slack.positions import NEVER, Position

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping

    from flowbed.sources.slack.positions import Thread

DAY = 86_400  # seconds
# A thread with a reply within `lookback` is read again after this time (seconds): an edited reply moves nothing.
RECHECK = DAY
# Old days are checked in slices of this many pages for each channel and fetch.
SLICE = 1
# A listing that restarts more often than this because its position expired does not advance.
RESTARTS = 5
# The most replies of a page, as Slack advises.
REPLIES = 200
# Malformed messages that are reported one by one.
MOST_PROBLEMS = 20
# So many threads of a part are held back until its days are read, so that a message is not found twice when it gets its
# first reply. In slow mode each counts: a run may end before the next.
HELD_THREADS = 20


@dataclass
class Found:
    """Documents of a channel by the ends of their ids, and the position after them; those without text are gone."""

    documents: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    position: Position = field(default_factory=Position)


@dataclass(kw_only=True)
class ChannelReading:
    """One fetch of a channel from `position` on, up to `end` (seconds since 1970); `base` begins its links.

    `lookback` is in seconds, `page` in messages. `rank` is the step that it is at, and `done` whether all are.
    `created` is when the channel was, 0 if that is unknown. For estimates: its past is filled from `began` down to
    `lower`, with so many calls for its history and its threads, and so many threads of that are `waiting`.
    """

    api: SlackApi
    channel: Channel
    position: Position
    end: int
    lookback: int
    page: int
    base: str
    created: int = 0
    rank: int = 0
    done: bool = False
    limited: bool = False
    began: int = 0
    lower: int = 0
    history_calls: int = 0
    thread_calls: int = 0
    waiting: int = 0
    seen: set[str] = field(default_factory=set)

    async def steps(self) -> AsyncGenerator[Found]:
        """Read the channel, and yield what was found with the position after it."""
        steps = [self._recent, self._fill, self._old_threads, self._sweep]
        self.position.cut += 1
        if self.position.cut % 2 == 0:
            # Listing the last days may take all the time of a fetch: then the others come first every second time.
            steps = [*steps[1:], steps[0]]
        for self.rank, step in enumerate(steps):
            async for found in step():
                yield self._reached(found)
        self.position.cut = 0
        self.done = True
        yield self._reached(Found())

    def _reached(self, found: Found) -> Found:
        self.seen.update(found.documents)
        found.position = self.position.copy()
        return found

    async def _recent(self) -> AsyncIterator[Found]:
        """List everything since the look-back again: it may have been edited, deleted or answered."""
        position, filled = self.position, self.position.filled
        if filled is None:
            return
        since = position.listed if position.rest else min(position.listed, self.end - self.lookback)
        parts = [(max(_midnight(since), filled), self.end)]
        if position.rest:  # what an earlier fetch left comes after what is new
            parts.append((max(position.rest[0], filled), min(position.rest[1], parts[0][0])))
        parts = [(lower, upper) for lower, upper in parts if lower < upper]
        for number, (lower, upper) in enumerate(parts):
            async for found, reached in self._days(oldest=lower, end=upper):
                left = [(lower, reached)] if reached > lower else []
                left += parts[number + 1 :]
                position.listed = self.end
                position.rest = (left[-1][0], left[0][1]) if left else None
                yield found
        position.listed = self.end

    async def _fill(self) -> AsyncIterator[Found]:
        """List what was never listed, newest first."""
        position = self.position
        if position.whole:
            return
        if position.filled is None:
            position.listed = self.end
        bound = self.end if position.filled is None else position.filled
        self.began = self.lower = bound
        self.history_calls = self.thread_calls = 0
        async for found, reached in self._days(oldest=0, end=bound):
            if reached < bound:
                position.filled = bound = reached
                position.whole = reached == 0
            yield found

    async def _old_threads(self) -> AsyncIterator[Found]:
        """Read threads again that were answered lately: an edited or deleted reply may move nothing on the parent.

        So are those that were announced, and then not read, as a fetch before ended: they may be gone already.
        """
        for thread, (newest, replies, checked_at, _) in sorted(self.position.threads.items()):
            # One without replies waits for the list of its day, which says that it is a thread no more.
            lively = checked_at == NEVER or (replies and timestamp(newest)[0] >= self.end - self.lookback)
            if f"t/{thread}" in self.seen or not lively or checked_at > self.end - RECHECK:
                continue
            found = Found()
            await self._thread(thread, found)
            yield found

    async def _sweep(self) -> AsyncIterator[Found]:
        """List some old days again, each fetch the ones before: late replies, old edits and old deletions."""
        position, recent = self.position, _midnight(self.end - self.lookback)
        if not position.whole:
            return
        bound = min(position.swept if position.swept is not None else recent, recent)
        pages = 0
        async for found, reached in self._days(oldest=0, end=bound, every_thread=True):
            pages += reached < bound
            bound = reached
            position.swept = reached if reached > 0 else None
            yield found
            if pages >= SLICE:
                return

    async def _days(
        self, *, oldest: int, end: int, every_thread: bool = False
    ) -> AsyncIterator[tuple[Found, int]]:
        """List the days from `end` back to `oldest`, and read their threads; also yield down to where that is complete.

        A bound is the start of a day, or `end` of the whole listing.
        """
        held: dict[str, dict[str, Any]] = {}
        found = Found()
        upper = end
        async for messages, is_last in self._history(oldest=oldest, end=end):
            for message in self._checked(messages, found):
                held[message["ts"]] = message
            lowest = min((timestamp(ts)[0] for ts in held), default=upper)
            lower = oldest if is_last else _midnight(lowest) + DAY
            if lower >= upper and not is_last:
                continue
            part = {ts: each for ts, each in held.items() if timestamp(ts)[0] >= lower}
            held = {ts: each for ts, each in held.items() if ts not in part}
            self.lower = lower
            async for early in self._collect(part, found, (lower, upper), every_thread=every_thread):
                yield early, upper
            yield found, lower
            found, upper = Found(), lower

    async def _history(self, *, oldest: int, end: int) -> AsyncIterator[tuple[list[Any], bool]]:
        """Yield the pages of a channel's history, newest first, and whether each is the last."""
        # Inclusive, and one counter before the end: a message at the end itself belongs to what follows.
        latest, cursor, restarts = f"{end - 1}.999999", "", 0
        lowest = latest
        while True:
            try:
                answer = await self.api.call(
                    "conversations.history",
                    channel=self.channel.id,
                    oldest=f"{oldest}.000000",
                    latest=latest,
                    limit=self.page,
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
            self.history_calls += 1
            self.limited |= bool(answer.get("is_limited"))
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
        listed: dict[str, dict[str, Any]],
        found: Found,
        bounds: tuple[int, int],
        *,
        every_thread: bool,
    ) -> AsyncIterator[Found]:
        """Put the days of a part of the history, and its threads, among the documents found.

        Where there are many threads, or each takes a minute, yield them before: a run that ends meanwhile keeps them.
        """
        position = self.position
        lower, upper = bounds
        threads = Found()
        if self.limited:
            # Older messages are hidden by the plan of the workspace, which is no deletion.
            lower = max(lower, min(map(_seconds, listed), default=upper))
        by_day: dict[int, list[dict[str, Any]]] = {
            day: [] for day in position.days if lower <= day * DAY < upper
        }
        self.waiting = len(
            {thread for each in listed.values() if (thread := thread_of(each))} - position.threads.keys()
        )
        ended: list[str] = []
        for ts, message in sorted(listed.items(), key=lambda item: timestamp(item[0])):
            thread = thread_of(message)
            if thread:
                parent = message_hash(message) if thread == ts else None
                known = position.threads.get(thread)
                due = every_thread and (known is None or known[2] <= self.end - RECHECK)
                if due or _moved(known, message, parent):
                    await self._thread(thread, threads, parent=parent)
                    if len(threads.documents) >= (1 if self.api.pacing.slow else HELD_THREADS):
                        yield threads
                        threads = Found()
                continue
            if ts in position.threads:
                if f"t/{ts}" in self.seen:
                    continue  # this fetch has it as a thread of one message, so the next one says that it is gone
                ended.append(ts)
            if has_text(message):
                by_day.setdefault(_seconds(ts) // DAY, []).append(message)
        # These had replies before, all of them deleted. Not before the threads above: a fetch that ends there has not
        # said that these are gone, so its position must know them.
        for ts in ended:
            del position.threads[ts]
            found.documents[f"t/{ts}"] = []
        for day, messages in by_day.items():
            found.documents[f"d/{day_of(day * DAY)}"] = messages
        position.days -= {day for day, messages in by_day.items() if not messages}
        position.days |= {day for day, messages in by_day.items() if messages}
        for thread in [each for each in position.threads if each not in listed]:
            if lower <= _seconds(thread) < upper:
                await self._thread(thread, threads)
        found.documents |= threads.documents
        found.problems += threads.problems

    async def _thread(self, thread: str, found: Found, *, parent: int | None = None) -> None:
        """Read a thread; one that does not exist any more is gone. `parent` is the hash of its parent, if listed."""
        key = f"t/{thread}"
        if key in self.seen or key in found.documents:
            return
        messages: dict[str, dict[str, Any]] = {}
        try:
            async for answer in self.api.pages(
                "conversations.replies",
                channel=self.channel.id,
                ts=thread,
                limit=min(self.page, REPLIES),
            ):
                self.thread_calls += 1
                listed = answer.get("messages")
                # Later pages may repeat the parent.
                for each in self._checked(listed if isinstance(listed, list) else [], found):
                    messages[each["ts"]] = each
        except SlackRefusal as error:
            if error.code in OF_THE_CHANNEL:
                raise
            if error.code != THREAD_GONE:
                # One thread must not keep the others from being read.
                problem = Problem(
                    subject=link(self.base, self.channel.id, thread), reason=str(error), skipped=True
                )
                found.problems.append(replace(problem, document=f"{self.channel.id}/{key}"))
                return
        self.waiting = max(0, self.waiting - 1)
        ordered = sorted(messages.values(), key=lambda each: timestamp(each["ts"]))
        found.documents[key] = [each for each in ordered if has_text(each)]
        threads = self.position.threads
        if not ordered:
            threads.pop(thread, None)
            return
        replies = [each["ts"] for each in ordered if each["ts"] != thread]
        known = threads.get(thread)
        mark = parent if parent is not None else known[3] if known else 0
        threads[thread] = (replies[-1] if replies else thread, len(replies), self.end, mark)

    def _checked(self, messages: Iterable[Any], found: Found) -> Iterator[dict[str, Any]]:
        for message in messages:
            try:
                kept = checked(message)
            except Rejected as error:
                if len(found.problems) < MOST_PROBLEMS:
                    subject = f"{self.channel.label}: {message.get('ts') if isinstance(message, dict) else 'a message'}"
                    found.problems.append(Problem(subject=subject, reason=str(error), skipped=True))
                continue
            yield kept


def _moved(known: Thread | None, message: Mapping[str, Any], parent: int | None) -> bool:
    """Return whether a thread must be read again, by its parent, or by a reply that was also sent to the channel."""
    if known is None:
        return True
    newest, count, _, hash_ = known
    if parent is None:
        return timestamp(newest) < timestamp(message["ts"])
    return (newest, count, hash_) != (message.get("latest_reply", ""), message["reply_count"], parent)


def _midnight(seconds: int) -> int:
    return max(0, seconds) // DAY * DAY


def _seconds(ts: str) -> int:
    return timestamp(ts)[0]
