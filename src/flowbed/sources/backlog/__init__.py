"""Backlog: issues, wiki pages and documents, from JSON dumps or over its API."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from flowbed.sources.options import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from flowbed.sources import Source

KNOWN = ("projects", "sweep_hours")


def open_backlog(
    location: str,
    *,
    folder: Path,
    options: Mapping[str, object],
    clock: Callable[[], int],
    token: str = "",
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Source:
    """Open a space (`https://acme.backlog.com`), or dumps of one: a file, a folder or a pattern.

    Options of a space: `projects` are the keys of the projects to read (default: all that are not archived),
    `sweep_hours` is after how long all issues are listed again, to notice deletions.

    Raises:
        Misconfigured: an option is unknown or invalid, or the location is no space.
    """
    if "://" not in location:
        from flowbed.sources.backlog.dumps import open_dump

        return open_dump(location, folder=folder, options=options, clock=clock)
    from flowbed.sources.apis.raw_answers import RAW
    from flowbed.sources.backlog.api import addresses
    from flowbed.sources.backlog.space import Space

    values = SourceOptions("backlog", options, KNOWN)
    base_url, project = addresses(location)
    return Space(
        location=location,
        base_url=base_url,
        token=token,
        projects=values.strings("projects") or ((project,) if project else ()),
        sweep=values.positive_integer("sweep_hours", 24) * 3_600,
        raw=folder / RAW / f"backlog-{hashlib.sha256(base_url.encode()).hexdigest()[:16]}.db",
        clock=clock,
        sleep=sleep,
    )
