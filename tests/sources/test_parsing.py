"""The fast parser of records gives the same results as Python's own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowbed.errors import Rejected
from flowbed.sources.decoding import decoded
from flowbed.sources.parsing import parse_answer, parse_record

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def plainly(raw: bytes) -> Any:
    return json.loads(decoded(raw))


@given(VALUES | st.dictionaries(st.sampled_from(["id", "text", "n"]), VALUES), st.booleans())
@example({"id": 2**64}, False)
@example({"id": -(2**63) - 1}, False)
@example({"meta": {"big": [2**64 + 1]}}, False)
@example({"text": "\ud83d\ude00"}, True)
def test_parse_record_equals_python(value: object, ascii_only: bool) -> None:
    """All JSON, including integers of any length, is parsed as Python's own parser does."""
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace")
    text, read = parse_record(raw)
    assert text == raw.decode()
    assert repr(read) == repr(plainly(raw))


@pytest.mark.parametrize(
    "raw", [b'{"a": -0}', b'{"a": -0.0}', b'{"a": 1, "a": 2}', b'{"a": 1E3}', b'\xef\xbb\xbf{"a":1}']
)
def test_parse_record_ambiguous_json_equals_python(raw: bytes) -> None:
    """Negative zeros, duplicate keys, exponents and byte order marks are parsed as Python does."""
    assert repr(parse_record(raw)[1]) == repr(plainly(raw))


@given(st.binary(max_size=30), st.integers(min_value=0, max_value=40))
@example(b"\0", 3)
@example(b"\xed\xa0\x80", 8)
def test_parse_record_damaged_json_equals_python(noise: bytes, at: int) -> None:
    """Damaged records are accepted or rejected as by Python's own parser."""
    whole = b'{"id": 12, "text": "a \\u00fc b", "n": [1.5, null]}'
    raw = whole[:at] + noise + whole[at:]
    try:
        expected: object = repr(_strictly(raw))
    except (Rejected, ValueError):
        expected = Rejected
    try:
        found: object = repr(parse_record(raw)[1])
    except Rejected:
        found = Rejected
    assert found == expected


@pytest.mark.parametrize("depth", [20_000, 200_000])
def test_parse_record_deep_nesting_is_rejected(depth: int) -> None:
    """How deep a value may be depends on the version of Python: a thousand levels in one, ten thousand in another."""
    raw = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(Rejected, match="nested too deeply"):
        parse_record(raw)


def _strictly(raw: bytes) -> Any:
    def refuse(name: str) -> float:
        raise ValueError(name)

    value = json.loads(decoded(raw), parse_constant=refuse)
    if isinstance(value, dict):
        json.dumps(
            value, ensure_ascii=False
        ).encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate
    return value


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (rb'["\ud83d half", "\udc00"]', ["\ufffd half", "\ufffd"]),
        (rb'["\ud83d\ude00 whole", "\ud83d"]', ["\U0001f600 whole", "\ufffd"]),
        (rb'["a path \\ud83d", "\uD83D\uD83D\uDE00"]', ["a path \\ud83d", "\ufffd\U0001f600"]),
        (b'{"a": [1, 2]}', {"a": [1, 2]}),
        (b"<html>", None),
        (rb'["\ud83d", ', None),
        (b'["\xff"]', None),
    ],
)
def test_parse_answer_half_of_a_character_spoils_only_itself(body: bytes, value: object) -> None:
    assert parse_answer(body) == value
