"""Watch: fetch each source when it changes or is due, and embed what waits, until stopped."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbed.errors import Conflict, Error, Misconfigured, Transient
from flowbed.events.following import follow
from flowbed.events.schedule import Due
from flowbed.events.subscribers import Deliveries
from flowbed.ledger import Swap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
    from pathlib import Path

    from flowbed.events.alerts import Alerts
    from flowbed.events.schedule import Schedule
    from flowbed.events.subscribers import Subscriber
    from flowbed.ledger import BatchRow, Ledger
    from flowbed.pipeline.sync import Synced
    from flowbed.records import Report
    from flowbed.records.events import Handled

    Say = Callable[[Mapping[str, Any]], None]

# Seconds before each retry of a fetch that failed for a passing reason; then it waits for its next tick.
RETRIES = (5.0, 30.0)
# Seconds before embedding is tried again while it fails: doubled each time, up to the longest. A provider may ask for
# more.
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
# Seconds between two looks at the provider's Batch API.
POLL = 60.0
# Seconds between two looks at the clock, which may be set, or stand still while a machine sleeps.
CLOCK = 30.0
SECOND = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A source: when it is due, and the file or folder that is followed, if it is on this machine."""

    schedule: Schedule
    place: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What a watch does: fetch one source (telling each batch file written), embed what waits, list the store."""

    fetch: Callable[[str, Callable[[BatchRow], None]], Awaitable[Synced]]
    embed: Callable[[], Awaitable[Report]]
    look: Callable[[], Awaitable[Handled]]


@dataclass(kw_only=True)
class Watch:
    """Watches sources until stopped. Each is fetched by itself: one that is slow or fails delays no other.

    Batch files are embedded beside them; while that fails, they wait. `look_every` is in seconds. `say` is called with
    what happened, `clock` returns µs since 1970. Where each source stands is kept in the ledger, under a cursor of its
    own, so a watch that starts later knows which ticks it missed.
    """

    sources: Mapping[str, Watched]
    steps: Steps
    ledger: Ledger
    alerts: Alerts
    clock: Callable[[], int]
    say: Say
    look_every: float = 600.0
    polling: bool = False
    subscribers: Sequence[Subscriber] = ()
    _wrote: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: dict[str, asyncio.Event] = field(default_factory=dict)
    _recorded: list[asyncio.Event] = field(default_factory=list)

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop` is set; what is under way then is cancelled, and nothing of it is lost."""
        self._changed = {name: asyncio.Event() for name in self.sources}
        places = {name: each.place for name, each in self.sources.items() if each.place is not None}
        self.say({"event": "watching", "sources": sorted(self.sources), "followed": sorted(places)})
        self._wrote.set()  # what was left is embedded at once
        work: list[Coroutine[Any, Any, object]] = [
            self._keep(name, each) for name, each in self.sources.items()
        ]
        work += [self._embed(), self._look(), *map(self._deliver, self.subscribers)]
        if places:
            work.append(
                follow(
                    places,
                    lambda name: self._changed[name].set(),
                    polling=self.polling,
                    failed=self._unfollowed,
                )
            )
        tasks = [asyncio.ensure_future(each) for each in (*work, stop.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()  # only a bug ends one but the last
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.say({"event": "stopped"})

    async def _keep(self, name: str, watched: Watched) -> None:
        """Fetch a source whenever it has changed or is due."""
        changed = self._changed[name]
        while True:
            value = await self._trying(lambda: self._last(name))
            last = int(value) if value else None
            # One that was never fetched is due at once, unless following it begins with a fetch.
            due = self.clock() if last is None else watched.schedule.due(last)
            await self._until(due, changed)
            changed.clear()
            await self._fetch(name)
            await self._trying(lambda: self._done(name))

    async def _last(self, name: str) -> str:
        return (await self.ledger.documents.cursor(_tick(name))).value

    async def _done(self, name: str) -> None:
        with suppress(Conflict):  # another watch has just done the same
            cursor = await self.ledger.documents.cursor(_tick(name))
            await self.ledger.documents.swap(Swap(cursor=cursor, value=str(self.clock())))

    async def _until(self, due: int, changed: asyncio.Event) -> None:
        while not changed.is_set() and (left := (due - self.clock()) / SECOND) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, CLOCK)):
                    await changed.wait()

    async def _fetch(self, name: str) -> None:
        """Fetch a source, up to three times; report what failed."""
        fix = f"flowbed run {name}"
        for wait in (*RETRIES, None):
            try:
                synced = await self.steps.fetch(name, self._written)
            except Error as error:
                passing = isinstance(error, Transient) and wait is not None
                if not passing:
                    await self._failed(f"fetching {name}", str(error), fix=fix)
                    return
                await asyncio.sleep(wait or 0)
            else:
                break
        if synced.chunks or synced.deleted:
            self._wrote.set()
            self.say(
                {
                    "event": "fetched",
                    "source": name,
                    "documents": synced.fetched,
                    "chunks": synced.chunks,
                    "deleted": synced.deleted,
                }
            )
        failures = [each for each in synced.problems if not each.skipped]
        if failures:
            more = f" (and {len(failures) - 1:,} more)" if len(failures) > 1 else ""
            await self._failed(
                f"documents of {name}",
                f"{failures[0].subject}: {failures[0].reason}{more}",
                fix=f"flowbed dead-letters list --source {name}",
            )
        if synced.withheld:
            await self._failed(f"deletions of {name}", synced.withheld, fix=f"flowbed plan {name}")

    async def _embed(self) -> None:
        """Embed whatever waits, whenever a batch file was written; try again while it fails."""
        pause = FIRST_PAUSE
        while True:
            await self._wrote.wait()
            self._wrote.clear()
            asked = 0.0
            try:
                report = await self.steps.embed()
            except Error as error:
                again, reason = True, str(error)
                asked = getattr(error, "retry_after", None) or 0.0
            else:
                if report.chunks or report.deleted:
                    self.say(
                        {
                            "event": "embedded",
                            "chunks": report.chunks,
                            "embedded": report.embedded,
                            "deleted": report.deleted,
                            "waiting": report.waiting,
                            "cost_usd": report.cost_usd,
                        }
                    )
                    pause = FIRST_PAUSE
                again = report.waiting > 0
                reason = "; ".join(f"{each.subject}: {each.reason}" for each in report.failures[:1])
                if not again and report.submissions:
                    asyncio.get_running_loop().call_later(POLL, self._wrote.set)
            if reason:
                fix = "flowbed dead-letters list" if not again else "flowbed doctor"
                await self._failed("embedding", reason, fix=fix)
            if not (again and reason):
                pause = FIRST_PAUSE
                continue
            await asyncio.sleep(max(pause, asked))
            pause = min(LONGEST_PAUSE, 2 * pause)
            self._wrote.set()

    async def _look(self) -> None:
        """List the store every so often, for batch files that no event told of, and try again what failed."""
        while True:
            await asyncio.sleep(self.look_every)
            try:
                told = await self.steps.look()
            except Error as error:
                await self._failed("listing the store", str(error), fix="flowbed doctor")
                continue
            for each in told.failures[:1]:
                await self._failed(
                    "batch files", f"{each.subject}: {each.reason}", fix="flowbed dead-letters list"
                )
            self._written()

    def _written(self, _: BatchRow | None = None) -> None:
        """Wake up those who wait for batch files."""
        for each in (self._wrote, *self._recorded):
            each.set()

    async def _deliver(self, subscriber: Subscriber) -> None:
        """Deliver batch files to one subscriber; one that is slow or fails delays no other."""

        async def failed(what: str, reason: str) -> None:
            await self._failed(
                f"subscriber {subscriber.name}", f"{what}: {reason}", fix="flowbed dead-letters list"
            )

        deliveries = Deliveries(subscriber=subscriber, ledger=self.ledger, clock=self.clock, failed=failed)
        self._recorded.append(deliveries.wrote)
        await deliveries.run()

    async def _trying(self, work: Callable[[], Awaitable[Any]]) -> Any:  # what `work` returns
        """Do something with the ledger, again and again while it cannot be reached."""
        while True:
            try:
                return await work()
            except Misconfigured:
                raise
            except Error as error:
                await self._failed("the ledger", str(error), fix="flowbed doctor")
                await asyncio.sleep(FIRST_PAUSE)

    async def _failed(self, kind: str, reason: str, *, fix: str) -> None:
        self.say({"event": "failed", "what": kind, "reason": reason, "fix": fix})
        await self.alerts.send(kind, reason, fix=fix)

    def _unfollowed(self, reason: str) -> None:
        self.say({"event": "failed", "what": "following", "reason": reason, "fix": "flowbed watch"})


async def due_sources(sources: Mapping[str, Watched], ledger: Ledger) -> dict[str, Due]:
    """Tell when each source was fetched by a watch, and when it is due."""
    progress = await ledger.documents.progress([_tick(name) for name in sources])
    found = {}
    for name, each in sources.items():
        value = progress[_tick(name)].cursor.value
        last = int(value) if value else 0
        found[name] = Due(
            last=last, next=each.schedule.due(last) if last else 0, followed=each.place is not None
        )
    return found


def _tick(name: str) -> str:
    """Return the source of the ledger under which a watch keeps when it last fetched a source; no other has a dot."""
    return f"{name}.watch"
