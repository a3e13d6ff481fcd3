"""Read the threads of a channel: those that have changed, and some that are old."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flowbed.records import Problem, canonical
from flowbed.sources.discord.api import UNKNOWN_CHANNEL, UNKNOWN_MESSAGE, DiscordRefusal
from flowbed.sources.discord.history import DAY, PAGE, Found
from flowbed.sources.discord.messages import first_id, has_text, is_id, message_hash
from flowbed.sources.discord.server import TEXT, threads_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.sources.discord.history import History
    from flowbed.sources.discord.positions import Position

# Active threads are read again after this time (seconds), and archived ones listed: an edit moves nothing.
RECHECK = DAY
# So many archived threads are read again in each fetch of a channel.
SLICE_THREADS = 2
# A thread may be archived while a fetch lists them (seconds).
OVERLAP = 600


@dataclass(kw_only=True)
class Threads:
    """The threads of a channel, of which `active` are listed, up to `end` (seconds since 1970).

    So many of them are `waiting` to be read, for estimates.
    """

    history: History
    position: Position
    active: list[dict[str, Any]]
    end: int
    waiting: int = 0

    async def read(self) -> AsyncIterator[Found]:
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

    def changed(self) -> int:
        """Count the active threads that have changed."""
        return sum(self._has_moved(each["id"], each) for each in self.active)

    def _has_moved(self, name: str, thread: dict[str, Any]) -> bool:
        """Tell whether a thread has changed, or may have been edited since it was read."""
        state, at, _ = self.position.threads.get(name, (0, 0, 0))
        return state != _state(thread) or (not _is_archived(thread) and at <= self.end - RECHECK)

    async def _archived(self, listed: dict[str, dict[str, Any]], found: Found, *, since: int) -> bool:
        """Add the threads that were archived since then to `listed`; return whether all of them could be."""
        routes = ["/channels/{}/threads/archived/public"]
        routes += ["/channels/{}/threads/archived/private"] if self.history.channel.kind == TEXT else []
        try:
            for route in routes:
                await self._archive(route, listed, since)
        except DiscordRefusal as error:
            if "private" not in route:
                reason = f"archived threads are not read: {error}"
                found.problems.append(
                    Problem(subject=self.history.channel.label, reason=reason, skipped=True)
                )
                return False
            # Without the permission Manage Threads, those that the bot is in.
            return await self._joined(listed)
        return True

    async def _archive(self, route: str, listed: dict[str, dict[str, Any]], since: int) -> None:
        query: dict[str, str | int] = {"limit": PAGE}
        while True:
            answer = await self.history.api.get(route, self.history.channel.id, **query)
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
                answer = await self.history.api.get(
                    "/channels/{}/users/@me/threads/archived/private", self.history.channel.id, **query
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
        place = replace(self.history.place, thread=name, title=_title(thread))
        held: dict[int, dict[str, Any]] = {}
        try:
            async for messages, _ in self.history.pages(name, before=first_id(self.end + DAY)):
                for message in self.history.checked(place, messages, found):
                    held[int(message["id"])] = message
            if not held and thread.get("message_count"):
                await self._require_thread(thread)
        except DiscordRefusal as error:
            if error.number == UNKNOWN_CHANNEL:
                return  # deleted since it was listed, which the next listing of all shows
            reason = f"{error}; what is indexed of it is kept"
            problem = Problem(subject=place.link(""), reason=reason, skipped=True)
            found.problems.append(replace(problem, document=f"{self.history.channel.id}/{key}"))
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
                await self.history.api.get(f"/channels/{{}}/messages/{last}", thread["id"])
            except DiscordRefusal as error:
                if error.number != UNKNOWN_MESSAGE:
                    raise

    async def _missing(self, thread: str, found: Found) -> None:
        """Ask for a thread that no listing has: it is gone if Discord does not know it, and still shows its channel."""
        key = f"t/{thread}"
        try:
            answer = await self.history.api.get("/channels/{}", thread)
        except DiscordRefusal as error:
            if error.number == UNKNOWN_CHANNEL:
                await self.history.api.get("/channels/{}", self.history.channel.id)
                found.documents[key] = []
                del self.position.threads[thread]
                return
            reason = f"{error}; what is indexed of this thread is kept"
            problem = Problem(
                subject=replace(self.history.place, thread=thread).link(""), reason=reason, skipped=True
            )
            found.problems.append(replace(problem, document=f"{self.history.channel.id}/{key}"))
            return
        if isinstance(answer, dict) and is_id(answer.get("id")):
            await self._thread(answer, found)


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
