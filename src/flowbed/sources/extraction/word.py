"""Word documents by their structure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mammoth

from flowbed.sources.extraction.archives import open_archive, own_title
from flowbed.sources.extraction.html import extract_markup
from flowbed.sources.extraction.writer import RefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.records.extracts import Extract
    from flowbed.sources.extraction.writer import Room

# A title is the document's highest heading, as mammoth takes the first level by default.
STYLES = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"


def extract_word(path: Path, room: Room) -> Extract:
    """Extract a Word document: its headings, lists, tables, footnotes and accepted changes.

    Raises:
        RefusedError: it is encrypted, damaged, too large, or no Word document.
    """
    with open_archive(path, "word/document.xml") as archive:
        title = own_title(archive)
    with path.open("rb") as file:
        found: Any = mammoth.convert_to_html(
            file, style_map=STYLES, convert_image=mammoth.images.img_element(_no_image)
        )
    if not found.value.strip():
        raise RefusedError("it has no text")
    extract = extract_markup(f'<meta charset="utf-8">{found.value}'.encode(), room)
    return type(extract)(parts=extract.parts, title=title)


def _no_image(_image: object) -> dict[str, str]:
    return {}
