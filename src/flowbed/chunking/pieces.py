"""Cut overlong blocks into bounded pieces, so that the work of chunking grows with the text, not with its square."""

from __future__ import annotations

import re
import unicodedata
import zlib
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowbed.chunking.passages import Cut

# The most characters that are counted or split in one call: a splitter takes milliseconds for them, and gives other
# threads a turn after each. No line that a person wrote is as long.
LONGEST_BLOCK = 16_384

# How far around a place nothing may be a better one for it to become a cut: pieces get about twice as long.
WINDOW = 4_096

# Where a piece may begin: after white space, or after a sign that ends a clause in scripts without spaces.
PLACE = re.compile(r"(?:\s|[。！？；，、．])+")  # noqa: RUF001 - full-width signs

# Characters whose hash tells whether a place is a good one: a few words, so that an edit matters only close by.
HASHED = 32

# The longest sequence of a letter and its marks that is kept together where nothing but its characters can be cut.
LONGEST_CLUSTER = 32
JOINERS = "\u200d\ufe0f"


def bounded(text: str, cuts: Sequence[Cut], *, rank: int) -> list[Cut]:
    """Add cuts of this rank inside every block of more than LONGEST_BLOCK characters; its headings count as text."""
    found: list[Cut] = []
    for cut, end in zip(cuts, [*(each.offset for each in cuts[1:]), len(text)], strict=True):
        if end - cut.offset <= LONGEST_BLOCK:
            found.append(cut)
            continue
        found.append(replace(cut, lead=0))
        found += [replace(cut, offset=place, rank=rank, lead=0) for place in places(text, cut.offset, end)]
    return found


def places(text: str, start: int, end: int) -> Iterator[int]:
    """Yield where to cut text between two offsets into pieces of at most LONGEST_BLOCK characters.

    A cut is where the hash of the text that follows is the highest since the last cut and for a window after it, so
    that an edit moves only the cuts next to it. Text without places is cut evenly.
    """
    for before, after in pairwise([start, *_peaks(text, start, end), end]):
        parts = -(-(after - before) // LONGEST_BLOCK)
        for part in range(1, parts):
            yield _between_clusters(text, before + (after - before) * part // parts)
        if after < end:
            yield after


def _peaks(text: str, start: int, end: int) -> Iterator[int]:
    best, highest = start, -1
    for match in PLACE.finditer(text, start, end):
        place = match.end()
        value = zlib.crc32(text[place : place + HASHED].encode(errors="surrogatepass"))
        if place - best >= WINDOW and best > start:
            yield best
            best, highest = place, value
        elif value > highest and place < end:
            best, highest = place, value


def _between_clusters(text: str, place: int) -> int:
    """Move a place back so that no letter is separated from its marks."""
    for step in range(LONGEST_CLUSTER):
        at = place - step
        if not unicodedata.combining(text[at]) and text[at] not in JOINERS and text[at - 1] != "\u200d":
            return at
    return place
