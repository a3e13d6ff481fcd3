"""JSON dumps of Backlog: lists or lines of issues, wiki pages and documents as its API answers them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from flowbed.sources.backlog.links import address
from flowbed.sources.backlog.rendering import NOTATIONS, REVISION, Rendering, document, identity, is_issue
from flowbed.sources.lines import Lines
from flowbed.sources.linked_lines import Address, LinkedLines
from flowbed.sources.options import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    from flowbed.records import Document

KNOWN = ("notation", "url")


def open_dump(
    location: str, *, folder: Path, options: Mapping[str, object], clock: Callable[[], int]
) -> LinkedLines:
    """Open dumps: a file, a folder of `*.json` and `*.jsonl`, or a pattern.

    Comments are in the field `comments` of their issue. Options: `notation` is that of the texts, `markdown` or
    `backlog`; `url` is the address of the space, with which links begin.

    Raises:
        Misconfigured: an option is unknown or invalid.
    """
    values = SourceOptions("backlog", options, KNOWN)
    rendering = Rendering(
        url=values.string("url", "").rstrip("/"), notation=values.choice("notation", NOTATIONS)
    )

    def found(name: str, record: Mapping[str, Any], _text: str) -> Callable[[], Document]:
        return partial(document, name, record, rendering)

    lines = Lines(
        location=location,
        folder=folder,
        suffixes=(".jsonl", ".ndjson", ".json"),
        identity=identity,
        document=found,
        fingerprint=f"backlog {REVISION} {rendering}",
        clock=clock,
    )

    def own(record: Mapping[str, Any]) -> Address:
        name = identity(record)
        return Address(
            rendering.url, str(record.get("issueKey")) if is_issue(record) else name.partition("/")[2]
        )

    return LinkedLines(lines=lines, address=partial(address, space=rendering.url), own=own)
