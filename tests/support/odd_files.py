"""Files as no program should write them, made from a seed: texts, JSON Lines and receipts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

ENCODINGS = (
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "latin-1",
    "cp1252",
    "shift_jis",
    "koi8-r",
)
WORDS = (
    "alpha",
    "日本語",
    "e\u0301",
    "👩‍👧",
    "a\x00b",
    "\u200b",
    "\u202e",
    "\x1b[31m",
    "- ",
    "1. ",
    "# ",
    "> ",
    "```",
    "|a|b|",
    "    ",
)
ENDS = ("\n", "\r\n", "\r", "\n\n", " ", "\t", "", "\u2028", "\x0b", "\x85")

# Numbers beyond every limit; as text, since Python would not write some of them.
NUMBERS = (
    "0", "-1", "1.5", "1e5", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "9223372036854775807",
    "9223372036854775808", "-9223372036854775809", "18446744073709551616", "1" + "0" * 400, "1" + "0" * 5_000,
    "0.1" + "0" * 300 + "1", "1e-400", "-0", "00", "0x10", "true", "null",
)  # fmt: skip


def odd_text(random: Random) -> bytes:
    """Return a file that may be text."""
    kind = random.randrange(5)
    if kind == 0:
        return random.randbytes(random.choice((0, 1, 3, 100, 70_000)))
    if kind == 1:
        return (random.choice(WORDS) * random.choice((1, 5_000, 30_000))).encode(errors="replace")
    text = "".join(random.choice(WORDS) + random.choice(ENDS) for _ in range(random.randrange(400)))
    raw = text.encode(random.choice(ENCODINGS), errors="replace")
    if kind == 2 and raw:
        place = random.randrange(len(raw))
        raw = raw[:place] + random.randbytes(random.randrange(4)) + raw[place:]
    return raw


def odd_value(random: Random, depth: int = 0) -> str:
    """Return the JSON, or nearly JSON, of some value."""
    kind = random.randrange(9)
    if kind < 3:
        return random.choice(NUMBERS)
    if kind < 5:
        return json.dumps(random.choice(WORDS) * random.randrange(3))
    if kind == 5:
        return random.choice(
            ('"\\ud83d"', '"\\udc00\\ud83d"', '"\\u0000"', '"\x01"', '"\\x"', '"' + "x" * 9_000 + '"')
        )
    if kind == 6:
        deep = random.choice((3, 300, 990, 100_000))
        return random.choice(("[" * deep + "]" * deep, '{"a":' * deep + "1" + "}" * deep, "[" * deep))
    if kind == 7 or depth > 3:
        return "[" + ",".join(odd_value(random, depth + 1) for _ in range(random.randrange(3))) + "]"
    pairs = (f'"{random.choice("aab")}":{odd_value(random, depth + 1)}' for _ in range(random.randrange(4)))
    return "{" + ",".join(pairs) + "}"


def odd_lines(random: Random, record: Callable[[Random, int], str], first: int = 0) -> bytes:
    """Return a file of records, numbered from `first`, some of which are broken in the middle."""
    lines = []
    for number in range(random.randrange(1, 12)):
        line = record(random, first + number).encode(errors="surrogatepass")
        if random.random() < 0.2:
            line = line[: random.randrange(len(line) + 1)]
        if random.random() < 0.1:
            line = random.randbytes(random.randrange(40)) + line
        lines.append(line)
    raw = random.choice((b"\n", b"\r\n", b"\n\n", b"\r")).join(lines)
    start = random.choice((b"", b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\n"))
    return start + raw + random.choice((b"\n", b""))


def odd_record(random: Random, number: int) -> str:
    """Return a record of JSON Lines whose fields may be missing, doubled or of any type."""
    fields = {"id": f'"r{number}"', "text": json.dumps(random.choice(WORDS)), "title": '"t"', "n": "1"}
    return _object(random, fields)


def odd_receipt(random: Random, number: int) -> str:
    """Return a receipt whose fields may be missing, doubled or of any type, at every level."""
    box = _object(random, dict.fromkeys(("x", "y", "width", "height"), "1.5"), 0.1)
    word = _object(random, {"word_id": "1", "text": '"MILK"', "bounding_box": box}, 0.1)
    line = _object(
        random, {"line_id": "1", "text": '"MILK 1.99"', "bounding_box": box, "words": f"[{word}]"}, 0.1
    )
    fields = {"image_id": f'"i{number}"', "receipt_id": str(number), "total": "1.99", "lines": f"[{line}]"}
    return _object(random, {**fields, "merchant_name": '"SHOP"', "date": '"2018"', "address": '""'}, 0.1)


def _object(random: Random, fields: dict[str, str], odds: float = 0.25) -> str:
    pairs: list[tuple[str, Any]] = []
    for name, value in fields.items():
        if random.random() > odds / 3:
            pairs.append((name, odd_value(random) if random.random() < odds else value))
        if random.random() < odds / 3:
            pairs.append((name, odd_value(random)))
    return "{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}"
