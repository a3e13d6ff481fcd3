"""Read the files of DiscordChatExporter, message by message."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Entry, Page, Problem, canonical
from flowbed.records.values import suggestion
from flowbed.sources.discord.export_files import OtherJson, export_files, read_head, read_messages, stamp
from flowbed.sources.discord.links import linked_in_export
from flowbed.sources.discord.messages import (
    REVISION,
    THREAD_STARTER,
    Place,
    day_key,
    day_of,
    etag,
    from_export,
    has_text,
    quoted,
    read_document,
)
from flowbed.sources.discord.text import Names
from flowbed.sources.paging import in_pages, in_threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from flowbed.records import Document, Linked
    from flowbed.sources.discord.export_files import Head

# Of one file, these are reported one by one, and the others as a number.
MOST_PROBLEMS = 20
# A file may be written again within one tick of the file system's clock, 2 s on FAT; older times are reliable.
CLOCK_TICK_NS = 2_000_000_000
# Messages that are written to the temporary database at once.
BLOCK = 100

_TABLE = "CREATE TABLE found (id INTEGER PRIMARY KEY, place INT, key TEXT, raw BLOB)"
_SORTED = "SELECT place, key, raw FROM found ORDER BY place, key, id"
_ONE = "SELECT raw FROM found WHERE id = ?"
_NO_NAMES = Names()
_Row = tuple[int, int, str, bytes]


@dataclass(frozen=True, kw_only=True)
class Export:
    """A source of the threads and days of exports; a document's id is `{channel}/t/{thread}` or `{channel}/d/{day}`.

    Messages are sorted in a temporary database, since parts of a channel are several files, and what a reply answers
    may be in another one.
    """

    location: str
    folder: Path
    channels: tuple[str, ...]
    clock: Callable[[], int]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List every thread and day, or nothing if no file was changed since `cursor`."""
        async for page in in_threads(self._pages(cursor)):
            yield page

    def require_place(self) -> None:
        """Check that the exports are there.

        Raises:
            Misconfigured: they are not, or cannot be read.
        """
        export_files(self.location, self.folder)

    def linked(self, link: str, cursor: str) -> Linked | None:  # noqa: ARG002 - an export is read as a whole
        """Return what a link to a message points to."""
        return linked_in_export(link, self._parents)

    def _parents(self) -> dict[str, str]:
        """Return the channel of each thread; files that cannot be read have none."""
        parents: dict[str, str] = {}
        with suppress(Misconfigured):
            for path in export_files(self.location, self.folder).values():
                with suppress(Rejected, OSError):
                    place = read_head(path).place
                    parents |= {place.thread: place.channel} if place.thread else {}
        return parents

    def _pages(self, cursor: str) -> Iterator[Page]:
        began = self.clock() * 1_000
        files = export_files(self.location, self.folder)
        before = _stamps(files)
        state = hashlib.sha256(canonical([REVISION, self.channels, before])).hexdigest()
        if cursor == state:
            yield Page(cursor=cursor)
            return
        reading = _Reading()
        for page in in_pages(self._found(files, reading)):
            reading.trouble |= bool(page.problems)
            yield page
        steady = _stamps(files) == before
        settled = all(max(each[2:4]) < began - CLOCK_TICK_NS for each in before)
        trusted = steady and settled and not reading.trouble
        # Without a cursor, the next fetch reads everything again and reports the same problems.
        yield Page(
            cursor=state if trusted and reading.messages else "",
            # What a range of dates does not have may exist all the same.
            complete=steady and bool(reading.kept or not reading.partial),
            kept=tuple(reading.kept) if reading.partial else (),
            empty="" if reading.messages else _why_empty(files, self.channels),
        )

    def _found(self, files: Mapping[str, Path], reading: _Reading) -> Iterator[tuple[Entry | Problem, int]]:
        heads: dict[str, Head] = {}
        for name, path in files.items():
            try:
                heads[name] = read_head(path)
            except (Rejected, OSError) as error:
                # Other JSON never was an export. Anything else may have been that of any channel, which is then kept.
                other = isinstance(error, OtherJson)
                reading.unread |= not other
                yield Problem(subject=name, reason=_why(error), skipped=other), 0
        missing: list[Problem] = []
        chosen = self._chosen(heads, missing if reading.unread else None)
        yield from ((problem, 0) for problem in missing)
        places = list(dict.fromkeys(head.place for head in chosen.values()))
        # A file that is deleted at the end; pages are made in several threads, one after the other.
        with closing(sqlite3.connect("", check_same_thread=False)) as database:
            database.execute(_TABLE)
            for name, head in chosen.items():
                reading.partial |= head.partial
                if self.channels:
                    place = head.place
                    reading.kept.append(f"{place.channel}/{place.thread and f't/{place.thread}'}")
                number = places.index(head.place)
                for problem in _read_file(name, files[name], head, number, database, reading):
                    yield problem, 0
            yield from _documents(places, database)

    def _chosen(self, heads: Mapping[str, Head], missing: list[Problem] | None) -> Mapping[str, Head]:
        """Return the files of the channels to read; those without a file are put into `missing`, where it is given.

        Raises:
            Misconfigured: one that the options name does not exist.
        """
        if not self.channels:
            return heads
        known = {
            name: each.name
            for each in heads.values()
            for name in (each.name, each.place.channel, each.place.thread, each.place.title)
            if name
        }
        for name in self.channels:
            if name not in known and missing is not None:
                reason = "no file that can be read is of this channel; what is indexed of it is kept"
                missing.append(Problem(subject=name, reason=reason, skipped=True))
            elif name not in known:
                raise Misconfigured(
                    f"{self.location} has no channel {name!r}{suggestion(name, known)}; it has: "
                    f"{', '.join(sorted(set(known.values()))) or 'none'}"
                )
        return {
            name: each
            for name, each in heads.items()
            if {each.name, each.place.channel, each.place.thread, each.place.title} & set(self.channels)
        }


@dataclass(kw_only=True)
class _Reading:
    """One fetch: how many messages were found, whether something was `trouble`, and whether dates are left out.

    `unread` says that a file may be an export, and cannot be read. `kept` is how ids of documents of the channels begin
    that the options name.
    """

    messages: int = 0
    trouble: bool = False
    partial: bool = False
    unread: bool = False
    kept: list[str] = field(default_factory=list)


def _read_file(
    name: str, path: Path, head: Head, place: int, database: sqlite3.Connection, reading: _Reading
) -> Iterator[Problem]:
    """Put the messages of a file into the database; what cannot be read of it is skipped."""
    rows: list[_Row] = []
    faults = 0
    key = f"t/{head.place.thread}" if head.place.thread else ""
    try:
        for number, message, fault in read_messages(path, head):
            if fault:
                # What cannot be parsed have been of any document of its channel: what was indexed of them is kept.
                yield Problem(
                    subject=f"{name}:{number}", reason=fault, skipped=True, folder=f"{head.place.channel}/"
                )
                continue
            reading.messages += 1
            try:
                rows += _row(message, place, key)
            except Rejected as error:
                faults += 1
                if faults <= MOST_PROBLEMS:
                    yield Problem(subject=f"{name}:{number}", reason=str(error), skipped=True)
            if len(rows) >= BLOCK:
                _insert(database, rows)
    except OSError as error:
        yield Problem(subject=name, reason=_why(error), skipped=True, folder=f"{head.place.channel}/")
    _insert(database, rows)
    if faults > MOST_PROBLEMS:
        reason = f"{faults - MOST_PROBLEMS:,} more of its messages could not be read"
        yield Problem(subject=name, reason=reason, skipped=True)


def _row(message: Any, place: int, key: str) -> list[_Row]:  # any JSON value
    """Return the row of a message, and none of a message without text."""
    kept = from_export(message)
    if kept.get("type") != THREAD_STARTER and not has_text(kept):
        return []
    id_ = int(kept["id"])
    try:
        return [(id_, place, key or day_key(day_of(id_)), orjson.dumps(kept))]
    except TypeError as error:
        raise Rejected("contains half a character") from error


def _insert(database: sqlite3.Connection, rows: list[_Row]) -> None:
    # Of a message that two exports have, the one of the later file in the order of names counts.
    database.executemany("INSERT OR REPLACE INTO found VALUES (?, ?, ?, ?)", rows)
    rows.clear()


def _documents(places: Sequence[Place], database: sqlite3.Connection) -> Iterator[tuple[Entry, int]]:
    for (number, key), rows in groupby(database.execute(_SORTED), key=lambda row: (row[0], row[1])):
        place = places[number]
        messages, raw = [], []
        for row in rows:
            message = orjson.loads(row[2])
            whole = _completed(message, database)
            if has_text(whole):
                messages.append(whole)
                raw.append(row[2] if whole is message else orjson.dumps(whole))
        if not messages:
            continue
        read = partial(_read, place, key, raw)
        yield (
            Entry(document=f"{place.channel}/{key}", etag=etag(place, messages), read=read),
            sum(map(len, raw)),
        )


def _completed(message: dict[str, Any], database: sqlite3.Connection) -> dict[str, Any]:
    """Add what a reply answers, or the message that a thread was begun on, where an export has it."""
    answered = message.get("answers", "")
    row = database.execute(_ONE, (int(answered),)).fetchone() if answered else None
    if row is None:
        return message
    other = orjson.loads(row[0])
    other.pop("answers", None)
    if message.get("type") == THREAD_STARTER:
        return {**message, "starter": other}
    return {**message, "quote": quoted(other)}


def _read(place: Place, key: str, raw: Sequence[bytes]) -> Document:
    return read_document(place, key, [orjson.loads(each) for each in raw], _NO_NAMES)


def _stamps(files: Mapping[str, Path]) -> list[list[Any]]:
    stamps = []
    for name, path in files.items():
        own = os.fsencode(name).hex()
        try:
            stamps.append([own, *stamp(path)])
        except OSError:
            stamps.append([own, -1, 0, 0, 0])
    return stamps


def _why(error: Exception) -> str:
    return f"cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)


def _why_empty(files: Mapping[str, Path], channels: Sequence[str]) -> str:
    if not files:
        return "the folder has no *.json; export with DiscordChatExporter in the format Json"
    among = f" of {', '.join(channels)}" if channels else ""
    return f"there are no messages{among} in {len(files):,} file{'s' if len(files) > 1 else ''}"
