"""Arrays of tokens that were cut out of a longer one: within a character, or where a part is written otherwise.

No I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

# Tokens at a cut that may differ from how the tokenizer writes the text alone. Of 13,500 pieces of texts in nine
# scripts none needed more than two.
EDGE = 4
# The most bytes of one character that can be missing.
PARTIAL = 3
# Bytes of a character in UTF-8 that begins with a byte of at least this value.
LENGTHS = ((0xF0, 4), (0xE0, 3), (0xC0, 2))


class CutText(NamedTuple):
    """The whole characters of some bytes, and whether part of a character was left out at either end."""

    text: str
    start: bool
    end: bool


def whole_characters(content: bytes) -> CutText:
    """Decode UTF-8 that may begin or end within a character.

    Raises:
        Rejected: it is not UTF-8, or has no whole character.
    """
    first, last = 0, len(content)
    while first < min(PARTIAL, last) and _continues(content[first]):
        first += 1
    for back in range(1, min(PARTIAL, last - first) + 1):
        begun = content[-back]
        if not _continues(begun):
            if next((length for least, length in LENGTHS if begun >= least), 1) > back:
                last -= back
            break
    try:
        text = content[first:last].decode()
    except UnicodeDecodeError as error:
        raise Rejected("not valid Unicode") from error
    if not text and content:
        raise Rejected("only part of a character")
    return CutText(text, first > 0, last < len(content))


def is_part(array: Sequence[int], written: Sequence[int], *, start: bool, end: bool) -> bool:
    """Tell whether an array is how a tokenizer writes a text, except near the ends that were cut."""
    first, last = EDGE if start else 0, len(array) - (EDGE if end else 0)
    inside, all_ = list(array[first:last]), list(written)
    if not start and not end:
        return inside == all_
    return any(all_[shift : shift + len(inside)] == inside for shift in range(2 * EDGE + 1))


def _continues(byte: int) -> bool:
    """Tell whether a byte of UTF-8 is not the first of its character."""
    return byte & 0xC0 == 0x80  # noqa: PLR2004 - as UTF-8 defines
