"""PDF: the text of each page, with the bookmarks above it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pypdfium2

from flowbed.records.extracts import Block, Extract, Form, Part
from flowbed.records.values import count
from flowbed.sources.extraction.writer import RefusedError, storable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from flowbed.sources.extraction.writer import Room

MAGIC = b"%PDF-"
# Readers accept that much rubbish before it.
MAGIC_WITHIN = 1_024
# The number that PDFium reports for a document whose password is missing.
PASSWORD = pypdfium2.raw.FPDF_ERR_PASSWORD
# Deeper bookmarks are entries, not chapters.
DEEPEST_BOOKMARK = 4
MOST_BOOKMARKS = 10_000

# A word that is hyphenated at the end of a line, as PDFium marks it.
HYPHENATED = re.compile("[\ufffe\u0002]\n?")
# Lines up to a blank one.
PARAGRAPH = re.compile(r"(?:[^\n]*\S[^\n]*(?:\n|\Z))+")
# Characters of a number in front of a title.
MOST_BEFORE = 16
# What programs write as the title by themselves.
MADE_TITLE = re.compile(
    r"^(?:Microsoft (?:Word|PowerPoint) - )|\.(?:docx?|pptx?|xlsx?|odt|indd|tex|dvi)$|^untitled$",
    re.IGNORECASE,
)


def extract_pdf(path: Path, room: Room) -> Extract:
    """Extract the pages of a PDF that have text.

    Raises:
        RefusedError: it is encrypted, damaged, no PDF, or has no text layer.
    """
    with path.open("rb") as file:
        if MAGIC not in file.read(MAGIC_WITHIN):
            raise RefusedError("its suffix is wrong: it is no PDF")
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == PASSWORD:
            raise RefusedError("it is encrypted: save it without a password") from error
        raise RefusedError(f"it is damaged or cut off: {error}") from error
    pages = len(document)
    bookmarks = _bookmarks(document)
    parts: list[Part] = []
    above: list[Block] = []
    for number in range(pages):
        text = room.take(_text(document, number))
        headings = _headings(text, bookmarks.get(number, ()))
        if text:
            parts.append(
                Part(
                    text=text,
                    blocks=(*above, *_blocks(text, headings)),
                    place={"page": number + 1},
                    fragment=f"page={number + 1}",
                )
            )
        for heading in headings:
            above = [each for each in above if each.level < heading.level]
            above.append(Block(form=Form.HEADING, start=0, end=0, level=heading.level, name=heading.name))
    if not parts:
        raise RefusedError(
            f"none of its {count(pages, 'page')} has text: if they are pictures, run OCR over it, such as with ocrmypdf"
            if pages
            else "it has no pages"
        )
    title = " ".join(storable(document.get_metadata_value("Title")).split())
    return Extract(parts=tuple(parts), title=MADE_TITLE.sub("", title).strip())


def _text(document: Any, number: int) -> str:
    try:
        page = document[number]
        found = page.get_textpage()
        text = found.get_text_range()
        found.close()
        page.close()
    except pypdfium2.PdfiumError:
        return ""  # one broken page, or one without content, does not hide the others
    lines = HYPHENATED.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
    return storable("\n".join(line.rstrip() for line in lines).strip())


def _headings(text: str, bookmarks: Sequence[tuple[int, str]]) -> list[Block]:
    """Return a page's bookmarks where their titles are in its text; what is not found is at its top."""
    found: list[Block] = []
    position = 0
    for level, title in bookmarks:
        words = r"\s+".join(map(re.escape, title.split()))
        line = re.compile(rf"^.{{0,{MOST_BEFORE}}}{words}.*$", re.MULTILINE).search(text, position)
        start, end = line.span() if line else (position, position)
        found.append(Block(form=Form.HEADING, start=start, end=end, level=level + 1, name=title))
        position = end
    return found


def _blocks(text: str, headings: Sequence[Block]) -> Iterator[Block]:
    """Yield headings, and the paragraphs between them."""
    position = 0
    for heading in headings:
        yield from _paragraphs(text, position, heading.start)
        yield heading
        position = heading.end
    yield from _paragraphs(text, position, len(text))


def _paragraphs(text: str, start: int, end: int) -> Iterator[Block]:
    for lines in PARAGRAPH.finditer(text, start, end):
        yield Block(form=Form.PARAGRAPH, start=lines.start(), end=lines.start() + len(lines[0].rstrip()))


def _bookmarks(document: Any) -> dict[int, list[tuple[int, str]]]:
    """Return the bookmarks of each page, as level and title."""
    found: dict[int, list[tuple[int, str]]] = {}
    try:
        for number, bookmark in enumerate(document.get_toc(max_depth=DEEPEST_BOOKMARK)):
            if number >= MOST_BOOKMARKS:
                break
            target = bookmark.get_dest()
            index = target.get_index() if target else None
            title = " ".join(storable(bookmark.get_title()).split())
            if index is not None and title:
                found.setdefault(index, []).append((bookmark.level, title))
    except pypdfium2.PdfiumError:
        return {}  # they only add to what the pages say
    return found
