"""Following the events of jobs as they happen: one look into the ledger for all followers of a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from typing import TYPE_CHECKING

from flowbed.errors import TooMany
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.ledger.index_jobs import IndexJobEvent, IndexJobs

# Seconds between two looks for new events.
LOOK_SECONDS = 1.0
# Seconds without an event after which a follower is told so, which keeps proxies from closing the connection.
QUIET_SECONDS = 15.0
# Events that are read at once; a follower that has so many more to read has stopped reading.
EVENTS = 500
BEHIND_MOST = 2 * EVENTS
# Jobs that one owner may follow at a time on one server.
FOLLOWED_MOST = 32
LAST = ("job.completed", "job.failed", "job.cancelled")


class _Follower:
    """One reader of one job's events: those after `seq` are still to come."""

    def __init__(self, job: str, seq: int) -> None:
        self.job, self.seq = job, seq
        self.events: deque[IndexJobEvent] = deque()
        self.new = asyncio.Event()
        self.dropped = False


class JobFollowing:
    """Followers of jobs; for one event loop."""

    def __init__(self, rows: IndexJobs) -> None:
        """Read events of the ledger's jobs."""
        self._rows = rows
        self._followers: set[_Follower] = set()
        self._owners: Counter[str] = Counter()
        self._joined = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    async def follow(
        self, owner: str, job: str, *, after: int, until: asyncio.Event
    ) -> AsyncIterator[IndexJobEvent | None]:
        """Iterate over the events of a job after a number, once each and in order, until its last one.

        None says that nothing happened for a while. It ends early when `until` is set, or the reader is too slow.

        Raises:
            TooMany: the owner follows too many jobs at a time.
        """
        if self._owners[owner] >= FOLLOWED_MOST:
            raise TooMany(
                f"This key follows {FOLLOWED_MOST} jobs at a time, which is as many as it may; close one.",
                retry_after=10.0,
            )
        follower = _Follower(job, after)
        self._owners[owner] += 1
        self._followers.add(follower)
        self._joined.set()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_on(), name="events of jobs")
        try:
            async for event in _events_of(follower, until):
                yield event
        finally:
            self._followers.discard(follower)
            self._owners[owner] -= 1

    async def _look_on(self) -> None:
        """Look for new events as long as anybody follows."""
        while self._followers:
            self._joined.clear()
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - the next look may succeed
                log.warning("cannot read the events of jobs, will try again: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._joined.wait()

    async def _look(self) -> None:
        """Hand new events to their followers, until none is left."""
        while self._followers:
            after: dict[str, int] = {}
            for each in self._followers:
                after[each.job] = min(each.seq, after.get(each.job, each.seq))
            events = await self._rows.events(after, limit=EVENTS)
            for event in events:
                for each in self._followers:
                    if each.job == event.job and event.seq == each.seq + 1:
                        each.seq = event.seq
                        each.events.append(event)
                        each.dropped = len(each.events) > BEHIND_MOST
                        each.new.set()
            if len(events) < EVENTS:
                return


async def _events_of(follower: _Follower, until: asyncio.Event) -> AsyncIterator[IndexJobEvent | None]:
    ended = asyncio.create_task(until.wait())
    new: asyncio.Task[bool] | None = None
    try:
        while not (until.is_set() or follower.dropped):
            while follower.events:
                event = follower.events.popleft()
                yield event
                if event.type in LAST and not follower.events:
                    return
            follower.new.clear()
            new = asyncio.create_task(follower.new.wait())
            done, _ = await asyncio.wait(
                {new, ended}, timeout=QUIET_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            new.cancel()
            if not done:
                yield None
    finally:  # also of a follower that is cut off while it waits
        for each in (new, ended):
            if each is not None:
                each.cancel()
