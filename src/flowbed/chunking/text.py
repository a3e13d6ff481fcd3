"""Plain text: split at paragraphs, then at lines, then at sentences; stack traces stay whole where they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.chunking.atoms import kept_whole, traces
from flowbed.chunking.passages import LINE, PARAGRAPH, Cut, Piece, assemble, line_starts, passages

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.chunking import Rules
    from flowbed.chunking.passages import Measure
    from flowbed.records import Chunk, Document


def chunk_text(document: Document, rules: Rules, count: Callable[[str], int]) -> list[Chunk]:
    """Split a plain text document into chunks."""
    from semantic_text_splitter import TextSplitter  # heavy; not needed to list or submit work

    text = document.text

    def split(text: str, capacity: int, measure: Measure) -> list[tuple[int, str]]:
        return TextSplitter.from_callback(measure, capacity).chunk_indices(text)

    def divide(capacity: int, count: Callable[[str], int]) -> list[Piece]:
        cuts, _ = kept_whole(text, text_cuts(text), list(traces(text)), capacity, count)
        found = passages(text, cuts, capacity, count, split)
        return [Piece(each.start, each.end, text[each.start : each.end]) for each in found]

    return assemble(document, rules, count, divide)


def text_cuts(text: str) -> list[Cut]:
    """Return the places to cut plain text: every non-blank line, preferably after a blank one."""
    cuts = [Cut(0, PARAGRAPH)]
    starts = line_starts(text)
    blank = False
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        if not text[start:end].strip():
            blank = True
            continue
        if start:
            cuts.append(Cut(start, PARAGRAPH if blank else LINE))
        blank = False
    return cuts
