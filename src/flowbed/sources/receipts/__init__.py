"""Receipts from OCR: one per line, or one per file, or in the items of a table of DynamoDB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.sources.options import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flowbed.sources import Source

KNOWN = ("places", "places_calls", "places_url")


def open_receipts(
    location: str,
    *,
    folder: Path,
    options: Mapping[str, object],
    clock: Callable[[], int],
    token: str = "",
) -> Source:
    """Open receipts: a file, a folder of `*.jsonl` and `*.json`, a pattern, or a table (`dynamodb://table`).

    With the option `places`, Google Places is asked for merchants that nothing else names; `token` is its key,
    `places_calls` the most calls of one fetch, `places_url` another address of it.

    Raises:
        Misconfigured: an option is unknown or invalid.
    """
    if location.startswith("dynamodb://"):
        from flowbed.sources.receipts.table import open_table

        return open_table(location, options=options, clock=clock)
    from flowbed.sources.lines import Lines
    from flowbed.sources.receipts.places import ADDRESS, PLACES, Places
    from flowbed.sources.receipts.reading import read_receipt, receipt_identity
    from flowbed.sources.receipts.source import Receipts

    values = SourceOptions("receipts", options, KNOWN)
    calls = values.positive_integer("places_calls", 100)
    url = values.string("places_url", ADDRESS)
    places = Places(url=url, key=token, file=folder / PLACES, most=calls) if values.flag("places") else None
    lines = Lines(
        location=location,
        folder=folder,
        suffixes=(".jsonl", ".ndjson", ".json"),
        identity=receipt_identity,
        document=read_receipt,
        # Raise the number whenever the same record gives other metadata.
        fingerprint="receipt2",
        clock=clock,
    )
    return Receipts(lines=lines, places=places)
