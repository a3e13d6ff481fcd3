"""Divide structured text: code, stack traces and tables stay whole where they fit, and tables keep their header."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from flowbed.chunking.outline import Block, Outline, heading_paths
from flowbed.chunking.passages import (
    CHARACTERS_PER_TOKEN,
    LINE,
    PARAGRAPH,
    Cut,
    Passage,
    Piece,
    line_starts,
    passages,
    shortened,
    trim,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowbed.chunking.passages import Measure

# A line of a stack trace, as Java, JavaScript, C#, Python, Go, Rust, gdb and Ruby write them.
FRAME = re.compile(
    r"^\s*(?:at\s+\S.*[:(]|File \"[^\"]+\", line \d+|Caused by: |\.\.\. \d+ more|#\d+\s+\S|\d+:\s+0x[0-9a-f]"
    r"|from\s+\S+:\d+:in |\S+\.(?:go|rs|rb|py|c|cc|cpp|h):\d+(?:\s|:|$))"
)
# The line that names the exception, after the frames of Python.
EXCEPTION = re.compile(r"^[\w.]+(?:Error|Exception|Warning|Exit|Interrupt)\b")
# One line that looks like a frame may be prose.
LEAST_FRAMES = 2

CELL = re.compile(r"(?<!\\)\|")


def divided(text: str, outline: Outline, capacity: int, count: Callable[[str], int]) -> list[Piece]:
    """Divide a text into pieces of at most `capacity` tokens, their context included.

    A block of code, a stack trace or a table is cut only if it does not fit, and then between its lines. Rows of a
    table that is cut have its header in front; a row that does not fit is written as `column: value` lines.
    """
    cuts, tables = kept_whole(text, outline.cuts, atoms(text, outline.blocks), capacity, count)
    found: list[Piece] = []
    position = 0
    for start, table in [*tables, (len(text), None)]:
        found += _prose(text, cuts, position, start, capacity, count)
        if table is not None:
            found += _rows(text, start, table, capacity, count)
            position = table.end
    spans = [(piece.start, piece.end) for piece in found]
    paths = heading_paths(text, spans, outline.headings)
    return [replace(piece, headings=path) for piece, path in zip(found, paths, strict=True)]


def atoms(text: str, blocks: Sequence[Block]) -> list[Block]:
    """Return code, tables and stack traces in order; one inside another is part of it."""
    found: list[Block] = []
    for block in sorted([*blocks, *traces(text)], key=lambda block: (block.start, -block.end)):
        if not found or block.start >= found[-1].end:
            found.append(block)
    return found


def traces(text: str) -> Iterator[Block]:
    """Yield the stack traces of a text, each with the line before it, which usually names the exception."""
    starts = [*line_starts(text), len(text)]
    lines = [text[start:end] for start, end in pairwise(starts)]
    line, free = 0, 0
    while line < len(lines):
        if not FRAME.match(lines[line]):
            line += 1
            continue
        first, frames = line, 0
        # Python writes the source, indented, after each frame.
        while line < len(lines) and (FRAME.match(lines[line]) or _indented(lines[line])):
            frames += FRAME.match(lines[line]) is not None
            line += 1
        if frames < LEAST_FRAMES:
            continue
        if first > free and lines[first - 1].strip():
            first -= 1
        if line < len(lines) and EXCEPTION.match(lines[line]):
            line += 1
        free = line
        yield Block(starts[first], starts[line])


def _indented(line: str) -> bool:
    return line[:1] in " \t" and bool(line.strip())


def kept_whole(
    text: str, cuts: Sequence[Cut], whole: Sequence[Block], capacity: int, count: Callable[[str], int]
) -> tuple[list[Cut], list[tuple[int, Block]]]:
    """Remove the cuts inside atoms that fit; also return the tables that do not, with the start of their heading."""
    longest = capacity * CHARACTERS_PER_TOKEN

    def fits(start: int, end: int) -> bool:
        return end - start <= longest and count(text[start:end]) <= capacity

    kept: list[Cut] = []
    tables: list[tuple[int, Block]] = []
    waiting = list(cuts)
    for atom in whole:
        place = bisect_right(waiting, atom.start, key=lambda cut: cut.offset)
        past = bisect_right(waiting, atom.end - 1, key=lambda cut: cut.offset)
        kept += waiting[:place]
        inside = waiting[place:past]
        waiting = waiting[past:]
        owner = kept[-1].offset if kept else 0
        if fits(owner, atom.end):
            continue
        if fits(atom.start, atom.end):
            if kept and owner < atom.start:
                # It does not fit together with its headings.
                kept[-1] = replace(kept[-1], lead=0)
                kept.append(Cut(atom.start, PARAGRAPH))
            continue
        kept += [replace(cut, rank=LINE) for cut in inside]
        if atom.rows:
            tables.append((owner, atom))
    return kept + waiting, tables


def _prose(
    text: str, cuts: Sequence[Cut], start: int, end: int, capacity: int, count: Callable[[str], int]
) -> Iterator[Piece]:
    if not text[start:end].strip():
        return
    first_cut = bisect_left(cuts, start, key=lambda cut: cut.offset)
    past_cut = bisect_left(cuts, end, key=lambda cut: cut.offset)
    here = [replace(cut, offset=cut.offset - start) for cut in cuts[first_cut:past_cut]]
    if not here or here[0].offset:
        here.insert(0, Cut(0, PARAGRAPH))
    for passage in passages(text[start:end], here, capacity, count, _split):
        first, last = start + passage.start, start + passage.end
        yield Piece(first, last, text[first:last])


def _split(text: str, capacity: int, measure: Measure) -> list[tuple[int, str]]:
    from semantic_text_splitter import MarkdownSplitter  # heavy; few blocks are longer than a chunk

    return MarkdownSplitter.from_callback(measure, capacity).chunk_indices(text)


def _rows(text: str, start: int, table: Block, capacity: int, count: Callable[[str], int]) -> list[Piece]:
    """Divide a table of Markdown that does not fit; `start` is where its heading begins, or the table itself."""
    header = text[table.start : table.rows].strip()
    starts = [*(table.rows + offset for offset in line_starts(text[table.rows : table.end])), table.end]
    rows = [(first, last, _cells) for first, last in pairwise(starts)]
    columns = _cells(header.partition("\n")[0])
    return divided_rows(text, (start, table.start, table.rows), rows, columns, capacity, count)


def divided_rows(
    text: str,
    head: tuple[int, int, int],
    rows: Sequence[tuple[int, int, Callable[[str], list[str]]]],
    columns: Sequence[str],
    capacity: int,
    count: Callable[[str], int],
) -> list[Piece]:
    """Divide a table between its rows, each with its ends and what divides it into cells.

    `head` is where what stands above the table begins, where its header begins, and where that ends. Later pieces have
    the header as context; a row that does not fit becomes lines `column: value`.
    """
    start, begin, end = head
    header = text[begin:end].strip()
    context = f"{shortened(header, capacity // 2, count)}\n" if header else ""
    room = capacity - count(context)
    # The first piece also has the heading above the table.
    whole_header = start == begin and context.strip() == header
    found: list[Piece] = []
    if not whole_header:
        found += _prose(text, [], start, end, capacity, count)
    packed: list[int] = []
    position = end
    for first, last, cells in rows:
        row = text[first:last].strip()
        if len(row) > room * CHARACTERS_PER_TOKEN or count(row) > room:
            found += _packed(text, packed, first, context, room, count)
            found += _by_column(cells(row), columns, Passage(*trim(text, first, last)), capacity, count)
            packed = []
        else:
            packed.append(first)
        position = last
    found += _packed(text, packed, position, context, room, count)
    if whole_header and header and found:
        if found[0].context and found[0].start == trim(text, end, found[0].end)[0]:
            found[0] = Piece(start, found[0].end, text[start : found[0].end])
        else:
            found[:0] = _prose(text, [], start, end, capacity, count)
    return found


def _packed(
    text: str, starts: Sequence[int], end: int, context: str, room: int, count: Callable[[str], int]
) -> Iterator[Piece]:
    """Put rows, each of which fits, into pieces."""
    if starts:
        for piece in _prose(text, [Cut(start, LINE) for start in starts], starts[0], end, room, count):
            yield replace(piece, context=context)


def _by_column(
    cells: Sequence[str], columns: Sequence[str], place: Passage, capacity: int, count: Callable[[str], int]
) -> Iterator[Piece]:
    """Write a row that does not fit as lines `column: value`, in as many pieces as it takes."""
    names = [*columns, *("" for _ in cells[len(columns) :])]
    written = "\n".join(
        f"{name}: {cell}" if name else cell for name, cell in zip(names, cells, strict=False) if cell
    )
    lines = [Cut(at, LINE) for at in line_starts(written)]
    for piece in _prose(written, lines, 0, len(written), capacity, count):
        yield Piece(place.start, place.end, piece.text)


def _cells(row: str) -> list[str]:
    inner = row.strip().removeprefix("|")
    if inner.endswith("|") and not inner.endswith("\\|"):
        inner = inner[:-1]
    return [cell.strip() for cell in CELL.split(inner)]
