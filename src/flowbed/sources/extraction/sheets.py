"""Workbooks: each sheet as a table whose first row is the header."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING
from urllib.parse import quote

import python_calamine

from flowbed.records.extracts import Extract
from flowbed.sources.extraction.archives import is_encrypted_office, open_archive, own_title
from flowbed.sources.extraction.writer import RefusedError, Writer, storable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flowbed.sources.extraction.writer import Room

MIDNIGHT = dt.time()
# Excel keeps 15 digits.
EXACT = 1e15


def extract_sheets(path: Path, room: Room) -> Extract:
    """Extract the sheets of a workbook that have values; hidden ones too.

    Raises:
        RefusedError: it is encrypted, damaged, too large, no workbook, or has no values.
    """
    title = ""
    if path.suffix.lower() == ".xls":
        if is_encrypted_office(path):
            raise RefusedError("it is encrypted: save it without a password")
    else:
        with open_archive(path, "xl/workbook.xml", "xl/workbook.bin", "content.xml") as archive:
            title = own_title(archive)
    try:
        workbook = python_calamine.CalamineWorkbook.from_path(path)
        parts = []
        for name in workbook.sheet_names:
            writer = Writer(room)
            writer.table(_rows(workbook.get_sheet_by_name(name)))
            shown = storable(name)
            part = writer.part({"sheet": shown}, quote(shown), shown)
            parts += [part] if part.text else []
    except python_calamine.PasswordError as error:
        raise RefusedError("it is encrypted: save it without a password") from error
    if not parts:
        raise RefusedError("its sheets are empty")
    return Extract(parts=tuple(parts), title=title)


def _rows(sheet: python_calamine.CalamineSheet) -> Iterator[list[str]]:
    for row in sheet.iter_rows():
        yield [_shown(value) for value in row]


def _shown(value: object) -> str:
    """Write a value as people read it: no fraction where there is none, no time where it is midnight."""
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return str(int(value))
    if isinstance(value, dt.datetime):
        return str(value.date() if value.time() == MIDNIGHT else value)
    return str(value)
