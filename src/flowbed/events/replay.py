"""Dead letters with the batch file that each is about, and the replay of one batch, a day or a source."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from flowbed.errors import Conflict, NotFound, Rejected
from flowbed.events.intake import LETTER, OWN, Intake, name_of, take_again
from flowbed.events.notifications import MESSAGE, RECORD
from flowbed.events.subscribers import LETTER as SUBSCRIBER
from flowbed.events.subscribers import deliver_again
from flowbed.ledger import DeadLetter, Swap
from flowbed.ledger.rows import WITHHELD
from flowbed.ledger.workers import DEATHS, TASK, HoldsWorkers
from flowbed.pipeline.changes import RELEASING
from flowbed.records import Status
from flowbed.records.external import external_owner

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from flowbed.events.intake import IntakeContext
    from flowbed.lanes.contexts import Context
    from flowbed.ledger import BatchRow, ChunkRow
    from flowbed.records import Problem

_DAY = re.compile(r"/year=(\d{4})/month=(\d{2})/day=(\d{2})/")


@dataclass(frozen=True, kw_only=True)
class Letter(DeadLetter):
    """A dead letter with its source, and the keys of the batch files that it is about; "" and none where unknown."""

    source: str = ""
    batches: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which failures are meant: of a source, of a day (2026-11-30, in UTC), of a batch file by key or id; "" is any."""

    source: str = ""
    day: str = ""
    batch: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no day."""
        try:
            if self.day:
                date.fromisoformat(self.day)
        except ValueError:
            raise Rejected(f"{self.day!r} is no day; write it as 2026-11-30") from None

    def __bool__(self) -> bool:
        """Tell whether anything is named."""
        return bool(self.source or self.day or self.batch)

    def has(self, source: str, key: str, at: int) -> bool:
        """Tell whether a batch file is meant; `at` (µs) gives the day of a key that has none."""
        day = "-".join(found.groups()) if (found := _DAY.search(key)) else f"{_time(at):%Y-%m-%d}"
        return (
            self.source in ("", source, external_owner(source))
            and self.day in ("", day)
            and (not self.batch or self.batch == key or f"batch_{self.batch}." in key)
        )


@dataclass
class Replayed:
    """What waits again: `waiting` chunks, of which `read` files of other programs were read again; and what failed.

    The next run lists `sources` from their beginning; workers take `tasks` that workers had died at.
    """

    waiting: int = 0
    read: int = 0
    tasks: int = 0
    sources: tuple[str, ...] = ()
    failures: list[Problem] = field(default_factory=list)


async def letters(context: Context, which: Which) -> list[Letter]:
    """List the dead letters that are meant, oldest first."""
    plain = [letter async for page in context.ledger.dead_letters.pages() for letter in page]
    needed = any(letter.kind in {"chunk", "run"} for letter in plain)
    failed = await _failed(context) if needed else []
    by_subject: dict[tuple[str, str], list[tuple[ChunkRow, BatchRow | None]]] = {}
    for row, batch in failed:
        by_subject.setdefault(("chunk", row.id), []).append((row, batch))
        by_subject.setdefault(("run", row.run), []).append((row, batch))
    located = [_located(letter, by_subject.get((letter.kind, letter.subject), [])) for letter in plain]
    return [each for each in located if not which or _is_meant(each, which)]


def _located(letter: DeadLetter, about: Sequence[tuple[ChunkRow, BatchRow | None]]) -> Letter:
    if letter.kind == SUBSCRIBER:
        source = external_owner(letter.subject.partition("/")[0])
        return Letter(**vars(letter), source=source, batches=(letter.subject,))
    if letter.kind == LETTER:
        return Letter(**vars(letter), source=letter.owner, batches=(letter.subject,))
    keys = dict.fromkeys(batch.key for _, batch in about if batch is not None)
    source = next((external_owner(row.source) for row, _ in about), "")
    return Letter(
        **vars(letter), source=letter.owner if letter.kind == "source" else source, batches=tuple(keys)
    )


def _is_meant(letter: Letter, which: Which) -> bool:
    return any(which.has(letter.source, key, letter.at) for key in letter.batches or ("",))


async def replay(on: IntakeContext, which: Which, subjects: Collection[str] = ()) -> Replayed:
    """Make what failed wait again, and read files of other programs again; all of it, or what is named.

    Raises:
        NotFound: there is no dead letter about a subject, or no failure of the batch, day or source.
    """
    context = on.context
    every = await letters(context, which)
    unknown = set(subjects) - {letter.subject for letter in every}
    if unknown:
        raise NotFound(
            f"no dead letter is about {', '.join(sorted(unknown))}; `flowbed dead-letters list` shows them"
        )
    wanted = [letter for letter in every if not subjects or letter.subject in subjects]
    done = Replayed()
    ids = {letter.subject for letter in wanted if letter.kind in {"chunk", "run"}}
    if which and not subjects:  # also what failed without a dead letter, for a reason that may have passed
        ids |= {
            row.id for row, batch in await _failed(context) if batch and which.has(batch.source, batch.key, 0)
        }
    if which and not (wanted or ids):
        raise NotFound("nothing of it has failed; `flowbed dead-letters list` shows what has")
    if ids:
        done.waiting = await context.ledger.chunks.retry(ids, now=context.clock())
    for kind in ("chunk", "run", MESSAGE, RECORD):  # the queue has a message, and brings it again
        named = [letter.subject for letter in wanted if letter.kind == kind]
        if named:
            await context.ledger.dead_letters.remove(kind, subjects=named)
    await _deliver_again([letter for letter in wanted if letter.kind == SUBSCRIBER], context)
    unread = {letter.owner for letter in wanted if letter.kind == "source" and letter.subject != WITHHELD}
    done.sources = tuple(sorted(unread))
    await _list_again(done.sources, context)
    done.tasks = await _run_again([letter.subject for letter in wanted if letter.kind == TASK], context)
    files = [letter.subject for letter in wanted if letter.kind == LETTER]
    read = await take_again(files, on) if files else Intake()
    done.waiting += read.chunks
    done.read, done.failures = read.read, read.failures
    return done


async def _deliver_again(wanted: Sequence[Letter], context: Context) -> None:
    """Queue what subscribers did not get for them again."""
    for name in sorted({letter.owner for letter in wanted}):
        keys = [letter.subject for letter in wanted if letter.owner == name]
        ids = {key: found[1] for key in keys if (found := OWN.fullmatch(name_of(key)))}
        await deliver_again(name, keys, ids, context.ledger)
        await context.ledger.dead_letters.remove(SUBSCRIBER, owner=name, subjects=keys)


async def _list_again(sources: Sequence[str], context: Context) -> None:
    """Set the cursors of sources back: one that goes on from fetch to fetch would not list a document again."""
    for source in sources:
        cursor = await context.ledger.documents.cursor(source)
        if cursor.value and not cursor.value.startswith(RELEASING):
            with suppress(Conflict):  # with a fetch that is running, and may be listing everything
                await context.ledger.documents.swap(Swap(cursor=cursor, value=""))


async def _run_again(tasks: Sequence[str], context: Context) -> int:
    """Forget how many workers died at tasks: a worker finds in the ledger that they wait."""
    if not (tasks and isinstance(context.ledger, HoldsWorkers)):
        return 0
    await context.ledger.workers.unmark(DEATHS, tasks)
    await context.ledger.dead_letters.remove(TASK, subjects=tasks)
    return len(tasks)


async def _failed(context: Context) -> list[tuple[ChunkRow, BatchRow | None]]:
    """Return the failed chunks, each with its batch file."""
    states, now = {Status.FAILED}, context.clock()
    found: list[tuple[ChunkRow, BatchRow | None]] = []
    async for page in context.ledger.chunks.batches(states, now=now, sources=()):
        known = await context.ledger.batches.get([batch for batch in page if batch])
        for batch in page:
            rows = await context.ledger.chunks.ready(batch, states, now=now, sources=())
            found += [(row, known.get(batch)) for row in rows]
    return found


def _time(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1e6, UTC)
