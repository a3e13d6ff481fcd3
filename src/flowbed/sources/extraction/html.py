"""HTML by its structure: headings with their anchors, paragraphs, lists, code and tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lxml import etree, html

from flowbed.records.extracts import Extract
from flowbed.sources.extraction.encodings import decoded_page
from flowbed.sources.extraction.writer import RefusedError, Writer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flowbed.sources.extraction.writer import Room

# What is no text of the page: programs, forms, and what all pages of a site repeat.
LEFT_OUT = frozenset({
    "script", "style", "template", "noscript", "head", "svg", "math", "canvas", "iframe", "object", "video", "audio",
    "nav", "aside", "footer", "dialog", "button", "select", "textarea", "input",
})  # fmt: skip
HEADINGS = {f"h{level}": level for level in range(1, 7)}
LISTS = frozenset({"ul", "ol", "menu"})
# Elements that end a line of text, besides those above.
BLOCKS = frozenset({
    "address", "article", "body", "blockquote", "caption", "center", "dd", "details", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "form", "header", "hr", "html", "legend", "li", "main", "p", "section", "summary", "table",
    "tbody", "td", "tfoot", "th", "thead", "tr",
})  # fmt: skip
LANGUAGE = re.compile(r"(?:^|\s)(?:language|lang|highlight-source|brush:)-?\s*(\w+)")
# The line ends of `br`, apart from those of the source, which are spaces.
LINE_END = "\x00"
SPAN = re.compile(r"\d{1,3}$")  # a cell that spans more columns than that is a mistake


def extract_html(path: Path, room: Room) -> Extract:
    """Extract a page.

    Raises:
        RefusedError: it has no elements, no text, or is not in the encoding that it names.
    """
    extract = extract_markup(path.read_bytes(), room)
    if not any(part.text for part in extract.parts):
        raise RefusedError("it has no text, apart from scripts, menus and footers")
    return extract


def extract_markup(markup: bytes, room: Room) -> Extract:
    """Extract a page from its bytes.

    Raises:
        RefusedError: it has no elements, or is not in the encoding that it names.
    """
    # Not by the parser, which stops at the first letter that an encoding lacks, such as one of Windows in Shift_JIS.
    markup = decoded_page(markup).encode(errors="replace")
    parser = html.HTMLParser(
        encoding="utf-8",
        remove_comments=True,
        remove_pis=True,
        huge_tree=True,  # allows 2,048 levels instead of 256
    )
    try:
        root = html.document_fromstring(markup, parser=parser)
    except etree.XMLSyntaxError as error:
        # HTML has no syntax errors: the parser fails only without memory.
        raise MemoryError from error
    except etree.ParserError as error:
        raise RefusedError(f"it is no HTML: {error}") from error
    failures = {each.type_name for each in parser.error_log}
    if "ERR_RESOURCE_LIMIT" in failures:
        raise RefusedError("its elements are nested too deeply")
    if "ERR_NO_MEMORY" in failures:
        raise MemoryError
    title = " ".join((root.findtext(".//title") or "").split())
    reading = _Reading(Writer(room))
    reading.walk(root)
    return Extract(parts=(reading.writer.part(),), title=title)


class _Reading:
    """One walk through the elements; `words` is the text since the last end of a block."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._words: list[str] = []
        self._lists: list[str] = []
        self._item = ""

    def walk(self, root: Any) -> None:
        """Read all elements in order; without recursion, since they may be nested deeper than Python's stack."""
        skipped = None
        for event, element in etree.iterwalk(root, events=("start", "end")):
            if skipped is not None:
                if event == "end" and element is skipped:
                    skipped = None
                    self._words.append(element.tail or "")
                continue
            if event == "end":
                self._end(element)
                self._words.append(element.tail or "")
            elif self._is_done(element):
                skipped = element
            else:
                self._start(element)
                self._words.append(element.text or "")
        self._flush()

    def _is_done(self, element: Any) -> bool:
        """Write a block that is read as a whole; also tell whether the element has nothing to read."""
        tag = element.tag
        if tag in LEFT_OUT or element.get("hidden") is not None or element.get("aria-hidden") == "true":
            return True
        if tag in HEADINGS:
            self._flush()
            self.writer.heading(HEADINGS[tag], _words(element), _anchor(element))
        elif tag == "pre":
            self._flush()
            classes = " ".join(each.get("class", "") for each in (element, *element.iterfind("code")))
            language = LANGUAGE.search(classes)
            self.writer.code(_preformatted(element), language[1] if language else "")
        elif tag == "table" and not _is_layout(element):
            self._flush()
            for caption in element.iterfind("caption"):
                self.writer.paragraph(_words(caption))
            self.writer.table(_rows(element))
        else:
            return False
        return True

    def _start(self, element: Any) -> None:
        tag = element.tag
        if tag in BLOCKS or tag in LISTS:
            self._flush()
        if tag in LISTS:
            self._lists.append(tag)
        elif tag == "li":
            self._item = "  " * max(len(self._lists) - 1, 0) + "- "
        elif tag == "dd":
            self._item = "  "
        elif tag == "br":
            self._words.append(LINE_END)
        elif tag == "img":
            self._words.append(element.get("alt") or "")

    def _end(self, element: Any) -> None:
        if element.tag in BLOCKS or element.tag in LISTS:
            self._flush()
        if element.tag in LISTS and self._lists:
            self._lists.pop()
        if element.tag == "li":
            self._item = ""

    def _flush(self) -> None:
        text = "".join(self._words)
        self._words = []
        lines = [" ".join(line.split()) for line in text.split(LINE_END)]
        said = "\n".join(line for line in lines if line)
        if said:
            self.writer.paragraph(self._item + said, len(self._lists))
            self._item = " " * len(self._item)


def _anchor(element: Any) -> str:
    """Return the fragment that opens a heading: its own id, or that of an anchor inside it or of its section."""
    for each in (element, *element.iterfind(".//a")):
        if found := each.get("id") or each.get("name"):
            return str(found)
    parent = element.getparent()
    if parent is not None and parent.tag in ("section", "div", "article") and parent.index(element) == 0:
        return str(parent.get("id") or "")
    return ""


def _words(element: Any) -> str:
    """Return the text of an element; a mark that links to the heading itself is no text."""
    said = "".join(_texts(element))
    return " ".join(said.split()).rstrip("¶#").rstrip() or said.strip()


def _texts(element: Any) -> Iterator[str]:
    for event, each in etree.iterwalk(element, events=("start", "end")):
        if event == "end":
            if each is not element:
                yield each.tail or ""
            if each.tag in BLOCKS or each.tag == "br":
                yield " "
        elif each.tag not in LEFT_OUT:
            yield each.text or ""
            yield each.get("alt") or "" if each.tag == "img" else ""


def _preformatted(element: Any) -> str:
    for each in element.iter("br"):
        each.tail = "\n" + (each.tail or "")
    return "".join(element.itertext())


def _is_layout(table: Any) -> bool:
    """Tell whether a table only arranges the page: it holds other tables or headings, or says so."""
    if table.get("role") in ("presentation", "none"):
        return True
    return any(each is not table for each in table.iter("table", *HEADINGS))


def _rows(table: Any) -> Iterator[list[str]]:
    for row in table.iter("tr"):
        cells: list[str] = []
        for cell in row.iterchildren("td", "th"):
            cells.append(_words(cell))
            span = SPAN.match(cell.get("colspan", ""))
            cells += [""] * (int(span[0]) - 1 if span else 0)
        yield cells
