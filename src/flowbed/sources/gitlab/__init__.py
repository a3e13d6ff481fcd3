"""GitLab: issues, merge requests and wikis, from JSON dumps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.sources.gitlab.dumps import open_dump

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flowbed.sources import Source


def open_gitlab(
    location: str, *, folder: Path, options: Mapping[str, object], clock: Callable[[], int]
) -> Source:
    """Open JSON dumps of GitLab's API: a file, a folder or a pattern.

    Raises:
        Misconfigured: an option is unknown or invalid.
    """
    return open_dump(location, folder=folder, options=options, clock=clock)
