"""The files of DiscordChatExporter: what each says of its channel, and its messages one by one."""

from __future__ import annotations

import codecs
import os
import re
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder
from typing import TYPE_CHECKING, Any, BinaryIO

from flowbed.errors import Misconfigured, Rejected
from flowbed.sources.arrays import READ_BYTES, items
from flowbed.sources.decoding import UTF16, why_not_text
from flowbed.sources.discord.messages import Place, snowflake
from flowbed.sources.locations import files_below, located, matching
from flowbed.sources.parsing import parse_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What stands before the messages: a server, a channel and its topic of at most 4,096 characters.
HEAD_BYTES = 2**18
# A message of an export has at most 6,000 characters in its embeds, and lists who reacted with what.
LONGEST_MESSAGE = 16 * 2**20

# Inside a string the quotes would be escaped.
_MESSAGES = re.compile(rb'(?<!\\)"messages"\s*:\s*(?=\[)')

_NEXT = re.compile(r"[\[\s,]*")

# Downloaded files of an export lie in a folder beside it.
_ASSETS = ".json_Files"

_THREADS = frozenset({"GuildNewsThread", "GuildPublicThread", "GuildPrivateThread", "10", "11", "12"})


class OtherJson(Rejected):
    """A file is JSON of something else, and never was an export."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """What an export says of itself; a `partial` one has the messages of a range of dates. `messages` is an offset."""

    place: Place
    name: str
    partial: bool
    messages: int


def export_files(location: str, folder: Path) -> dict[str, Path]:
    """Return the files of a location by their names: a file, those of a folder, or those that match a pattern.

    Raises:
        Misconfigured: there is no such location, or a folder of it cannot be listed.
    """
    path = located(location, folder)

    def refuse(_: Path, error: OSError) -> None:
        raise error

    try:
        if path.is_dir():
            found = [
                each
                for each in sorted(files_below(path, refuse))
                if each.suffix.lower() == ".json" and not any(part.endswith(_ASSETS) for part in each.parts)
            ]
            return {each.relative_to(path).as_posix(): each for each in found}
        if path.is_file():
            return {path.name: path}
        found = [each for each in matching(location, folder) if each.is_file()]
    except OSError as error:
        raise Misconfigured(f"{location} cannot be read: {error.strerror or error}") from error
    if not found:
        raise Misconfigured(
            f"{location} does not exist; give a file of DiscordChatExporter in the format Json, a folder of them, or"
            " discord://SERVER to read a server over the API"
        )
    common = os.path.commonpath([each.parent for each in found])
    return {each.relative_to(common).as_posix(): each for each in found}


def read_head(path: Path) -> Head:
    """Read what an export says of itself.

    Raises:
        OtherJson: it is no export in the format Json.
        Rejected: it cannot be read as one: it may be an export that is being written.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(HEAD_BYTES)
    if start.startswith(UTF16):
        raise Rejected(why_not_text(start, final=False))
    found = _MESSAGES.search(start)
    if found is None:
        if len(start) < HEAD_BYTES:
            parse_record(start)
        raise OtherJson("is no export of DiscordChatExporter in the format Json: it has no list of messages")
    _, head = parse_record(
        start[: found.start()].removeprefix(codecs.BOM_UTF8).rstrip().removesuffix(b",") + b"}"
    )
    guild, channel, dates = (_part(head, name) for name in ("guild", "channel", "dateRange"))
    own = _id(channel, "id", "channel.id")
    name = _name(channel, "name") or own
    # A direct message has the server 0.
    server = guild.get("id")
    server = server if isinstance(server, str) and server.isdecimal() and server != "0" else "@me"
    mark = "DM " if server == "@me" else "#"
    place = Place(guild=server, channel=own, label=f"{mark}{name}")
    parent = channel.get("categoryId")
    if str(channel.get("type")) in _THREADS and isinstance(parent, str) and parent.isdecimal():
        parent_name = _name(channel, "category") or parent
        place = Place(guild=server, channel=parent, label=f"#{parent_name}", thread=own, title=name)
    return Head(
        place=place,
        name=place.label.removeprefix("#"),
        partial=any(dates.get(each) is not None for each in ("after", "before")),
        messages=found.end(),
    )


def read_messages(path: Path, head: Head) -> Iterator[tuple[int, Any, str]]:
    """Yield (number, message, fault) for the messages of an export, a block of it at a time.

    Where something is not JSON, what follows is cut by its brackets, which is slower, so that only that is lost.

    Raises:
        OSError: it cannot be read.
    """
    number = 0
    with path.open("rb") as file:
        file.seek(head.messages)
        blocks = _Blocks(file, head.messages)
        try:
            for message in blocks.messages():
                number += 1
                yield number, message, ""
        except (ValueError, RecursionError):
            file.seek(blocks.position)
            for count, raw, fault in items(_Rest(file), longest=LONGEST_MESSAGE, alone=False):
                yield (number + count, *(_parsed(raw) if not fault else (None, fault)))
            return
        if not blocks.ended:
            yield number + 1, None, "the file ends in the middle of the list"


def _parsed(raw: bytes) -> tuple[Any, str]:
    try:
        return parse_record(raw)[1], ""
    except Rejected as error:
        return None, str(error)


@dataclass
class _Blocks:
    """A list in a file, from its position on."""

    file: BinaryIO
    begin: int
    held: str = ""
    at: int = 0
    ended: bool = False

    @property
    def position(self) -> int:
        """Where the first message lies that was not yielded."""
        return self.begin + len(self.held[: self.at].encode())

    def messages(self) -> Iterator[Any]:
        """Yield the messages.

        Raises:
            ValueError, RecursionError: the next one is not JSON.
        """
        text = codecs.getincrementaldecoder("utf-8")()
        block = b"["
        while block and not self.ended:
            block = self.file.read(READ_BYTES)
            self.begin = self.position
            self.held, self.at = self.held[self.at :] + text.decode(block, final=not block), 0
            yield from self._held(is_last=not block)

    def _held(self, *, is_last: bool) -> Iterator[Any]:
        while (found := _NEXT.match(self.held, self.at)) and found.end() < len(self.held):
            if self.held[found.end()] == "]":
                self.ended = True
                return
            try:
                message, self.at = _DECODER.raw_decode(self.held, found.end())
            except JSONDecodeError as error:
                if is_last or error.pos < len(self.held) - READ_BYTES:
                    raise
                return  # it goes on in the next block
            yield message


class _Rest:
    """The rest of a list, as a list."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._first = file, True

    def read(self, size: int) -> bytes:
        first, self._first = self._first, False
        return b"[" + self._file.read(size).lstrip(b",[ \t\r\n") if first else self._file.read(size)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


_DECODER = JSONDecoder(parse_constant=_no_constant)


def stamp(path: Path) -> list[Any]:
    """Return what changes with a file: size, times and identity."""
    stat = path.stat()
    # Programs can set the time of a file's content back, but not that of its last change.
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _part(head: object, name: str) -> dict[str, Any]:
    part = head.get(name) if isinstance(head, dict) else None
    return part if isinstance(part, dict) else {}


def _id(part: dict[str, Any], name: str, field: str) -> str:
    return str(snowflake(part.get(name), field))


def _name(part: dict[str, Any], name: str) -> str:
    value = part.get(name)
    return " ".join(value.split()) if isinstance(value, str) else ""
