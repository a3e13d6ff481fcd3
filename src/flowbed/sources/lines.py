"""Files with one JSON object per line, the basis of all sources of JSON records."""

from __future__ import annotations

import glob
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Document, Entry, Page, Problem, canonical
from flowbed.sources.decoding import UNUSABLE, decoded
from flowbed.sources.id_table import IdTable
from flowbed.sources.paging import in_pages, in_threads
from flowbed.sources.parsing import parse_json, parse_record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

# A file may be written again within one tick of the file system's clock, 2 s on FAT; older times are reliable.
CLOCK_TICK_NS = 2_000_000_000

# Longer records are not passages of text, and reading them whole would fill the memory.
LONGEST_RECORD = 20 * 2**20

READ_BYTES = 2**20

# Bits of a place for the line number; the bits above are the file number.
LINE_BITS = 40


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A source of JSON records in a file, in the files of a folder, or in the files that match a pattern.

    `document` gets a record and its text, and returns the record's id and a function that creates its document: most
    documents are never created, since they have not changed. It raises `Rejected` for invalid records. `fingerprint`
    names everything that decides the result: when it changes, all records are read again. Files that were not touched
    since a fetch without problems are not read. A record that cannot be read is a problem of an unknown document: it
    may be any of those missing in the fetch.
    """

    location: str
    path: Path
    suffixes: tuple[str, ...]
    document: Callable[[Mapping[str, Any], str], tuple[str, Callable[[], Document]]]
    fingerprint: str
    clock: Callable[[], int]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List every record, or nothing if no file was touched since `cursor`."""
        async for page in in_threads(self._pages(cursor)):
            yield page

    def _pages(self, cursor: str) -> Iterator[Page]:
        began = self.clock() * 1_000
        files = self._files()
        before = _stamps(files)
        state = hashlib.sha256(canonical([self.fingerprint, before])).hexdigest()
        if cursor == state:
            yield Page(cursor=cursor)
            return
        scan = _Scan(names=list(files))
        yield from in_pages(self._found(files, scan))
        steady = _stamps(files) == before
        settled = all(stamp[2] < began - CLOCK_TICK_NS for stamp in before)
        trusted = steady and settled and not scan.problems
        # Without a cursor, the next fetch reads everything again and finds the same problems.
        yield Page(cursor=state if trusted else "", complete=steady)

    def _found(self, files: Mapping[str, Path], scan: _Scan) -> Iterator[tuple[Entry | Problem, int]]:
        salt = self.fingerprint.encode()
        for file, (name, path) in enumerate(files.items()):
            try:
                for number, raw, fault in _records(path):
                    try:
                        document, read = self._parsed(raw, fault)
                    except Rejected as error:
                        yield scan.problem(name, number, str(error)), 0
                        continue
                    place = file << LINE_BITS | number
                    first = scan.places.first(document, place)
                    if first != place:
                        reason = f"id {document!r} is already used at {scan.named(first)}"
                        yield scan.problem(name, number, reason, document=document), 0
                        continue
                    etag = hashlib.sha256(salt + raw).hexdigest()[:32]
                    yield Entry(document=document, etag=etag, read=read), len(raw)
            except OSError as error:
                if path == self.path:
                    raise Misconfigured(f"{self.location} cannot be read: {error.strerror}") from error
                yield scan.problem(name, 0, f"cannot be read: {error.strerror}"), 0

    def _parsed(self, raw: bytes, fault: str) -> tuple[str, Callable[[], Document]]:
        if fault:
            raise Rejected(fault)
        text, record = parse_record(raw)
        if not isinstance(record, dict):
            raise Rejected(f"expected a JSON object, found {_KINDS.get(type(record), 'a number')}")
        document, read = self.document(record, text)
        if UNUSABLE.search(document):
            raise Rejected(f"id {document!r} contains control characters")
        return document, read

    def _below(self) -> Iterator[Path]:
        """Walk through a folder; a subfolder that cannot be listed stops the fetch, since it may contain any record."""

        def refuse(error: OSError) -> None:
            raise Misconfigured(
                f"folder {error.filename} of {self.location} cannot be listed: {error.strerror}"
            ) from error

        for folder, folders, names in os.walk(self.path, onerror=refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            paths = (Path(folder, name) for name in names if not name.startswith("."))
            yield from (path for path in paths if path.suffix in self.suffixes and path.is_file())

    def _files(self) -> dict[str, Path]:
        """Return the files to read, in order."""
        try:
            if self.path.is_dir():
                return {path.relative_to(self.path).as_posix(): path for path in sorted(self._below())}
            if self.path.is_file():
                return {self.path.name: self.path}
            matches = [Path(match) for match in sorted(glob.glob(str(self.path), recursive=True))]  # noqa: PTH207
        except OSError as error:
            raise Misconfigured(f"{self.location} cannot be read: {error.strerror}") from error
        files = [match for match in matches if match.is_file()]
        if not files:
            raise Misconfigured(
                f"{self.location} does not exist; name a file, a folder or a pattern such as data/*.jsonl"
            )
        if len(files) == 1:
            return {files[0].name: files[0]}
        common = os.path.commonpath([file.parent for file in files])
        return {file.relative_to(common).as_posix(): file for file in files}


@dataclass(kw_only=True)
class _Scan:
    """What one pass over all files has seen so far."""

    names: list[str]
    problems: int = 0
    places: IdTable = field(default_factory=IdTable)

    def named(self, place: int) -> str:
        """Format a place for messages."""
        return f"{self.names[place >> LINE_BITS]}:{place & (1 << LINE_BITS) - 1}"

    def problem(self, name: str, number: int, reason: str, *, document: str = "") -> Problem:
        self.problems += 1
        return Problem(subject=f"{name}:{number}" if number else name, reason=reason, document=document)


_KINDS = {str: "a string", list: "a list", bool: "a boolean", type(None): "null"}


def _stamps(files: Mapping[str, Path]) -> list[list[Any]]:
    """Return size, time and identity of each file."""
    stamps = []
    for name, path in files.items():
        try:
            stat = path.stat()
        except OSError:
            stamps.append([name, -1, 0, 0])
        else:
            stamps.append([name, stat.st_size, stat.st_mtime_ns, stat.st_ino])
    return stamps


def _records(path: Path) -> Iterator[tuple[int, bytes, str]]:
    """Yield (line number, record, fault); a `.json` file may also be a single record, or a list of records."""
    with path.open("rb", buffering=READ_BYTES) as file:
        if path.suffix == ".json":
            whole = file.read(LONGEST_RECORD)
            records = _whole(whole)
            if records is not None:
                yield from records
                return
            file.seek(0)
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
            if not raw:
                continue
            yield number, raw, "" if whole_line else _cut_short(raw)


def _whole(raw: bytes) -> list[tuple[int, bytes, str]] | None:
    """Parse a file as one JSON object, or as a list of objects; None if it is neither."""
    try:
        value = parse_json(decoded(raw))
    except Rejected:
        return None
    if isinstance(value, list):
        return [(number, canonical(item), "") for number, item in enumerate(value, start=1)]
    return [(1, raw.strip(), "")]


def _cut_short(raw: bytes) -> str:
    """Return a message if the last line of a file, which has no line end, stops inside its record."""
    try:
        parse_json(decoded(raw))
    except Rejected as error:
        return f"the file ends in the middle of this record ({error})"
    return ""
