"""Text from documents, file names and servers, escaped so that it neither controls a terminal nor deceives a reader.

A terminal obeys control characters: ESC and the C1 codes move the cursor, clear the screen, set the title or the
clipboard. Marks of direction (Unicode Technical Report 36) show text in another order than it has, and characters
without width hide in names.
"""

from __future__ import annotations

import re
from unicodedata import category

# Letters of all scripts have fewer marks than this; a run of hundreds covers the lines above and below.
MOST_MARKS = 8
SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
# Format characters that show something or only allow a line break, and letters that show nothing.
HARMLESS = frozenset(
    "\u00ad\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0")
# They join letters of many scripts, and pictures into one; between other characters they hide.
JOINERS = frozenset("\u200c\u200d")
# In JSON, C0 is escaped already.
HIDDEN_IN_JSON = re.compile(
    "[\x7f-\x9f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0"
    "\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""Return one line of text with everything that hides or controls written as `\x1b`, `\n` or `\u202e`."""
    if text.isascii() and text.isprintable():
        return text
    found: list[str] = []
    marks = 0
    for place, character in enumerate(text):
        kind = category(character)
        marks = marks + 1 if kind in ("Mn", "Me") else 0
        if marks > MOST_MARKS:
            continue
        hidden = kind in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in INVISIBLE
        if hidden and character not in HARMLESS and not _joins(text, place):
            found.append(_escaped(character))
        else:
            found.append(character)
    return "".join(found)


def visible_lines(text: str) -> str:
    """Return text of several lines, each of them made visible."""
    return "\n".join([visible(line) for line in text.split("\n")])


def escape_json(text: str) -> str:
    r"""Escape in JSON what hides or controls as `\u202e`: its meaning stays the same."""
    return HIDDEN_IN_JSON.sub(lambda found: _json_escaped(found[0]), text)


def _joins(text: str, place: int) -> bool:
    """Whether a character is a joiner between characters that may be joined."""
    return (
        text[place] in JOINERS
        and 0 < place < len(text) - 1
        and not any(each.isascii() or each in JOINERS for each in (text[place - 1], text[place + 1]))
    )


def _escaped(character: str) -> str:
    code = ord(character)
    if character in SHORT:
        return SHORT[character]
    if code > 0xFFFF:  # noqa: PLR2004 - four digits
        return f"\\U{code:08x}"
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004 - two digits


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
