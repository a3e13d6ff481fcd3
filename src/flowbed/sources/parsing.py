"""Bytes of a record to what its JSON says, or the reason why it says nothing."""

from __future__ import annotations

import json
from typing import Any

import orjson

from flowbed.errors import Rejected
from flowbed.records import canonical
from flowbed.sources.decoding import decoded

# What orjson reads as Python's own parser does, wherever it reads it at all.
_SURE = frozenset({str, int, bool, type(None)})

# Python's parser refuses what is nested about a thousand deep, orjson a little later.
_BRACKETS = 500

# Numbers of fewer digits fit into the 64 bits that orjson has for them; of longer ones it makes fractions.
_LONG = b"0" * 19
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)


def parsed(raw: bytes) -> tuple[str, Any]:
    """Decode and parse one JSON value; both come back.

    Raises:
        Rejected: `raw` is not UTF-8 or not JSON, or an object in it holds half a character; the message says where.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _parsed_slowly(raw)  # which knows the reason, and a byte order mark
    if type(value) is dict and _SURE.issuperset(map(type, value.values())):
        return raw.decode(), value
    if raw.count(b"{") + raw.count(b"[") > _BRACKETS or _LONG in raw.translate(_DIGITS):
        return _parsed_slowly(raw)
    return raw.decode(), value


def _parsed_slowly(raw: bytes) -> tuple[str, Any]:
    text = decoded(raw)
    value = parsed_text(text)
    if isinstance(value, dict) and b"\\u" in raw:
        _refuse_lone_surrogates(value)
    return text, value


def parsed_text(text: str) -> Any:  # whatever JSON can hold
    """Parse one JSON value, which may hold halves of characters.

    Raises:
        Rejected: it is none.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise Rejected("not JSON: nested too deeply") from error
    except ValueError as error:
        raise Rejected(f"not JSON: {error}") from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


# Made once: `json.loads` with an option makes a decoder for each call.
_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _refuse_lone_surrogates(value: dict[str, Any]) -> None:
    r"""Refuse half characters such as `"\ud83d"`, which no UTF-8 can hold."""
    try:
        canonical(value)
    except UnicodeEncodeError as error:
        raise Rejected(
            f"holds half a character (\\u{ord(error.object[error.start]):04x} without its other half)"
        ) from error
