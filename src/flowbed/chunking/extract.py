"""Extracts of documents: each page, slide or sheet by itself, by its headings, blocks and tables."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.chunking import outline
from flowbed.chunking.atoms import divided
from flowbed.chunking.passages import BLANK_LINE, LINE, PARAGRAPH, Cut, assemble, line_starts
from flowbed.chunking.text import text_cuts
from flowbed.records.extracts import Extract, Form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowbed.chunking import Rules
    from flowbed.chunking.passages import Piece
    from flowbed.records import Chunk, Document, Scalar
    from flowbed.records.extracts import Part


def chunk_extract(document: Document, rules: Rules, count: Callable[[str], int]) -> list[Chunk]:
    """Split an extract into chunks, none of which crosses a part, each with its place and its address.

    Raises:
        Rejected: the document's text is no extract.
    """
    extract = Extract.from_json(document.text)

    def divide(capacity: int, count: Callable[[str], int]) -> list[Piece]:
        found: list[Piece] = []
        for part in extract.parts:
            count("")  # which raises where the work is no longer wanted
            if part.text.strip():
                found += _placed(part, divided(part.text, _outline(part), capacity, count), extract.url)
        return found

    return assemble(document, rules, count, divide)


def _outline(part: Part) -> outline.Outline:
    if not part.blocks:
        return outline.Outline(text_cuts(part.text))
    return outline.Outline(
        list(_cuts(part)),
        [
            outline.Heading(each.start, each.end, each.level, each.name)
            for each in part.blocks
            if each.form is Form.HEADING
        ],
        [
            outline.Block(each.start, each.end, each.rows)
            for each in part.blocks
            if each.form in (Form.CODE, Form.TABLE)
        ],
    )


def _cuts(part: Part) -> Iterator[Cut]:
    """Yield the beginning of every block and of the lines inside it; what follows a heading stays with it."""
    heading: Cut | None = None
    for block in part.blocks:
        if block.start == block.end:
            continue  # a heading of an earlier page
        rank = block.level if block.form is Form.HEADING else min(PARAGRAPH + block.level, BLANK_LINE - 1)
        if heading is not None:
            yield replace(heading, lead=block.start - heading.offset)
            heading = None
        elif block.form is Form.HEADING:
            heading = Cut(block.start, rank)
            continue
        else:
            yield Cut(block.start, rank)
        for start in line_starts(part.text[block.start : block.end])[1:]:
            if block.form is not Form.HEADING and start < block.end - block.start:
                yield Cut(block.start + start, LINE)
    if heading is not None:
        yield heading


def _placed(part: Part, pieces: Sequence[Piece], url: str) -> Iterator[Piece]:
    """Add to pieces where they are."""
    anchored = [(each.start, each.anchor) for each in part.blocks if each.anchor]
    for piece in pieces:
        place: dict[str, Scalar] = dict(part.place)
        at = bisect_right(anchored, (piece.start, "\U0010ffff")) - 1
        fragment = anchored[at][1] if at >= 0 else part.fragment
        if url:
            place["url"] = f"{url}#{fragment}" if fragment else url
        headings = " > ".join(filter(None, (part.headings, piece.headings)))
        yield replace(piece, headings=headings, place=place)
