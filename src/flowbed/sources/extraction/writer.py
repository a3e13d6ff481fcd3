"""Write the text of a part as Markdown would look, and note where its blocks are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.records.extracts import Block, Form, Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flowbed.records import Scalar

DEEPEST = 6


class RefusedError(Exception):
    """A file cannot be indexed; the message is the reason, as people read it."""


class Room:
    """The number of characters that a file may still give."""

    def __init__(self, characters: int) -> None:
        """Start with all of them."""
        self._characters = self._left = characters

    def take(self, text: str) -> str:
        """Count a text, and return it.

        Raises:
            RefusedError: there is no room left.
        """
        self._left -= len(text)
        if self._left < 0:
            raise RefusedError(
                f"it has more than {self._characters:,} characters of text: raise max_bytes, or exclude the file"
            )
        return text


class Writer:
    """Collects the blocks of one part."""

    def __init__(self, room: Room) -> None:
        """Begin a part."""
        self._room = room
        self._texts: list[str] = []
        self._blocks: list[Block] = []
        self._length = 0

    def heading(self, level: int, text: str, anchor: str = "") -> None:
        """Add a heading."""
        words = " ".join(text.split())
        level = min(max(level, 1), DEEPEST)
        if words:
            self._add(Form.HEADING, f"{'#' * level} {words}", level=level, name=words, anchor=anchor)

    def paragraph(self, text: str, depth: int = 0) -> None:
        """Add a paragraph, or an item of a list `depth` deep."""
        if text.strip():
            self._add(Form.PARAGRAPH, text, level=depth)

    def code(self, text: str, language: str = "") -> None:
        """Add a block of code."""
        if text.strip():
            fence = "```"
            while fence in text:
                fence += "`"
            self._add(Form.CODE, f"{fence}{language}\n{text.strip(chr(10))}\n{fence}")

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        """Add a table, whose header is the first row with several cells; lines above it, such as a title, are text.

        Rows without text are left out, and so are empty cells at the end of a row.
        """
        above: list[str] = []
        lines: list[str] = []
        for row in rows:
            cells = [_cell(cell) for cell in row]
            while cells and not cells[-1]:
                cells.pop()
            if not cells:
                continue
            if not lines and sum(map(bool, cells)) == 1:
                above.append(self._room.take(cells[-1]))
                continue
            lines.append(self._room.take(f"| {' | '.join(cells)} |\n"))
            if len(lines) == 1:
                lines.append("| --- " * len(cells) + "|\n")
        if above:
            self._add(Form.PARAGRAPH, "\n".join(above), counted=True)
        if lines:
            text = "".join(lines).rstrip("\n")
            header = min(len(lines[0]) + len(lines[1]), len(text))
            self._add(Form.TABLE, text, rows=header, counted=True)

    def part(self, place: Mapping[str, Scalar] | None = None, fragment: str = "", headings: str = "") -> Part:
        """Return what was added."""
        return Part(
            text="".join(self._texts),
            blocks=tuple(self._blocks),
            place=place or {},
            fragment=fragment,
            headings=headings,
        )

    def _add(
        self,
        form: Form,
        text: str,
        *,
        level: int = 0,
        rows: int = 0,
        name: str = "",
        anchor: str = "",
        counted: bool = False,
    ) -> None:
        text = storable(text)
        if not counted:
            self._room.take(text)
        if self._texts:
            self._texts.append("\n\n")
            self._length += 2
        start = self._length
        self._texts.append(text)
        self._length += len(text)
        self._blocks.append(
            Block(
                form=form,
                start=start,
                end=self._length,
                level=level,
                rows=start + rows if rows else 0,
                name=storable(name),
                anchor=anchor,
            )
        )


def storable(text: str) -> str:
    """Replace lone surrogates and zero characters, which neither UTF-8 nor a database can store; keep the length."""
    return text.encode("utf-16-le", "replace").decode("utf-16-le", "replace").replace("\0", "\ufffd")


def _cell(text: str) -> str:
    return storable(" ".join(text.split()).replace("|", "\\|"))
