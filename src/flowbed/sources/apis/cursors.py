"""How positions are written as a cursor: one string, however many channels there are."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import orjson

# A cursor of more characters is compressed: a row of a ledger holds 400 KB.
LONGEST = 50_000


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
