"""The files of a Slack export: a folder, or a zip file with the same content."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Misconfigured, Rejected
from flowbed.sources.decoding import decoded
from flowbed.sources.locations import located
from flowbed.sources.parsing import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

LISTS = ("channels.json", "groups.json", "dms.json", "mpims.json", "users.json", "org_users.json")

# Files of exports without messages, of Slack's and of programs that make exports, and folders with uploads.
OTHERS = frozenset(
    {
        "canvas_in_the_conversation.json",
        "canvases.json",
        "emoji.json",
        "file_conversations.json",
        "huddle_transcripts.json",
        "integration_logs.json",
        "lists.json",
    }
)
UPLOADS = frozenset({"__uploads", "attachments", "files"})

# A day of the busiest channels has a tenth of it; a zip file may hold a file of any size in few bytes.
LARGEST_BYTES = 64 * 2**20

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\.json")


class ExportFiles:
    """The files of an export, by their paths below its top."""

    def __init__(self, location: str, folder: Path) -> None:
        """Store where they are; nothing is read yet."""
        self.location = location
        self._path = located(location, folder)

    @contextmanager
    def opened(self) -> Iterator[OpenedExport]:
        """Open the export for reading.

        Raises:
            Misconfigured: it does not exist, cannot be read, or is no export.
        """
        try:
            if self._path.is_dir():
                yield _checked(self.location, _of_folder(self._path))
                return
            with zipfile.ZipFile(self._path) as archive:
                yield _checked(self.location, _of_zip(archive, self._path))
        except FileNotFoundError as error:
            raise Misconfigured(
                f"{self.location} does not exist; give the folder or the zip file of a Slack export"
            ) from error
        except zipfile.BadZipFile as error:
            raise Misconfigured(
                f"{self.location} is neither a folder nor a zip file; give the export as Slack made it"
            ) from error
        except OSError as error:
            raise Misconfigured(f"{self.location} cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, kw_only=True)
class OpenedExport:
    """An export that is being read: its lists and its channels' days, each in order, and what changes with them.

    `unread` are other JSON files, which may have messages, by their folders; the top is empty. `newest` is the time (ns
    since 1970) at which a file of it was last changed.
    """

    lists: frozenset[str]
    days: dict[str, list[str]]
    unread: dict[str, list[str]]
    stamps: list[list[Any]]
    newest: int
    content: Callable[[str], bytes]

    def json(self, name: str) -> tuple[Any, bool]:
        """Parse a file; also return whether it may contain half a character, which cannot be stored.

        Raises:
            Rejected: it is missing, too large, or not JSON.
        """
        try:
            raw = self.content(name)
        except (
            OSError,
            KeyError,
            zipfile.BadZipFile,
            zlib.error,
            RuntimeError,
            NotImplementedError,  # a method of compression that Python does not have
        ) as error:
            raise Rejected(f"cannot be read: {error}") from error
        if not raw.strip():
            if name in self.lists:
                raise Rejected("is empty; a list without entries is []")
            return [], False
        try:
            return orjson.loads(raw), False
        except orjson.JSONDecodeError:
            return parse_json(decoded(raw)), True


def _checked(location: str, opened: OpenedExport) -> OpenedExport:
    if not opened.lists and not opened.days:
        raise Misconfigured(
            f"{location} is no Slack export: it has neither channels.json nor folders with files such as"
            " general/2026-01-31.json"
        )
    return opened


def _of_folder(top: Path) -> OpenedExport:
    paths: dict[str, Path] = {}
    for path in sorted(top.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            paths |= {f"{path.name}/{each.name}": each for each in sorted(path.iterdir())}
        else:
            paths[path.name] = path
    lists, days, unread = _sorted_out(paths)
    used = [*lists, *(name for found in (days, unread) for names in found.values() for name in names)]

    def content(name: str) -> bytes:
        path = top / name
        _require_modest(path.stat().st_size)
        return path.read_bytes()

    return _opened(lists, days, unread, [_stamp(paths[name], top) for name in sorted(used)], content)


def _of_zip(archive: zipfile.ZipFile, path: Path) -> OpenedExport:
    members = {each.filename: each for each in archive.infolist() if not each.is_dir()}
    # Some pack the folder itself, so that everything lies in one folder more.
    tops = sorted((str(PurePosixPath(name).parent) for name in members if Path(name).name in LISTS), key=len)
    top = "" if not tops or tops[0] == "." else f"{tops[0]}/"
    lists, days, unread = _sorted_out(
        name.removeprefix(top) for name in sorted(members) if name.startswith(top)
    )

    def content(name: str) -> bytes:
        member = members[f"{top}{name}"]
        _require_modest(member.file_size)
        return archive.read(member)

    return _opened(lists, days, unread, [_stamp(path, path.parent)], content)


def _sorted_out(paths: Iterable[str]) -> tuple[set[str], dict[str, list[str]], dict[str, list[str]]]:
    """Return the lists of an export, its days by their folders, and other JSON files by theirs."""
    lists: set[str] = set()
    days: dict[str, list[str]] = {}
    unread: dict[str, list[str]] = {}
    for path in paths:
        folder, _, file = path.rpartition("/")
        if path in LISTS:
            lists.add(path)
        elif "/" in folder or folder in UPLOADS or file in OTHERS or not file.endswith(".json"):
            continue
        elif folder and _DAY.fullmatch(file):
            days.setdefault(folder, []).append(path)
        else:
            unread.setdefault(folder, []).append(path)
    return lists, days, unread


def _opened(
    lists: set[str],
    days: dict[str, list[str]],
    unread: dict[str, list[str]],
    stamps: list[list[Any]],
    content: Callable[[str], bytes],
) -> OpenedExport:
    newest = max((max(stamp[2:4]) for stamp in stamps), default=0)
    return OpenedExport(
        lists=frozenset(lists), days=days, unread=unread, stamps=stamps, newest=newest, content=content
    )


def _stamp(path: Path, top: Path) -> list[Any]:
    stat = path.stat()
    # Programs can set the time of a file's content back, but not that of its last change.
    name = os.fsencode(path.relative_to(top)).hex()
    return [name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _require_modest(size: int) -> None:
    if size > LARGEST_BYTES:
        raise Rejected(f"has {size:,} bytes; a file of an export may have {LARGEST_BYTES:,}")
