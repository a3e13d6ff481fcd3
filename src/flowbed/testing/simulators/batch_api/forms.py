"""Bodies of multipart/form-data (RFC 7578), parsed in place: a file of 200 MB is never in memory."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from email.message import Message
from typing import TYPE_CHECKING

from flowbed.testing.simulators.content import Content, Piece

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flowbed.testing.simulators.content import Scratch

FORM = "multipart/form-data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field; `filename` is None if it is not a file."""

    filename: str | None
    content: Content

    @property
    def text(self) -> str:
        """The field's text."""
        return b"".join(self.content.blocks()).decode(errors="replace").strip()


def read_form(body: Scratch | None, content_type: str) -> Mapping[str, Field]:
    """Parse the fields of a body by name; of two with one name the last counts.

    Raises:
        ValueError: the body is not a valid form.
    """
    payload = Message()
    payload["Content-Type"] = content_type
    boundary = payload.get_param("boundary")
    if body is None or not body.size or not isinstance(boundary, str):
        raise ValueError(f"the body is not {FORM} with a boundary")
    with mmap.mmap(body.descriptor, 0, access=mmap.ACCESS_READ) as mapped:
        return dict(_fields(body, mapped, b"--" + boundary.encode("latin-1")))


def _fields(body: Scratch, mapped: mmap.mmap, dashed: bytes) -> Iterator[tuple[str, Field]]:
    if mapped[: len(dashed)] != dashed:
        raise ValueError("the form does not begin with its boundary")
    place = len(dashed)
    while mapped[place : place + 2] == b"\r\n":
        begin = mapped.find(b"\r\n\r\n", place)
        end = mapped.find(b"\r\n" + dashed, begin)
        if begin < 0 or end < 0:
            raise ValueError("the form ends in the middle of a field")
        header = Message()
        for line in mapped[place + 2 : begin].decode(errors="replace").split("\r\n"):
            name, _, value = line.partition(":")
            header[name.strip()] = value.strip()
        start = begin + 4
        yield (
            _named(header),
            Field(
                filename=header.get_filename(),
                content=Content([Piece(file=body, start=start, size=end - start)]),
            ),
        )
        place = end + 2 + len(dashed)
    if mapped[place : place + 2] != b"--":
        raise ValueError("the form does not end with its boundary")


def _named(header: Message) -> str:
    name = header.get_param("name", header="Content-Disposition")
    if not isinstance(name, str):
        raise ValueError("a field of the form has no name")  # noqa: TRY004 - it is the form that is wrong
    return name
