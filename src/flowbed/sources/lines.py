"""Files that hold one JSON object a line: what the sources of JSON records share."""

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
from flowbed.sources.id_table import Places
from flowbed.sources.paging import in_threads, paged
from flowbed.sources.parsing import parsed, parsed_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

# A file may be written again within one tick of its clock, which is 2 s on FAT; older times can be trusted.
SETTLED_NS = 2_000_000_000

# Records past this are no passages of text; reading them whole would fill the memory.
LONGEST_RECORD = 20 * 2**20

READ_BYTES = 2**20

# Of a place, the bits that number a line in its file; those above them number the file.
LINE_BITS = 40


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A source of JSON records in a file, in the files of a folder or in those that a pattern names.

    `document` tells the id of a record, given with its text, and how to make its document: most are never made, as they
    have not changed. It raises `Rejected` for what can be none. `fingerprint` names everything that decides what it
    makes: records are read again when it changes. Files that have not been touched since a fetch
    without problems are not read again. A record that cannot be read is a problem of no known document: it may be any
    of those that the fetch missed.
    """

    location: str
    path: Path
    suffixes: tuple[str, ...]
    document: Callable[[Mapping[str, Any], str], tuple[str, Callable[[], Document]]]
    fingerprint: str
    clock: Callable[[], int]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List every record, or nothing where no file was touched since `cursor`."""
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
        yield from paged(self._found(files, scan))
        steady = _stamps(files) == before
        settled = all(stamp[2] < began - SETTLED_NS for stamp in before)
        trusted = steady and settled and not scan.problems
        # Without a cursor the next fetch reads everything again, and finds the same problems.
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
        text, record = parsed(raw)
        if not isinstance(record, dict):
            raise Rejected(f"a record is a JSON object, this is {_KINDS.get(type(record), 'a number')}")
        document, read = self.document(record, text)
        if UNUSABLE.search(document):
            raise Rejected(f"id {document!r} holds control characters")
        return document, read

    def _below(self) -> Iterator[Path]:
        """Go through a folder; one in it that cannot be listed stops the fetch, since it may hold any record."""

        def refuse(error: OSError) -> None:
            raise Misconfigured(
                f"folder {error.filename} of {self.location} cannot be listed: {error.strerror}"
            ) from error

        for folder, folders, names in os.walk(self.path, onerror=refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            paths = (Path(folder, name) for name in names if not name.startswith("."))
            yield from (path for path in paths if path.suffix in self.suffixes and path.is_file())

    def _files(self) -> dict[str, Path]:
        """Name the files to read, in order."""
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
    """What one reading of all files has met so far."""

    names: list[str]
    problems: int = 0
    places: Places = field(default_factory=Places)

    def named(self, place: int) -> str:
        """Write a place for people."""
        return f"{self.names[place >> LINE_BITS]}:{place & (1 << LINE_BITS) - 1}"

    def problem(self, name: str, number: int, reason: str, *, document: str = "") -> Problem:
        self.problems += 1
        return Problem(subject=f"{name}:{number}" if number else name, reason=reason, document=document)


_KINDS = {str: "a text", list: "a list", bool: "a truth value", type(None): "null"}


def _stamps(files: Mapping[str, Path]) -> list[list[Any]]:
    """Note size, time and identity of each file."""
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
    """Read (line number, record, fault); a `.json` file may also be a single record, or a list of them."""
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
    """Read a file as one JSON object, or as a list of them; None where it is neither."""
    try:
        value = parsed_text(decoded(raw))
    except Rejected:
        return None
    if isinstance(value, list):
        return [(number, canonical(item), "") for number, item in enumerate(value, start=1)]
    return [(1, raw.strip(), "")]


def _cut_short(raw: bytes) -> str:
    """Say that the last line of a file, which has no line end, stops within its record, where it does."""
    try:
        parsed_text(decoded(raw))
    except Rejected as error:
        return f"the file ends in the middle of this record ({error})"
    return ""
