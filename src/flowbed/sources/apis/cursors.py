"""How positions are written as a cursor: one string, however many channels there are."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable

# A cursor of more characters is compressed: a row of a ledger holds 400 KB.
LONGEST = 50_000
# The choice of a source whose options name no channels or projects: all that it sees.
ALL = "all"

_HEADING = re.compile(r"(\+?)(?:-([^-]*)-)?(?:=([^:=]*):([^:=]*)=)?")


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What begins a cursor, before how far was read.

    `proving` says that no listing was complete since the beginning: what was deleted earlier is not known. `unproved`
    are places, such as channels, of which that is not known. `origin` is the digest of the address that was read, and
    `choice` that of the places that the options chose, once what they leave out is gone; empty before.
    Cursors of earlier versions name no origin.
    """

    proving: bool = False
    unproved: frozenset[str] = frozenset()
    origin: str = ""
    choice: str = ALL

    def before(self, cursor: str) -> str:
        """Return a cursor with this heading."""
        said = "+" if self.proving else ""
        if self.unproved and not self.proving:
            said = f"-{','.join(sorted(self.unproved))}-"
        return f"{said}={self.origin}:{self.choice}={cursor}"


def heading(cursor: str) -> Heading:
    """Return what begins a cursor."""
    proving, unproved, origin, choice = _HEADING.match(cursor).groups()  # type: ignore[union-attr]
    named = frozenset(unproved.split(",")) if unproved else frozenset[str]()
    if origin is None:
        return Heading(proving=bool(proving), unproved=named)
    return Heading(proving=bool(proving), unproved=named, origin=origin, choice=choice)


def digest(names: Iterable[str]) -> str:
    """Return 12 hex digits for names in any order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:12]


def written(value: Any) -> str:  # any JSON value
    """Return a value as a cursor."""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    if len(text) > LONGEST:
        return "z" + base64.b85encode(zlib.compress(text)).decode()
    return text.decode()


def read(cursor: str) -> Any:  # any JSON value
    """Return the value of a cursor.

    Raises:
        ValueError: it is none.
    """
    cursor = _HEADING.sub("", cursor, count=1)
    try:
        text = zlib.decompress(base64.b85decode(cursor[1:])) if cursor.startswith("z") else cursor.encode()
    except zlib.error as error:
        raise ValueError(str(error)) from error
    return orjson.loads(text)


def packed(days: set[int]) -> tuple[int, str]:
    """Return the first day and a bit for each day since then: 100 bytes for a year."""
    first = min(days, default=0)
    return first, f"{sum(1 << (day - first) for day in days):x}"


def unpacked(first: int, bits: str) -> set[int]:
    """Return the result of `packed` as days again."""
    number = int(bits, 16)
    return {first + place for place in range(number.bit_length()) if number >> place & 1}
