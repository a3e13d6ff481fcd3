"""Source code: split between its definitions and statements, each piece with the names of those around it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from flowbed.chunking.passages import LINE, PARAGRAPH, Cut, Piece, assemble, line_starts, passages, shortened
from flowbed.chunking.text import text_cuts
from flowbed.records.extracts import Extract, Form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowbed.chunking import Rules
    from flowbed.chunking.passages import Measure
    from flowbed.records import Chunk, Document
    from flowbed.records.extracts import Block

# The names around a piece take at most this part of what is sent.
NAMES_SHARE = 8


def chunk_code(document: Document, rules: Rules, count: Callable[[str], int]) -> list[Chunk]:
    """Split an extract of source code; comments and decorators stay with what follows them.

    Raises:
        Rejected: the document's text is no extract.
    """
    (part,) = Extract.from_json(document.text).parts
    cuts = _cuts(part.text, part.blocks)
    definitions = [block for block in part.blocks if block.form is Form.DEFINITION]

    def divide(capacity: int, count: Callable[[str], int]) -> list[Piece]:
        found: list[Piece] = []
        whole = passages(part.text, cuts, capacity, count, _split)
        names = _names([(each.start, each.end) for each in whole], definitions)
        for passage, (path, around) in zip(whole, names, strict=True):
            piece = Piece(passage.start, passage.end, part.text[passage.start : passage.end], headings=path)
            context = f"{shortened(around, capacity // NAMES_SHARE, count)}\n" if around else ""
            room = capacity - count(context)
            if count(context + piece.text) <= capacity:
                found.append(replace(piece, context=context))
                continue
            inside = [
                replace(cut, offset=cut.offset - piece.start)
                for cut in cuts
                if piece.start < cut.offset < piece.end
            ]
            found += (
                Piece(
                    piece.start + each.start,
                    piece.start + each.end,
                    piece.text[each.start : each.end],
                    headings=path,
                    context=context,
                )
                for each in passages(piece.text, [Cut(0, PARAGRAPH), *inside], room, count, _split)
            )
        return found

    return assemble(document, rules, count, divide)


def _cuts(text: str, blocks: Sequence[Block]) -> list[Cut]:
    """Return where lines begin, ranked by how deep the block is nested that begins there."""
    if not blocks:
        return text_cuts(text)
    lines = line_starts(text)

    def line_of(block: Block) -> int:
        return lines[bisect_right(lines, block.start) - 1]

    ranks: dict[int, int] = {}
    for block in blocks:
        ranks.setdefault(line_of(block), PARAGRAPH + block.level)
    # A comment stays with what follows it directly.
    held = {line_of(after) for before, after in pairwise(blocks) if _belongs(text, before, after)}
    cuts = [Cut(0, PARAGRAPH)]
    for start, end in pairwise([*lines, len(text)]):
        if start and start not in held and text[start:end].strip():
            cuts.append(Cut(start, ranks.get(start, LINE)))
    return cuts


def _belongs(text: str, before: Block, after: Block) -> bool:
    between = text[before.end : after.start]
    return before.form is Form.HEADING and not between.strip() and between.count("\n") <= 1


def _names(spans: Sequence[tuple[int, int]], definitions: Sequence[Block]) -> Iterator[tuple[str, str]]:
    """Yield, for each piece, the path of its definition, and that of those which began before it.

    A piece that holds several definitions has the path of the one around them.
    """
    around: list[Block] = []
    waiting = list(reversed(definitions))
    for start, end in spans:
        while waiting and waiting[-1].start < start:
            around.append(waiting.pop())
        around = [each for each in around if each.end > start]
        inside: list[Block] = []
        for block in reversed(waiting):
            if block.start >= end:
                break
            if not inside or block.start >= inside[-1].end:
                inside.append(block)
        path = [each.name for each in around]
        yield " > ".join([*path, *(each.name for each in inside[:1] if len(inside) == 1)]), " > ".join(path)


def _split(text: str, capacity: int, measure: Measure) -> list[tuple[int, str]]:
    from semantic_text_splitter import TextSplitter  # heavy; few lines are longer than a chunk

    return TextSplitter.from_callback(measure, capacity).chunk_indices(text)
