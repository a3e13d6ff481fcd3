"""Deliver each batch file to other programs: to a command, a webhook, or another store."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from flowbed.errors import Conflict, Error, NotFound, Rejected, Transient
from flowbed.ledger import DeadLetter, Swap
from flowbed.records.external import external_owner
from flowbed.records.precomputed import is_precomputed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from flowbed.events.alerts import Poster
    from flowbed.ledger import BatchRow, Cursor, Ledger
    from flowbed.storage import Store

# Seconds before each retry of a delivery; then it is a dead letter, and the next batch file is delivered.
RETRIES = (5.0, 30.0)
# Seconds between two looks at the ledger: other processes write batch files too.
LOOK = 15.0
# Batch files read from the ledger at once.
AT_ONCE = 100
# The longest output of a failed command that its dead letter repeats, in characters.
OUTPUT = 500
LETTER = "subscriber"
FIRST_FAILURE = 300


class Delivery(Protocol):
    """Delivers one batch file; it may come twice."""

    async def deliver(self, row: BatchRow) -> None:
        """Deliver a batch file.

        Raises:
            Error: it was not delivered; why.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Subscriber:
    """A subscriber: its name, where it gets batch files, and the sources that it wants (none: all)."""

    name: str
    delivery: Delivery
    sources: Collection[str] = ()


def described(row: BatchRow) -> dict[str, Any]:
    """Return what a command and a webhook are told of a batch file."""
    return {
        "event": "batch",
        "batch_id": row.id,
        "source": row.source,
        "key": row.key,
        "chunks": row.chunks,
        "timestamp": datetime.fromtimestamp(row.timestamp / 1e6, UTC).isoformat(),
    }


@dataclass(frozen=True, kw_only=True)
class Command:
    """Runs a command in the project's folder, with the event as a line of JSON on its standard input."""

    command: Sequence[str]
    folder: str
    seconds: float

    async def deliver(self, row: BatchRow) -> None:
        """Run it to its end.

        Raises:
            Rejected: it cannot be started, failed, or took too long.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                cwd=self.folder,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise Rejected(f"{self.command[0]} cannot be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(self.seconds):
                _, said = await process.communicate(orjson.dumps(described(row)) + b"\n")
        except TimeoutError:
            raise Rejected(f"{self.command[0]} took longer than {self.seconds:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            words = said.decode(errors="replace").strip()[-OUTPUT:]
            raise Rejected(
                f"{self.command[0]} ended with status {process.returncode}: {words or 'no output'}"
            )


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Posts the event to a URL."""

    poster: Poster

    async def deliver(self, row: BatchRow) -> None:
        """Post it.

        Raises:
            Transient: the server cannot be reached, or answered with anything but success.
        """
        answer = await self.poster.post("", described(row))
        if answer.status >= FIRST_FAILURE:
            raise Transient(f"the webhook answered {answer.status}")


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Copies the batch file to the same key of another store."""

    store: Store
    to: Store

    async def deliver(self, row: BatchRow) -> None:
        """Copy it; one that garbage collection has deleted meanwhile is left out."""
        with contextlib.suppress(NotFound):
            await self.to.put(row.key, (await self.store.get(row.key)).body)


@dataclass
class Position:
    """How far a subscriber has got: the position in each source, and the batch files to deliver again."""

    at: dict[str, int] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, cursor: Cursor) -> Position:
        """Read the value of a cursor."""
        return cls(**orjson.loads(cursor.value)) if cursor.value else cls()

    @property
    def value(self) -> str:
        """The value of a cursor."""
        return orjson.dumps({"at": self.at, "again": self.again}).decode()


@dataclass(kw_only=True)
class Deliveries:
    """The deliveries to one subscriber, in the order of each source, each at least once.

    Its position is a cursor of the ledger. A batch file that cannot be delivered becomes a dead letter after two
    retries, and does not stop those after it. `failed` is called with why; `clock` returns µs since 1970.
    """

    subscriber: Subscriber
    ledger: Ledger
    clock: Callable[[], int]
    failed: Callable[[str, str], Awaitable[None]]
    wrote: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Deliver what is new, until cancelled."""
        while True:
            self.wrote.clear()
            try:
                await self.deliver_new()
            except Error as error:  # of the ledger: the same again later
                await self.failed("the ledger", str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self.wrote.wait()

    async def deliver_new(self) -> None:
        """Deliver everything that is new or to be delivered again."""
        position = Position.of(await self.ledger.documents.cursor(cursor_of(self.subscriber.name)))
        if position.again:
            rows = await self.ledger.batches.get(position.again)
            for batch in position.again:
                if batch in rows:
                    await self._deliver(rows[batch])
                await self._move(again=batch)
        newest = await self.ledger.batches.positions()
        for source, last in sorted(newest.items()):
            if last > position.at.get(source, 0) and not is_precomputed(source):
                await self._deliver_source(source, position.at.get(source, 0))

    async def _deliver_source(self, source: str, after: int) -> None:
        wanted = not self.subscriber.sources or external_owner(source) in self.subscriber.sources
        while events := await self.ledger.batches.events(source, after=after, limit=AT_ONCE):
            rows = await self.ledger.batches.get({event.batch for event in events})
            for event in events:
                if wanted and event.batch in rows:
                    await self._deliver(rows[event.batch])
                    await self._move(source=source, to=event.position)
            after = events[-1].position
            await self._move(source=source, to=after)

    async def _deliver(self, row: BatchRow) -> None:
        name = self.subscriber.name
        attempts = 0
        for wait in (*RETRIES, None):
            attempts += 1
            try:
                await self.subscriber.delivery.deliver(row)
            except Error as error:
                reason = str(error)
            else:
                return
            if wait is not None:
                await asyncio.sleep(wait)
        letter = DeadLetter(
            kind=LETTER, owner=name, subject=row.key, reason=reason, at=self.clock(), attempts=attempts
        )
        await self.ledger.dead_letters.add([letter])
        await self.failed(row.key, reason)

    async def _move(self, *, source: str = "", to: int = 0, again: str = "") -> None:
        def moved(position: Position) -> None:
            if source:
                position.at[source] = max(to, position.at.get(source, 0))
            if again in position.again:
                position.again.remove(again)

        await change_position(self.subscriber.name, moved, self.ledger)


async def change_position(name: str, change: Callable[[Position], None], ledger: Ledger) -> None:
    """Change the position of a subscriber, whoever else does the same."""
    while True:
        cursor = await ledger.documents.cursor(cursor_of(name))
        position = Position.of(cursor)
        before = position.value
        change(position)
        if position.value == before:
            return
        with contextlib.suppress(Conflict):
            await ledger.documents.swap(Swap(cursor=cursor, value=position.value))
            return


async def deliver_again(name: str, keys: Sequence[str], batches: Mapping[str, str], ledger: Ledger) -> None:
    """Queue batch files for a subscriber again; `batches` are their ids by key."""

    def queued(position: Position) -> None:
        position.again += [
            batches[key] for key in keys if key in batches and batches[key] not in position.again
        ]

    await change_position(name, queued, ledger)


def cursor_of(name: str) -> str:
    """Return the source of the ledger whose cursor is the position of a subscriber; no other has a dot."""
    return f"{name}.subscriber"
