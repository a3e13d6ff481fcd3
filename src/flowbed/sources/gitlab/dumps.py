"""JSON dumps of GitLab: lists or lines of issues, merge requests and wiki pages as its API answers them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from flowbed.sources.gitlab.links import address
from flowbed.sources.gitlab.rendering import REVISION, Rendering, address_of, document, identity
from flowbed.sources.lines import Lines
from flowbed.sources.linked_lines import LinkedLines
from flowbed.sources.options import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    from flowbed.records import Document
    from flowbed.sources.linked_lines import Address

KNOWN = ("confidential", "url")


def open_dump(
    location: str, *, folder: Path, options: Mapping[str, object], clock: Callable[[], int]
) -> LinkedLines:
    """Open dumps: a file, a folder of `*.json` and `*.jsonl`, or a pattern.

    Notes are in the field `notes` of their issue, or in its `discussions`. Options: `confidential` includes
    confidential issues and internal notes; `url` is the address of the GitLab, for records without `web_url`.

    Raises:
        Misconfigured: an option is unknown or invalid.
    """
    values = SourceOptions("gitlab", options, KNOWN)
    rendering = Rendering(confidential=values.flag("confidential"), url=values.string("url", "").rstrip("/"))

    def found(name: str, record: Mapping[str, Any], _text: str) -> Callable[[], Document] | None:
        if rendering.hides(record):
            return None
        return partial(document, name, record, rendering)

    lines = Lines(
        location=location,
        folder=folder,
        suffixes=(".jsonl", ".ndjson", ".json"),
        identity=identity,
        document=found,
        fingerprint=f"gitlab {REVISION} {rendering}",
        clock=clock,
    )

    def own(record: Mapping[str, Any]) -> Address | None:
        return None if rendering.hides(record) else address(address_of(record, rendering))

    return LinkedLines(lines=lines, address=address, own=own)
