"""The structure of a text: where it can be cut, its headings, its code and its tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.chunking.passages import Cut


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of the document itself, not one inside a quotation or list."""

    start: int
    end: int
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code or a table; `rows` is where a table's first row after its header begins, 0 for code."""

    start: int
    end: int
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Outline:
    """The structure of a text, each in order; the first cut is at its beginning."""

    cuts: Sequence[Cut]
    headings: Sequence[Heading] = ()
    blocks: Sequence[Block] = ()


def heading_paths(text: str, spans: Sequence[tuple[int, int]], headings: Sequence[Heading]) -> list[str]:
    """Return, for each passage, the headings above its first text, outermost first, joined with ` > `."""
    paths = []
    path: list[Heading] = []
    waiting = list(reversed(headings))
    for start, end in spans:
        position = start
        while waiting and waiting[-1].start <= position:
            heading = waiting.pop()
            path = [*(above for above in path if above.level < heading.level), heading]
            if heading.end > position:
                rest = text[heading.end : end]
                position = heading.end + len(rest) - len(rest.lstrip())
        paths.append(" > ".join(heading.text for heading in path if heading.text))
    return paths
