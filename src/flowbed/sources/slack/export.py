"""Read the export of a Slack workspace, channel by channel."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import orjson

from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Entry, Page, Problem, canonical
from flowbed.records.values import listing, suggestion
from flowbed.sources.paging import in_pages, in_threads
from flowbed.sources.slack.links import linked_in_export
from flowbed.sources.slack.messages import (
    REVISION,
    Channel,
    checked,
    document_key,
    etag,
    has_text,
    read_document,
    timestamp,
    usable,
    user_name,
)
from flowbed.sources.slack.text import Names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence

    from flowbed.records import Document, Linked
    from flowbed.sources.slack.export_files import ExportFiles, OpenedExport

# Of one file, these are reported one by one, and the others as a number.
MOST_PROBLEMS = 20

# Files that a message names; the others are counted.
NAMED = 3

# A file may be written again within one tick of the file system's clock, 2 s on FAT; older times are reliable.
CLOCK_TICK_NS = 2_000_000_000

# Lists of channels that have a name; the others are called after their members.
_NAMED = ("channels.json", "groups.json")

_TABLE = (
    "CREATE TABLE found (seconds INT, counter INT, document TEXT, raw BLOB, PRIMARY KEY (seconds, counter))"
)
# A parent may come without its thread, from before its first reply.
_PARENTS = """
UPDATE found SET document = 't/' || printf('%d.%06d', seconds, counter)
WHERE document LIKE 'd/%' AND 't/' || printf('%d.%06d', seconds, counter) IN (SELECT document FROM found)
"""
_SORTED = "SELECT document, raw FROM found ORDER BY document, seconds, counter"


@dataclass(frozen=True, kw_only=True)
class Export:
    """A source of the threads and days of an export; a document's id is `{channel}/t/{thread}` or `{channel}/d/{day}`.

    A channel's messages are sorted in a temporary database, since the replies of a thread lie in the files of the days
    on which they were sent.
    """

    location: str
    files: ExportFiles
    channels: tuple[str, ...]
    base: str
    clock: Callable[[], int]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List every thread and day, or nothing if no file was changed since `cursor`."""
        async for page in in_threads(self._pages(cursor)):
            yield page

    def require_place(self) -> None:
        """Check that the export is there.

        Raises:
            Misconfigured: it does not exist, cannot be read, or is no export.
        """
        with self.files.opened():
            return

    def linked(self, link: str, cursor: str) -> Linked | None:  # noqa: ARG002 - an export is read as a whole
        """Return what a link to a message points to."""
        return linked_in_export(link, self.base)

    def _pages(self, cursor: str) -> Iterator[Page]:
        began = self.clock() * 1_000
        with self.files.opened() as export:
            state = hashlib.sha256(canonical([REVISION, self.base, self.channels, export.stamps])).hexdigest()
            if cursor == state:
                yield Page(cursor=cursor)
                return
            trouble, found = False, 0
            for page in in_pages(self._found(export)):
                trouble = trouble or bool(page.problems)
                found += len(page.entries)
                yield page
        with self.files.opened() as again:
            steady = again.stamps == export.stamps
        settled = export.newest < began - CLOCK_TICK_NS
        # Without a cursor, the next fetch reads everything again and reports the same problems.
        yield Page(
            cursor=state if steady and settled and not trouble else "",
            complete=steady,
            empty="" if found else self._why_empty(),
        )

    def _why_empty(self) -> str:
        if self.channels:
            return f"there are no messages of {', '.join(self.channels)} in the export"
        return (
            "there are no messages in the export; if it is a part of one, give the folder that has users.json"
        )

    def _found(self, export: OpenedExport) -> Iterator[tuple[Entry | Problem, int]]:
        lists = _Lists(export)
        chosen = self._chosen(lists)
        yield from ((problem, 0) for problem in lists.problems)
        yield from ((problem, 0) for problem in _unread(export, lists.channels.keys() - chosen.keys()))
        names = Names(users=lists.users, channels={each.id: each.name for each in lists.channels.values()})
        for folder, days in export.days.items():
            if folder not in chosen:
                continue
            channel = Channel(id=chosen[folder].id, label=chosen[folder].label)
            # A file that is deleted at the end; pages are made in several threads, one after the other.
            with closing(sqlite3.connect("", check_same_thread=False)) as database:
                database.execute(_TABLE)
                for name in days:
                    yield from ((problem, 0) for problem in _read_day(export, name, channel, database))
                database.execute(_PARENTS)
                yield from self._documents(channel, database, names)

    def _chosen(self, lists: _Lists) -> Mapping[str, _Listed]:
        """Return the channels to read, by their folders.

        Raises:
            Misconfigured: one that the options name does not exist.
        """
        channels = lists.channels
        if not self.channels:
            return channels
        known = {name: folder for folder, each in channels.items() for name in (each.id, each.name, folder)}
        for name in self.channels:
            if name not in known and lists.unread:
                continue  # it may be in a list that cannot be read
            if name not in known:
                raise Misconfigured(
                    f"{self.location} has no channel {name!r}{suggestion(name, known)}; it has: "
                    f"{', '.join(sorted(each.name for each in channels.values())) or 'none'}"
                )
        return {known[name]: channels[known[name]] for name in self.channels if name in known}

    def _documents(
        self, channel: Channel, database: sqlite3.Connection, names: Names
    ) -> Iterator[tuple[Entry, int]]:
        for key, rows in groupby(database.execute(_SORTED), key=lambda row: row[0]):
            raw = [row[1] for row in rows]
            messages = [orjson.loads(each) for each in raw]
            read = partial(self._read, channel, key, raw, names)
            entry = Entry(document=f"{channel.id}/{key}", etag=etag(channel, messages, self.base), read=read)
            yield entry, sum(map(len, raw))

    def _read(self, channel: Channel, key: str, raw: Sequence[bytes], names: Names) -> Document:
        return read_document(channel, key, [orjson.loads(each) for each in raw], names, self.base)


def _unread(export: OpenedExport, unwanted: Collection[str]) -> Iterator[Problem]:
    """Name the files that are not read, although they may have messages; `unwanted` are folders of other channels."""
    for folder, names in export.unread.items():
        if folder in unwanted:
            continue
        reason = (
            "not read: files of an export are named after days, such as general/2026-01-31.json; rename those with"
            " messages, or move them away"
        )
        subject = listing(names, none="none", most=NAMED)
        yield Problem(subject=subject, reason=reason, skipped=True)


def _read_day(
    export: OpenedExport, name: str, channel: Channel, database: sqlite3.Connection
) -> Iterator[Problem]:
    """Put the messages of a file into the database; what cannot be read of it is skipped."""
    try:
        messages, doubtful = export.json(name)
        if not isinstance(messages, list):
            raise Rejected("expected a list of messages")  # noqa: TRY301 - reported as any other fault of the file
    except Rejected as error:
        # It may hold messages of any document of its channel: what was indexed of them is kept.
        yield Problem(subject=name, reason=str(error), skipped=True, folder=f"{channel.id}/")
        return
    rows, faults = [], 0
    for number, message in enumerate(messages, start=1):
        try:
            rows += _row(message, doubtful=doubtful)
        except Rejected as error:
            faults += 1
            if faults <= MOST_PROBLEMS:
                yield Problem(subject=f"{name}:{number}", reason=str(error), skipped=True)
    # A reply that was also sent to the channel is listed twice.
    database.executemany("INSERT OR IGNORE INTO found VALUES (?, ?, ?, ?)", rows)
    if faults > MOST_PROBLEMS:
        reason = f"{faults - MOST_PROBLEMS:,} more of its messages could not be read"
        yield Problem(subject=name, reason=reason, skipped=True)


def _row(message: object, *, doubtful: bool) -> list[tuple[int, int, str, bytes]]:
    """Return the row of a message, and none of a message without text."""
    if doubtful:
        _require_whole(message)
    kept = checked(message)
    return [(*timestamp(kept["ts"]), document_key(kept), orjson.dumps(kept))] if has_text(kept) else []


def _require_whole(message: object) -> None:
    try:
        orjson.dumps(message)
    except (TypeError, ValueError) as error:
        raise Rejected("contains half a character, or a number of more than 64 bits") from error


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """A channel as the export lists it; `name` is empty of a mark, `label` is how readers know it."""

    id: str
    name: str
    label: str


class _Lists:
    """The channels, by the folders of their messages, and the users of an export.

    `unread` are folders that are in no list, while one cannot be read: their ids are not known.
    """

    def __init__(self, export: OpenedExport) -> None:
        self.problems: list[Problem] = []
        self.users: dict[str, str] = {}
        self.channels: dict[str, _Listed] = {}
        for file in ("users.json", "org_users.json"):
            for user in self._objects(export, file):
                self.users[user["id"]] = user_name(user)
        before = len(self.problems)
        for file in ("channels.json", "groups.json", "mpims.json", "dms.json"):
            for each in self._objects(export, file):
                name = usable(each.get("name")) or each["id"]
                label = f"#{name}" if file in _NAMED else self._people(each.get("members"))
                self.channels[name] = _Listed(id=each["id"], name=name, label=label)
        unlisted = [folder for folder in export.days if not self._is_listed(folder, export)]
        broken = self.problems[before:]
        self.unread = unlisted if broken else []
        if self.unread:
            # Read under its name, all of a folder would be embedded again. Since any document may be one of it, what is
            # indexed is kept.
            self.problems[before:] = [replace(each, skipped=False) for each in broken]
        for folder in unlisted:
            reason = "is in none of the lists of channels; its name takes the place of its id"
            if self.unread:
                reason = "not read, since its id is not known while a list of channels cannot be read"
            else:
                self.channels[folder] = _Listed(id=folder, name=folder, label=f"#{folder}")
            self.problems.append(Problem(subject=f"{folder}/", reason=reason, skipped=True))

    def _is_listed(self, folder: str, export: OpenedExport) -> bool:
        name = normalize("NFC", folder)  # some file systems and archives decompose names
        if folder not in self.channels and name in self.channels and name not in export.days:
            self.channels[folder] = self.channels.pop(name)
        return folder in self.channels

    def _people(self, members: object) -> str:
        """Name a conversation after its members."""
        ids = members if isinstance(members, list) else []
        people = ", ".join(self.users.get(user, user) for user in ids if isinstance(user, str))
        return f"DM {people}".strip()

    def _objects(self, export: OpenedExport, file: str) -> Iterator[dict[str, Any]]:
        """Yield the objects of a list that have an id; a list that cannot be read is a problem."""
        if file not in export.lists:
            return
        try:
            value, _ = export.json(file)
            if not isinstance(value, list):
                raise Rejected("expected a list")  # noqa: TRY301 - reported as any other fault of the file
        except Rejected as error:
            self.problems.append(Problem(subject=file, reason=str(error), skipped=True))
            return
        for each in value:
            if isinstance(each, dict) and usable(each.get("id")):
                yield each
