"""Files with one JSON object per line, the basis of all sources of JSON records."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from flowbed.errors import Misconfigured, Rejected
from flowbed.ledger.text import require_storable
from flowbed.records import Document, Entry, Page, Problem, canonical
from flowbed.records.values import shown
from flowbed.sources.arrays import items
from flowbed.sources.decoding import UNUSABLE, UTF16, decoded, why_not_text
from flowbed.sources.id_table import IdTable
from flowbed.sources.locations import files_below, located, matching
from flowbed.sources.paging import in_pages, in_threads
from flowbed.sources.parsing import parse_json, parse_leniently, parse_record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from pathlib import Path

# A file may be written again within one tick of the file system's clock, 2 s on FAT; older times are reliable.
CLOCK_TICK_NS = 2_000_000_000

# Longer records are not passages of text, and reading them whole would fill the memory.
LONGEST_RECORD = 20 * 2**20

READ_BYTES = 2**20

# Files that cannot be read at all would make a problem of every line: the rest are counted.
MOST_PROBLEMS = 10_000

# How many files a message names.
NAMED = 3

# How much of an overlong path a message shows.
SHOWN = 100

# What a decoder puts in place of what it cannot decode.
REPLACEMENT = "\ufffd"

UTF16_BYTES = 2  # of its byte order mark

# Bits of a place for the line number; the bits above are the file number.
LINE_BITS = 40


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A source of JSON records in a file, in the files of a folder, or in the files that match a pattern.

    `identity` returns the id of a record. `document` gets an id, a record and its text, and returns a function that
    creates its document: most documents are never created, since they have not changed. It returns None for a record
    that is left out as if it were not there. Both raise `Rejected` for invalid records. `fingerprint` names everything
    that decides the result: when it changes, all records are read again. Files that were not touched since a fetch
    without problems are not read. A record whose id cannot be read is a problem of an unknown document: it may be any
    of those missing in the fetch.
    """

    location: str
    folder: Path
    suffixes: tuple[str, ...]
    identity: Callable[[Mapping[str, Any]], str]
    document: Callable[[str, Mapping[str, Any], str], Callable[[], Document] | None]
    fingerprint: str
    clock: Callable[[], int]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List every record, or nothing if no file was touched since `cursor`."""
        async for page in in_threads(self._pages(cursor)):
            yield page

    def require_place(self) -> None:
        """Check that the file, the folder, or a file of the pattern is there.

        Raises:
            Misconfigured: it is not, or cannot be read.
        """
        self._files([])

    def records(self) -> Iterator[Mapping[str, Any]]:
        """Yield every record that can be read, as it is, in the memory of the longest of them.

        Raises:
            Misconfigured: the location does not exist or cannot be read.
        """
        for path in self._files([]).values():
            with suppress(OSError):
                for _, raw, fault in _records(path):
                    with suppress(Rejected):
                        yield _object(_parsed(raw, fault)[1])

    def _pages(self, cursor: str) -> Iterator[Page]:
        began = self.clock() * 1_000
        unlistable: list[Problem] = []
        files = self._files(unlistable)
        before = _stamps(files)
        state = hashlib.sha256(canonical([self.fingerprint, before])).hexdigest()
        if cursor == state and not unlistable:
            yield Page(cursor=cursor)
            return
        scan = _Scan(names=list(files), problems=len(unlistable))
        yield from in_pages((problem, 0) for problem in unlistable)
        yield from in_pages(self._found(files, scan))
        steady = _stamps(files) == before
        settled = all(max(stamp[2:4]) < began - CLOCK_TICK_NS for stamp in before)
        trusted = steady and settled and not scan.problems
        empty = "" if scan.records else self._why_empty(files)
        # Without a cursor, the next fetch reads everything again and finds the same problems, or again no records.
        yield Page(cursor=state if trusted and not empty else "", complete=steady, empty=empty)

    def _why_empty(self, files: Mapping[str, Path]) -> str:
        """Say why no record was found."""
        if not files:
            return f"no file in the folder is named {' or '.join(f'*{suffix}' for suffix in self.suffixes)}"
        return (
            f"there are no records in {', '.join(list(files)[:NAMED])}{' ...' if len(files) > NAMED else ''}"
        )

    def _found(self, files: Mapping[str, Path], scan: _Scan) -> Iterator[tuple[Entry | Problem, int]]:
        for file, (name, path) in enumerate(files.items()):
            unread = 0
            try:
                for number, found, size in self._listed(file, path, scan):
                    if isinstance(found, Entry):
                        yield found, size
                        continue
                    unread += 1
                    if unread <= MOST_PROBLEMS:
                        yield scan.problem(name, number, found.reason, document=found.document), 0
            except OSError as error:
                if path == located(self.location, self.folder):
                    raise Misconfigured(f"{self.location} cannot be read: {error.strerror}") from error
                yield scan.problem(name, 0, f"cannot be read: {error.strerror}"), 0
            if unread > MOST_PROBLEMS:
                reason = f"{unread - MOST_PROBLEMS:,} more of its records could not be read"
                yield scan.problem(name, 0, reason), 0

    def _listed(self, file: int, path: Path, scan: _Scan) -> Iterator[tuple[int, Entry | _Unreadable, int]]:
        for number, raw, fault in _records(path):
            scan.records += 1
            found = self._entry(raw, fault, file << LINE_BITS | number, scan)
            if found is not None:
                yield number, found, len(raw)

    def _entry(self, raw: bytes, fault: str, place: int, scan: _Scan) -> Entry | _Unreadable | None:
        try:
            text, record = _parsed(raw, fault)
            document = self.identity(_object(record))
        except Rejected as error:
            return _Unreadable(str(error), self._guessed(raw))
        if UNUSABLE.search(document):
            # No document with such an id was ever indexed.
            return _Unreadable(f"id {shown(document)} contains control characters", ascii(document)[1:-1])
        try:
            require_storable([document])
            read = self.document(document, record, text)
        except Rejected as error:
            return _Unreadable(str(error), document)
        if read is None:
            return None
        if used := scan.used(document, place):
            return _Unreadable(f"id {document!r} is already used at {used}", document)
        etag = hashlib.sha256(self.fingerprint.encode() + raw).hexdigest()[:32]
        return Entry(document=document, etag=etag, read=read)

    def _guessed(self, raw: bytes) -> str:
        """Return the id of a record that is not valid, where it can be read all the same; otherwise empty."""
        try:
            document = self.identity(parse_leniently(raw))
        except Rejected:
            return ""
        return "" if UNUSABLE.search(document) or REPLACEMENT in document else document

    def _files(self, unlistable: list[Problem]) -> dict[str, Path]:
        """Return the files to read, in order; subfolders that cannot be listed are problems, of any document."""
        path = located(self.location, self.folder)

        def report(folder: Path, error: OSError) -> None:
            if folder == path:
                raise error
            name = ascii(folder.relative_to(path).as_posix())[1:-1]
            subject = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
            unlistable.append(Problem(subject=f"{subject}/", reason=f"cannot be listed: {error.strerror}"))

        try:
            if path.is_dir():
                below = (file for file in files_below(path, report) if file.suffix.lower() in self.suffixes)
                return {file.relative_to(path).as_posix(): file for file in sorted(below)}
            if path.is_file():
                return {path.name: path}
            files = [match for match in matching(self.location, self.folder) if match.is_file()]
        except OSError as error:
            raise Misconfigured(f"{self.location} cannot be read: {error.strerror}") from error
        if not files:
            raise Misconfigured(
                f"{self.location} does not exist, and as a pattern it matches no file; name a file, a folder or a"
                " pattern such as data/*.jsonl"
            )
        if len(files) == 1:
            return {files[0].name: files[0]}
        common = os.path.commonpath([file.parent for file in files])
        return {file.relative_to(common).as_posix(): file for file in files}


@dataclass(frozen=True)
class _Unreadable:
    """Why a record cannot be read, and its document, if known."""

    reason: str
    document: str


@dataclass(kw_only=True)
class _Scan:
    """What one pass over all files has seen so far."""

    names: list[str]
    records: int = 0
    problems: int = 0
    places: IdTable = field(default_factory=IdTable)

    def used(self, document: str, place: int) -> str:
        """Return where an id was seen before this place, for messages, or an empty string."""
        first = self.places.first(document, place)
        return "" if first == place else self._named(first)

    def _named(self, place: int) -> str:
        return f"{self.names[place >> LINE_BITS]}:{place & (1 << LINE_BITS) - 1}"

    def problem(self, name: str, number: int, reason: str, *, document: str = "") -> Problem:
        self.problems += 1
        return Problem(subject=f"{name}:{number}" if number else name, reason=reason, document=document)


def _object(record: Any) -> Mapping[str, Any]:  # any JSON value
    if not isinstance(record, dict):
        raise Rejected(f"expected a JSON object, found {_KINDS.get(type(record), 'a number')}")
    return record


_KINDS = {str: "a string", list: "a list", bool: "a boolean", type(None): "null"}


def _parsed(raw: bytes, fault: str) -> tuple[str, Any]:
    if fault:
        raise Rejected(fault)
    return parse_record(raw)


def _stamps(files: Mapping[str, Path]) -> list[list[Any]]:
    """Return size, time and identity of each file."""
    stamps = []
    for name, path in files.items():
        try:
            stat = path.stat()
        except OSError:
            stamps.append([os.fsencode(name).hex(), -1, 0, 0, 0])
        else:
            # Programs can set the time of a file's content back, but not that of its last change.
            times = [stat.st_mtime_ns, stat.st_ctime_ns]
            stamps.append([os.fsencode(name).hex(), stat.st_size, *times, stat.st_ino])
    return stamps


def _records(path: Path) -> Iterator[tuple[int, bytes, str]]:
    """Yield (line number, record, fault); a `.json` file may also be a single record, or a list of records."""
    with path.open("rb", buffering=READ_BYTES) as file:
        start = file.read(UTF16_BYTES)
        if start in UTF16:
            yield 0, b"", why_not_text(start, final=False)
            return
        records: Iterable[tuple[int, bytes, str]] | None = None
        if path.suffix.lower() == ".json":
            head = start + file.read(LONGEST_RECORD)
            if not head.strip():
                # One that is being written; without records, it would be a list without items.
                yield 0, b"", "the file is empty, which is not JSON; a list without records is []"
                return
            records = _whole(head)
            if records is None and head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
                records = items(file, longest=LONGEST_RECORD)
        file.seek(0)
        yield from _lines(file) if records is None else records


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes, str]]:
    number = 0
    while raw := file.readline(LONGEST_RECORD + 1):
        number += 1
        whole_line = raw.endswith(b"\n")
        if len(raw) > LONGEST_RECORD and not whole_line:
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(READ_BYTES)
            yield number, b"", f"longer than {LONGEST_RECORD:,} bytes"
            continue
        raw = raw.strip()
        if raw:
            yield number, raw, "" if whole_line else _cut_short(raw)


def _is_one_object(start: bytes) -> bool:
    """Tell whether a long file starts as an object that goes on in the next line."""
    return start.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0].strip() == b"{"


def _whole(raw: bytes) -> list[tuple[int, bytes, str]] | None:
    """Parse a file as one JSON object, or as a list of objects; None if it is neither, or longer than a record."""
    if len(raw) > LONGEST_RECORD:
        fault = f"one JSON value of more than {LONGEST_RECORD:,} bytes: write one record per line"
        return [(0, b"", fault)] if _is_one_object(raw) else None
    try:
        value = parse_json(decoded(raw))
    except Rejected:
        return None
    if isinstance(value, list):
        return [(number, *_written(item)) for number, item in enumerate(value, start=1)]
    return [(1, raw.strip(), "")]


def _written(item: Any) -> tuple[bytes, str]:  # any JSON value
    """Write a record of a list as a line by itself; return also what is wrong with it."""
    try:
        return canonical(item), ""
    except UnicodeEncodeError:  # half a character, which its escape may name
        return json.dumps(item).encode(), ""
    except RecursionError:
        return b"", "not JSON: nested too deeply"


def _cut_short(raw: bytes) -> str:
    """Return a message if the last line of a file, which has no line end, stops inside its record."""
    try:
        parse_json(decoded(raw))
    except Rejected as error:
        return f"the file ends in the middle of this record ({error})"
    return ""
