"""What is read of a file, by its suffix: text as it is, documents and code through a parser."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import PurePosixPath

from flowbed.records.extracts import CODE, EXTRACT


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How files of a suffix become documents.

    `kind` is that of the document, which chooses its chunker. `parser` names an extractor of the child process, and
    `packages` what it needs, which the `extra` installs. Without them, code is read as plain text.
    """

    kind: str
    parser: str = ""
    language: str = ""
    name: str = ""
    extra: str = ""
    packages: tuple[str, ...] = ()


def _document(parser: str, name: str, *packages: str) -> Format:
    return Format(kind=EXTRACT, parser=parser, name=name, extra="documents", packages=packages)


def _code(language: str, package: str = "") -> Format:
    packages = ("tree_sitter", f"tree_sitter_{package or language}")
    return Format(kind=CODE, parser="code", language=language, name="code", extra="code", packages=packages)


TEXT = Format(kind="text")
MARKDOWN = Format(kind="markdown")
TABLE = Format(kind="table")
_WORD = _document("word", "Word documents", "mammoth", "lxml")
_SLIDES = _document("slides", "PowerPoint presentations", "pptx")
_SHEETS = _document("sheets", "workbooks", "python_calamine")
_HTML = _document("html", "HTML pages", "lxml")

# The router: every other suffix is plain text.
FORMATS = {
    **dict.fromkeys((".md", ".markdown", ".mdx"), MARKDOWN),
    **dict.fromkeys((".csv", ".tsv"), TABLE),
    **dict.fromkeys((".html", ".htm", ".xhtml"), _HTML),
    ".pdf": _document("pdf", "PDF files", "pypdfium2"),
    **dict.fromkeys((".docx", ".docm", ".dotx"), _WORD),
    **dict.fromkeys((".pptx", ".pptm", ".ppsx"), _SLIDES),
    **dict.fromkeys((".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), _SHEETS),
    **dict.fromkeys((".sh", ".bash"), _code("bash")),
    **dict.fromkeys((".c", ".h"), _code("c")),
    **dict.fromkeys((".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx"), _code("cpp")),
    ".cs": _code("c_sharp"),
    ".go": _code("go"),
    ".java": _code("java"),
    **dict.fromkeys((".js", ".jsx", ".mjs", ".cjs"), _code("javascript")),
    **dict.fromkeys((".kt", ".kts"), _code("kotlin")),
    ".php": _code("php"),
    **dict.fromkeys((".py", ".pyi"), _code("python")),
    ".rb": _code("ruby"),
    ".rs": _code("rust"),
    ".swift": _code("swift"),
    **dict.fromkeys((".ts", ".mts", ".cts"), _code("typescript")),
    ".tsx": _code("tsx", "typescript"),
}

# Documents that no parser here reads, and what their owner can do.
UNREAD = {
    ".doc": "a Word file of before 2007; save it as .docx",
    ".ppt": "a PowerPoint file of before 2007; save it as .pptx",
    ".odt": "an OpenDocument text; save it as .docx or PDF",
    ".odp": "an OpenDocument presentation; save it as .pptx or PDF",
    ".pages": "a Pages document; export it as .docx or PDF",
    ".numbers": "a Numbers workbook; export it as .xlsx",
    ".key": "a Keynote presentation; export it as .pptx or PDF",
    ".epub": "an EPUB book; convert it to HTML",
    ".mobi": "a Kindle book; convert it to HTML",
}

# The beginning of files that are no text although all of their bytes may be.
PDF_MAGIC = b"%PDF-"


@cache
def is_installed(package: str) -> bool:
    """Tell whether a package is installed, without loading it."""
    return find_spec(package) is not None


def missing(form: Format) -> str:
    """Return how to install what a format needs, empty if all of it is there."""
    if all(map(is_installed, form.packages)):
        return ""
    return f"reading {form.name} needs packages: pip install 'flowbed[{form.extra}]'"


def is_parsed(filename: str) -> bool:
    """Tell whether a file of this name goes through a parser of documents that is installed."""
    form = FORMATS.get(PurePosixPath(filename).suffix.lower(), TEXT)
    return form.kind == EXTRACT and not missing(form)
