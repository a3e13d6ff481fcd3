"""Foreign text on a terminal: what could control it, or deceive its reader, is made visible."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.escaping import MOST_MARKS, escape_json, visible, visible_lines

# What a terminal obeys, or a reader cannot see.
DANGEROUS = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u061c\u180e\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff",
    "\U000e0001",
    "\U000e0061",
    "\ud800",
    "\udc80",
    "\u3164",
]


@pytest.mark.parametrize("character", DANGEROUS, ids=lambda each: f"U+{ord(each):04X}")
def test_visible_control_or_hidden_character_is_written_as_an_escape(character: str) -> None:
    shown = visible(f"a{character}b")
    assert shown.startswith("a\\")
    assert shown.endswith("b")
    assert shown.isascii()
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07\x1b[2J\x1b[31mred", "\\x1b]0;owned\\x07\\x1b[2J\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),
        ("user\u202etxt.exe", "user\\u202etxt.exe"),
        ("two\nlines\tand\rmore", "two\\nlines\\tand\\rmore"),
        ("pass\u200bword", "pass\\u200bword"),
        ("a\u200db", "a\\u200db"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_visible_writes_what_was_there(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "plain text, [bold]no markup[/] and [/b]",
        "Grüße, ключ, 東京, 日本\u3000語, ราคา, नमस्ते, שלום, العربية",
        "e\u0301 and \u0e19\u0e49\u0e33",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "soft\u00adhyphen and no-break\u00a0space",
    ],
)
def test_visible_leaves_letters_of_every_script_and_pictures_alone(text: str) -> None:
    assert visible(text) == text


def test_visible_long_run_of_marks_is_cut() -> None:
    """It would cover the lines above and below."""
    shown = visible("Z" + "\u0351" * 500 + "algo")
    assert shown == "Z" + "\u0351" * MOST_MARKS + "algo"


@given(st.text())
def test_visible_any_text_controls_nothing(text: str) -> None:
    shown = visible(text)
    assert not {unicodedata.category(each) for each in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert visible(shown) == shown


def test_visible_lines_keeps_the_ends_of_lines() -> None:
    assert visible_lines("one\x1b\ntwo\r\nthree") == "one\\x1b\ntwo\\r\nthree"


@given(st.text() | st.lists(st.sampled_from(DANGEROUS)).map("".join))
def test_escape_json_any_text_means_the_same_and_controls_nothing(text: str) -> None:
    written = escape_json(json.dumps({"text": text}, ensure_ascii=False))
    assert json.loads(written) == {"text": text}
    assert not {unicodedata.category(each) for each in written} & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(written) & set(DANGEROUS)
