"""Unpacks the archive of a delta that nobody vouches for: plain files of a Chroma directory, and nothing else.

Only the standard library is used, since this runs in a child process before anything else is loaded.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DATABASE = "chroma.sqlite3"
# The files of a vector segment, in a folder named after the segment.
SEGMENT_FILES = frozenset(
    {"data_level0.bin", "header.bin", "length.bin", "link_lists.bin", "index_metadata.pickle"}
)
# What SQLite leaves beside a database that is still open, or was not closed.
OPEN_FILES = frozenset({f"{DATABASE}-wal", f"{DATABASE}-journal"})
MOST_FILES = 2_000  # a directory has one file and five for each segment
DEEPEST = 8
LONGEST_NAME = 255
PIECE = 2**20


class RefusedError(Exception):
    """The data cannot be accepted; the message says why."""


class _Bounded(io.RawIOBase):
    """A stream that ends with an error after so many bytes: what they unpack to is not known before."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._limit, self._read = stream, limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # a writable buffer
        piece = self._stream.read(len(view))
        self._read += len(piece)
        if self._read > self._limit:
            raise RefusedError(f"it unpacks to more than {self._limit:,} bytes")
        view[: len(piece)] = piece
        return len(piece)


def unpack(archive: Path, folder: Path, *, most_bytes: int) -> None:
    """Unpack a .tar.gz into an empty folder; files that no Chroma directory has are skipped.

    Raises:
        RefusedError: a member is no plain file or leads outside the folder, or the archive is damaged or too large.
    """
    try:
        with archive.open("rb") as packed, gzip.GzipFile(fileobj=packed) as unpacked:
            stream = io.BufferedReader(_Bounded(unpacked, most_bytes), PIECE)  # type: ignore[arg-type]  # reads bytes
            with tarfile.open(fileobj=stream, mode="r|") as members:
                _unpack(members, folder)
    except (
        tarfile.TarError,
        gzip.BadGzipFile,
        EOFError,
        zlib.error,
        UnicodeError,
        ValueError,
        OverflowError,
    ) as error:
        raise RefusedError(f"it is not a whole .tar.gz: {error}") from error


def _unpack(members: tarfile.TarFile, folder: Path) -> None:
    seen: set[str] = set()
    for member in members:
        name = checked_name(member.name)
        if member.isdir():
            continue
        if reason := _no_plain_file(member):
            raise RefusedError(f"member {name!r} is {reason}")
        if name.lower() in seen:
            raise RefusedError(f"member {name!r} is there twice")
        seen.add(name.lower())
        if len(seen) > MOST_FILES:
            raise RefusedError(f"it has more than {MOST_FILES:,} files")
        content = members.extractfile(member)
        if content is not None and is_wanted(name):
            save(folder, name, content.read)


def _no_plain_file(member: tarfile.TarInfo) -> str:
    """Say what a member is that is not a plain file; empty if it is one."""
    if member.issym() or member.islnk():
        return f"a link to {member.linkname!r}"
    if member.isdev():
        return "a device or a pipe"
    if member.issparse() or any(key.startswith("GNU.sparse") for key in member.pax_headers):
        return "a sparse file"
    if member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE}:
        return f"of the unknown type {member.type!r}"
    return ""


def checked_name(name: str) -> str:
    """Return a name as a path below a folder.

    Raises:
        RefusedError: it leads outside the folder, or cannot be a file's name everywhere.
    """
    shown = name[:200]
    if (
        not name
        or "\\" in name
        or ":" in name
        or any(character < " " or character == "\x7f" for character in name)
    ):
        raise RefusedError(f"member {shown!r} has a name with characters that no delta needs")
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise RefusedError(f"member {shown!r} has a name that is not valid Unicode")
    path = PurePosixPath(name)
    if path.is_absolute():
        raise RefusedError(f"member {shown!r} has an absolute path")
    if ".." in path.parts:
        raise RefusedError(f"member {shown!r} leads to a parent folder")
    if len(path.parts) > DEEPEST or any(len(part.encode()) > LONGEST_NAME for part in path.parts):
        raise RefusedError(f"member {shown!r} has a path that is too long")
    return str(path)


def is_wanted(name: str) -> bool:
    """Return whether a file may be part of a Chroma directory."""
    last = PurePosixPath(name).name
    return last == DATABASE or last in SEGMENT_FILES or last in OPEN_FILES


def save(folder: Path, name: str, read: Callable[[int], bytes]) -> None:
    """Write a new file below the folder, piece by piece."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        while piece := read(PIECE):
            file.write(piece)


def chroma_folder(folder: Path) -> Path:
    """Return the Chroma directory in a folder.

    Raises:
        RefusedError: there is none or more than one, or it was copied while it was open.
    """
    found = sorted(folder.rglob(DATABASE))
    if len(found) != 1:
        raise RefusedError(f"it has {len(found)} files {DATABASE} where it needs one")
    place = found[0].parent
    for name in sorted(OPEN_FILES):
        if (place / name).is_file() and (place / name).stat().st_size:
            raise RefusedError(
                f"it was copied while it was being written: {name} is not empty; close the client first"
            )
    return place
