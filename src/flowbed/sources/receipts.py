"""Receipts from OCR: one per line, or one per file."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.records import Document
from flowbed.records.values import LARGEST, shown
from flowbed.sources.lines import Lines
from flowbed.sources.options import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def open_receipts(
    location: str, *, folder: Path, options: Mapping[str, object], clock: Callable[[], int]
) -> Lines:
    """Open receipts: a file, a folder of `*.jsonl` and `*.json`, or a pattern. There are no options.

    Raises:
        Misconfigured: an option is given.
    """
    SourceOptions("receipts", options, ())
    return Lines(
        location=location,
        folder=folder,
        suffixes=(".jsonl", ".ndjson", ".json"),
        identity=receipt_identity,
        document=receipt_document,
        fingerprint="receipt",
        clock=clock,
    )


def receipt_identity(record: Mapping[str, Any]) -> str:
    """Return the id of a receipt.

    Raises:
        Rejected: its image or its number is missing or invalid.
    """
    image = record.get("image_id")
    if not isinstance(image, str) or not image or "#" in image:
        raise Rejected(f"image_id must be a string without '#', not {shown(image)}")
    number = record.get("receipt_id")
    # A bool is an int in Python, but not a number of a receipt.
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < LARGEST:
        raise Rejected(
            f"receipt_id must be an integer of 0 or more, and of at most 64 bits, not {shown(number)}"
        )
    return f"IMAGE#{image}#RECEIPT#{number:05d}"


def receipt_document(name: str, _record: Mapping[str, Any], text: str) -> Callable[[], Document]:
    """Return a function that creates the document of a receipt; the chunker reads its lines and words."""
    return partial(Document, id=name, kind="receipt", text=text)
