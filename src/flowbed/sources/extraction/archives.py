"""Office files are zip archives: whether one is whole, of which kind, and not a bomb."""

from __future__ import annotations

import mmap
import re
import zipfile
import zlib
from typing import TYPE_CHECKING
from xml.sax.saxutils import unescape

from flowbed.sources.extraction.writer import RefusedError

if TYPE_CHECKING:
    from pathlib import Path

# XML of tables and slides unpacks to 10 to 50 times its size, and pictures to their own.
MOST_UNPACKED = 2 * 2**30
MOST_TIMES, SMALL = 200, 50_000_000

# What tells the kinds apart, and their names.
KINDS = {
    "word/document.xml": "a Word document (.docx)",
    "xl/workbook.xml": "an Excel workbook (.xlsx)",
    "xl/workbook.bin": "an Excel workbook (.xlsb)",
    "ppt/presentation.xml": "a PowerPoint presentation (.pptx)",
    "content.xml": "an OpenDocument file",
}
# The container of old Office files, and of encrypted new ones.
OLD = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")

TITLE = re.compile(r"<dc:title[^>]*>([^<]*)</dc:title>")
MOST_PROPERTIES = 1_000_000


def open_archive(path: Path, *wanted: str) -> zipfile.ZipFile:
    """Open an Office file that has one of the `wanted` entries, after checking what it would unpack to.

    Raises:
        RefusedError: it is encrypted, damaged, a bomb, or of another kind.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeDecodeError) as error:
        raise RefusedError(_why_no_archive(path)) from error
    try:
        _check(archive, path.stat().st_size, wanted)
    except BaseException:
        archive.close()
        raise
    return archive


def _check(archive: zipfile.ZipFile, size: int, wanted: tuple[str, ...]) -> None:
    entries = archive.infolist()
    names = {entry.filename for entry in entries}
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MOST_UNPACKED or (unpacked > SMALL and unpacked > MOST_TIMES * size):
        raise RefusedError(
            f"its {size:,} bytes unpack to {unpacked:,}, as a zip bomb's do; save it again with less in it"
        )
    if any(entry.flag_bits & 1 for entry in entries):
        raise RefusedError("it is encrypted: save it without a password")
    if not names & set(wanted):
        is_one = next((kind for name, kind in KINDS.items() if name in names), "another zip archive")
        raise RefusedError(f"its suffix is wrong: it is {is_one}")


def is_encrypted_office(path: Path) -> bool:
    """Tell whether a file is the container of an encrypted Office file."""
    with path.open("rb") as file:
        if file.read(len(OLD)) != OLD:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(ENCRYPTED) >= 0


def _why_no_archive(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(8)
    if is_encrypted_office(path):
        return "it is encrypted: save it without a password"
    if head == OLD:
        return "its suffix is wrong: it is an Office file of before 2007; save it in the new format"
    if not head.strip(b"\0"):
        return "it is empty"
    if head.startswith(b"%PDF-"):
        return "its suffix is wrong: it is a PDF"
    if head.startswith(b"PK"):
        return "it is damaged or cut off: copy it again"
    return "its suffix is wrong: it is no Office file"


def own_title(archive: zipfile.ZipFile) -> str:
    """Return the title in the properties of an Office file, empty if there is none."""
    try:
        with archive.open("docProps/core.xml") as file:
            found = TITLE.search(file.read(MOST_PROPERTIES).decode("utf-8", "replace"))
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        return ""
    return " ".join(unescape(found[1]).split()) if found else ""
