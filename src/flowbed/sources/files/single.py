"""Reads one file that lies in no folder of the project, such as an uploaded one, by the suffix of its name."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import orjson

from flowbed.errors import Rejected, Unreadable
from flowbed.records.extracts import CODE, EXTRACT
from flowbed.sources.decoding import UTF16, decoded_file, why_not_file
from flowbed.sources.files.formats import FORMATS, PDF_MAGIC, TEXT, UNREAD, missing
from flowbed.sources.files.listing import HEAD_BYTES, LARGEST_CODE, LARGEST_DOCUMENT

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.sources.extraction.process import Parsers
    from flowbed.sources.files.formats import Format


class FileText(NamedTuple):
    """The text of a file: the kind of document that it is, the input of its chunker, and its title, if it has one."""

    kind: str
    text: str
    title: str = ""


def read_single(path: Path, filename: str, *, parsers: Parsers, max_bytes: int) -> FileText:
    """Read a file that is called `filename`; blocks.

    `max_bytes` is the largest text that is read.

    Raises:
        Unreadable: it is encrypted, damaged, no text, or of a format that is not read here.
        Rejected: it is too large, or its parser was killed.
        Transient: its parser was interrupted.
    """
    size = path.stat().st_size
    form = _format(filename, size)
    most = max(max_bytes, LARGEST_DOCUMENT) if form.kind == EXTRACT else max_bytes
    if size > most:
        raise Unreadable(f"it has {size:,} bytes; a file of its kind may have {most:,}: split it")
    if form.kind == EXTRACT:
        if not size:
            raise Unreadable("it is empty")
        if reason := missing(form):
            raise Unreadable(reason)
        extract = parsers.extract(path, form.parser)
        return FileText(EXTRACT, extract, orjson.loads(extract)["title"])
    return _read_text(path, filename, form, parsers)


def _format(filename: str, size: int) -> Format:
    form = FORMATS.get(PurePosixPath(filename).suffix.lower(), TEXT)
    return TEXT if form.kind == CODE and (size > LARGEST_CODE or missing(form)) else form


def _read_text(path: Path, filename: str, form: Format, parsers: Parsers) -> FileText:
    raw = path.read_bytes()
    if raw.startswith(PDF_MAGIC):
        raise Unreadable("it is a PDF under another suffix: call it .pdf")
    if fault := why_not_file(raw[:HEAD_BYTES], final=len(raw) <= HEAD_BYTES):
        raise Unreadable(UNREAD.get(PurePosixPath(filename).suffix.lower(), fault))
    try:
        text = decoded_file(raw)
    except Rejected as error:
        raise Unreadable(str(error)) from error
    if form.kind == CODE and not raw.startswith(UTF16):  # parsers read UTF-8
        try:
            return FileText(CODE, parsers.extract(path, form.parser, form.language))
        except Unreadable:
            return FileText("text", text)  # what is not in this language, such as a template, is still text
    return FileText("text" if form.kind == CODE else form.kind, text)
