"""Content too large for memory: in unnamed temporary files, which disappear with the last reference to them."""

from __future__ import annotations

import os
import tempfile
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK = 1 << 18  # bytes read and sent at a time


class Scratch:
    """A file that is appended to and read anywhere."""

    def __init__(self) -> None:
        """Start empty."""
        self.descriptor, name = tempfile.mkstemp(prefix="flowbed-simulator-")
        os.unlink(name)  # noqa: PTH108 - the name is not needed, and must not stay behind
        self.size = 0
        weakref.finalize(self, os.close, self.descriptor)

    def append(self, data: bytes) -> Piece:
        """Append data, and return the piece that it became."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]
        piece = Piece(file=self, start=self.size, size=len(data))
        self.size += len(data)
        return piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a file."""

    file: Scratch
    start: int
    size: int

    def part(self, size: int) -> Piece:
        """Return its first `size` bytes."""
        return Piece(file=self.file, start=self.start, size=min(size, self.size))

    def blocks(self) -> Iterator[bytes]:
        """Read it block by block."""
        place, end = self.start, self.start + self.size
        while place < end:
            block = os.pread(self.file.descriptor, min(BLOCK, end - place), place)
            place += len(block)
            yield block


class Content:
    """Pieces of files, one after the other."""

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        """Join `pieces`."""
        self._pieces = tuple(pieces)
        self.size = sum(piece.size for piece in self._pieces)

    def part(self, size: int) -> Content:
        """Return its first `size` bytes."""
        pieces = []
        for piece in self._pieces:
            if size <= 0:
                break
            pieces.append(piece.part(size))
            size -= piece.size
        return Content(pieces)

    def after(self, beginning: bytes) -> Content:
        """Return it with `beginning` in front."""
        return Content([Scratch().append(beginning), *self._pieces])

    def blocks(self) -> Iterator[bytes]:
        """Read it in blocks; only the last may be small."""
        gathered = bytearray()
        for piece in self._pieces:
            for block in piece.blocks():
                gathered += block
                if len(gathered) >= BLOCK:
                    yield bytes(gathered)
                    gathered.clear()
        if gathered:
            yield bytes(gathered)

    def lines(self) -> Iterator[bytes]:
        """Read it line by line; a last line without a line break counts if it is not empty."""
        begun = b""
        for block in self.blocks():
            *whole, begun = (begun + block).split(b"\n")
            yield from whole
        if begun:
            yield begun
