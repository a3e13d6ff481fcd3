"""Receipts from OCR: one per line, or one per file."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.records import Document
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
        path=folder / location,
        suffixes=(".jsonl", ".ndjson", ".json"),
        document=receipt_document,
        fingerprint="receipt",
        clock=clock,
    )


def receipt_document(record: Mapping[str, Any], text: str) -> tuple[str, Callable[[], Document]]:
    """Return the id of a receipt, and a function that creates its document; the chunker reads its lines and words.

    Raises:
        Rejected: the receipt has no valid id.
    """
    image = record.get("image_id")
    if not isinstance(image, str) or not image or "#" in image:
        raise Rejected(f"image_id must be a string without '#', not {image!r:.60}")
    number = record.get("receipt_id")
    # A bool is an int in Python, but not a number of a receipt.
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise Rejected(f"receipt_id must be an integer of 0 or more, not {number!r:.60}")
    name = f"IMAGE#{image}#RECEIPT#{number:05d}"
    return name, partial(Document, id=name, kind="receipt", text=text)
