"""Where documents come from: `fetch(cursor)` lists them page by page."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from flowbed.records import Page


class Source(Protocol):
    """A place that lists documents."""

    @property
    def location(self) -> str:
        """What a person would call it, for messages."""
        ...

    def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List documents from where `cursor` (empty at first) stands.

        Raises:
            Misconfigured: the location does not exist or cannot be read.
            Transient: the same fetch may succeed later.
        """
        ...


VENDORS = {
    "files": "flowbed.sources.files:open_files",
    "jsonl": "flowbed.sources.jsonl:open_jsonl",
    "receipts": "flowbed.sources.receipts:open_receipts",
}


def kinds() -> dict[str, str]:
    """Every kind of source that can be opened, and where it is found; packages add theirs as `flowbed.sources`."""
    from importlib.metadata import entry_points  # slow to load, and to search; rarely needed

    return {**{point.name: point.value for point in entry_points(group="flowbed.sources")}, **VENDORS}


def open_source(
    kind: str, location: str, *, folder: Path, options: Mapping[str, object], clock: Callable[[], int]
) -> Source:
    """Open a source; a relative location is taken below `folder`. `clock` tells microseconds since 1970.

    Raises:
        Misconfigured: the kind is unknown, or an option is.
    """
    known = VENDORS if kind in VENDORS else kinds()
    if kind not in known:
        raise Misconfigured(f"no source is of kind {kind!r}; the kinds are: {', '.join(sorted(known))}")
    module, _, attribute = known[kind].partition(":")
    opener: Callable[..., Source] = getattr(import_module(module), attribute)
    return opener(location, folder=folder, options=options, clock=clock)
