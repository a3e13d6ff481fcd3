"""Parse the JSON of a record."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from flowbed.errors import Rejected
from flowbed.records import canonical
from flowbed.sources.decoding import decoded

# Types that orjson parses exactly as Python does.
_SURE = frozenset({str, int, bool, type(None)})

# A backslash of its own, a whole character of two halves, or a half.
_HALF = re.compile(
    rb"(\\[^u]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)

# Python's parser fails at a nesting of about a thousand, orjson a little later.
_BRACKETS = 500

# Shorter integers fit into orjson's 64 bits; it turns longer ones into floats.
_LONG = b"0" * 19
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)


def parse_record(raw: bytes) -> tuple[str, Any]:
    """Decode and parse one JSON value; return the text and the value.

    Raises:
        Rejected: `raw` is not UTF-8 or not JSON, or contains a lone surrogate; the message says where.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _parsed_slowly(raw)  # finds the reason, and handles a byte order mark
    if type(value) is dict and _SURE.issuperset(map(type, value.values())):
        return raw.decode(), value
    if raw.count(b"{") + raw.count(b"[") > _BRACKETS or _LONG in raw.translate(_DIGITS):
        return _parsed_slowly(raw)
    return raw.decode(), value


def _parsed_slowly(raw: bytes) -> tuple[str, Any]:
    text = decoded(raw)
    value = parse_json(text)
    if isinstance(value, dict) and b"\\u" in raw:
        _refuse_lone_surrogates(value)
    return text, value


def parse_json(text: str) -> Any:  # any JSON value
    """Parse one JSON value, which may contain lone surrogates.

    Raises:
        Rejected: `text` is not JSON.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise Rejected("not JSON: nested too deeply") from error
    except ValueError as error:
        raise Rejected(f"not JSON: {error}") from error


def parse_leniently(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object that need not be valid: it may contain NaN, control characters and undecodable bytes.

    Raises:
        Rejected: it cannot be parsed even so, or is no object.
    """
    try:
        value = _LENIENT.decode(raw.decode(errors="replace").removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise Rejected("not JSON") from error
    if not isinstance(value, dict):
        raise Rejected("not a JSON object")
    return value


def parse_answer(body: bytes) -> Any:  # any JSON value
    """Parse the answer of an API; None if it is not JSON. Half a character in a text of it becomes a replacement.

    A single such text would otherwise keep everything that is listed with it from being read.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"\\u" not in body:
            return None
    try:
        return orjson.loads(_HALF.sub(_whole, body))
    except orjson.JSONDecodeError:
        return None


def _whole(found: re.Match[bytes]) -> bytes:
    return found[0] if found[1] else rb"\ufffd"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


# Created once: `json.loads` with an option creates a decoder per call.
_DECODER = json.JSONDecoder(parse_constant=_no_constant)
# Python refuses integers of more than 4,300 digits, which may take long to convert; none of them is an id.
_LENIENT = json.JSONDecoder(strict=False, parse_int=lambda digits: int(digits[:1_000]))


def _refuse_lone_surrogates(value: dict[str, Any]) -> None:
    r"""Reject lone surrogates such as `"\ud83d"`, which UTF-8 cannot encode."""
    try:
        canonical(value)
    except RecursionError as error:
        raise Rejected("not JSON: nested too deeply") from error
    except UnicodeEncodeError as error:
        raise Rejected(
            f"contains half a character (\\u{ord(error.object[error.start]):04x} without its other half)"
        ) from error
