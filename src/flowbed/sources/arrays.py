"""Cut a long JSON list into its items without parsing it as a whole, so that a broken item spoils only itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_BYTES = 2**20

# A string as a whole, the beginning of one that has not been read to its end, or a sign outside strings.
TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
OPENERS = {b"]": b"[", b"}": b"{"}


class Readable(Protocol):
    """What can be read in blocks, such as a binary file."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size` of them."""
        ...


def items(file: Readable, *, longest: int, alone: bool = True) -> Iterator[tuple[int, bytes, str]]:
    """Yield (number, item, fault) for the list that `file` contains, in the memory of its longest item.

    Unless the list is `alone`, it may be inside another value: what follows its end does not matter.

    An item whose brackets do not match is yielded like any other; it is not JSON. What comes after an item of more than
    `longest` bytes, and after the end of the list, is not read.
    """
    found = _List()
    number = 0
    while block := file.read(READ_BYTES):
        for raw in found.added(block):
            number += 1
            yield number, raw, ""
        if found.ended:
            if alone and (found.held.strip() or file.read(READ_BYTES).strip()):
                yield number + 1, b"", "something follows the end of the list; it is not read"
            return
        if len(found.held) > longest:
            yield number + 1, b"", f"longer than {longest:,} bytes; what follows it is not read"
            return
    yield number + 1, bytes(found.held).strip(), "the file ends in the middle of the list"


@dataclass
class _List:
    """The bytes of a list that were read and belong to no item yet, and the brackets that are open at `scanned`."""

    held: bytearray = field(default_factory=bytearray)
    scanned: int = 0
    begin: int = 0
    opened: list[bytes] = field(default_factory=list)
    ended: bool = False

    def added(self, block: bytes) -> Iterator[bytes]:
        """Add bytes, and yield the items that they complete."""
        self.held += block
        for token in TOKEN.finditer(self.held, self.scanned):
            if token[0] == b'"':
                self.scanned = token.start()
                break
            self.scanned = token.end()
            if len(self.opened) == 1 and token[0] in (b",", b"]"):
                raw = bytes(self.held[self.begin : token.start()]).strip()
                self.begin = token.end()
                self.ended = token[0] == b"]"
                if raw:
                    yield raw
                if self.ended:
                    break
            else:
                self._count(bytes(token[0]))
        else:
            self.scanned = len(self.held)
        del self.held[: self.begin]
        self.scanned, self.begin = self.scanned - self.begin, 0

    def _count(self, sign: bytes) -> None:
        if sign in (b"[", b"{"):
            if not self.opened:
                self.begin = self.scanned
            self.opened.append(sign)
        elif (opener := OPENERS.get(sign)) and opener in self.opened[1:]:
            # Up to the bracket that this one closes: those between them were left open.
            while self.opened.pop() != opener:
                pass
