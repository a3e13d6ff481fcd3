"""Comma-separated values: split between rows, each piece with the header in front."""

from __future__ import annotations

import csv
from itertools import pairwise
from typing import TYPE_CHECKING

from flowbed.chunking.atoms import divided_rows
from flowbed.chunking.passages import CHARACTERS_PER_TOKEN, Piece, assemble, line_starts
from flowbed.chunking.text import chunk_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.chunking import Rules
    from flowbed.records import Chunk, Document

DELIMITERS = ",;\t|"
# A quoted value of more lines was most likely never closed.
MOST_LINES = 1_000


def chunk_table(document: Document, rules: Rules, count: Callable[[str], int]) -> list[Chunk]:
    """Split a table of values, of which the first row with several cells is the header unless it has numbers.

    What is no such table, such as one with a quotation mark that is never closed, is split as plain text.
    """
    text = document.text
    delimiter = _delimiter(text)
    try:
        found = _rows(text, delimiter)
    except csv.Error:
        return chunk_text(document, rules, count)
    first = next((place for place, (_, _, cells) in enumerate(found) if _is_row(cells)), None)
    if first is None:
        return chunk_text(document, rules, count)
    columns = found[first][2]
    # Without a header, no row is repeated.
    has_header = not any(map(_is_number, columns))
    head = found[first + 1 if has_header else first :]
    begin, end = found[first][0], found[first][1] if has_header else found[first][0]

    def cells_of(row: str) -> list[str]:
        return next(csv.reader(row.splitlines(keepends=True), delimiter=delimiter), [])

    def divide(capacity: int, count: Callable[[str], int]) -> list[Piece]:
        if len(text) <= capacity * CHARACTERS_PER_TOKEN and count(text.strip()) <= capacity:
            start, last = len(text) - len(text.lstrip()), len(text.rstrip())
            return [Piece(start, last, text[start:last])]
        rows = [(start, last, cells_of) for start, last, _ in head]
        names = columns if has_header else []
        return divided_rows(text, (0, begin, end), rows, names, capacity, count)

    return assemble(document, rules, count, divide)


def _delimiter(text: str) -> str:
    start = text[: text.find("\n", 1) + 1] or text
    return max(DELIMITERS, key=start.count)


def _rows(text: str, delimiter: str) -> list[tuple[int, int, list[str]]]:
    """Return the ends and the cells of every row; a quoted value may have several lines.

    Raises:
        csv.Error: a value is too long, or has too many lines.
    """
    starts = [*line_starts(text), len(text)]
    lines = (text[start:end] for start, end in pairwise(starts))
    reader = csv.reader(lines, delimiter=delimiter)
    found: list[tuple[int, int, list[str]]] = []
    before = 0
    for cells in reader:
        if reader.line_num - before > MOST_LINES:
            raise csv.Error("a quotation mark was never closed")
        if any(cells):
            found.append(
                (starts[before], starts[reader.line_num], [" ".join(cell.split()) for cell in cells])
            )
        before = reader.line_num
    return found


def _is_row(cells: list[str]) -> bool:
    return sum(map(bool, cells)) > 1


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
