"""PowerPoint: the text, the tables and the notes of each slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pptx

from flowbed.records.extracts import Extract, Part
from flowbed.sources.extraction.archives import open_archive, own_title
from flowbed.sources.extraction.writer import RefusedError, Writer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flowbed.sources.extraction.writer import Room


def extract_slides(path: Path, room: Room) -> Extract:
    """Extract the slides of a presentation that have text; hidden ones too.

    Raises:
        RefusedError: it is encrypted, damaged, too large, no presentation, or has no text.
    """
    with open_archive(path, "ppt/presentation.xml") as archive:
        title = own_title(archive)
    parts = [
        part
        for number, slide in enumerate(pptx.Presentation(str(path)).slides, 1)
        if (part := _slide(slide, number, room)).text
    ]
    if not parts:
        raise RefusedError("it has no text: its slides are empty, or pictures")
    # The default template of a program is no title.
    return Extract(parts=tuple(parts), title="" if title == "PowerPoint Presentation" else title)


def _slide(slide: Any, number: int, room: Room) -> Part:
    writer = Writer(room)
    title = slide.shapes.title
    if title is not None and title.has_text_frame:
        writer.heading(1, title.text_frame.text)
    for shape in _shapes(slide.shapes):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if shape.has_text_frame:
            for paragraph in shape.text_frame.paragraphs:
                writer.paragraph("  " * paragraph.level + paragraph.text.replace("\v", "\n"), paragraph.level)
        elif shape.has_table:
            writer.table([cell.text for cell in row.cells] for row in shape.table.rows)
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None:
        writer.paragraph(notes.text.replace("\v", "\n"))
    return writer.part({"slide": number}, f"slide={number}")


def _shapes(shapes: Any) -> Iterator[Any]:
    """Yield shapes, those of groups too, in the order in which they are drawn."""
    waiting = list(reversed(list(shapes)))
    while waiting:
        shape = waiting.pop()
        if hasattr(shape, "shapes"):
            waiting += reversed(list(shape.shapes))
        else:
            yield shape
