"""GitLab: issues, merge requests and wikis, from JSON dumps or over its REST API."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from flowbed.sources.options import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from flowbed.sources import Source

KNOWN = ("confidential", "api", "sweep_hours")


def open_gitlab(
    location: str,
    *,
    folder: Path,
    options: Mapping[str, object],
    clock: Callable[[], int],
    token: str = "",
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Source:
    """Open a project (`https://host/group/project`), or dumps of one: a file, a folder or a pattern.

    Options of a project: `confidential` includes confidential issues and internal notes, `api` is the address of the
    API where GitLab is below a path (`https://host/gitlab/api/v4`), `sweep_hours` is after how long everything is
    listed again, to notice deletions. A public project needs no `token`.

    Raises:
        Misconfigured: an option is unknown or invalid, or the location is no project.
    """
    if not location.startswith(("https://", "http://")):
        from flowbed.sources.gitlab.dumps import open_dump

        return open_dump(location, folder=folder, options=options, clock=clock)
    from flowbed.sources.gitlab.api import addresses
    from flowbed.sources.gitlab.project import Project
    from flowbed.sources.gitlab.rendering import Rendering
    from flowbed.sources.raw_answers import RAW

    values = SourceOptions("gitlab", options, KNOWN)
    base_url, path = addresses(location, values.string("api", ""))
    return Project(
        location=location,
        base_url=base_url,
        path=path,
        token=token,
        rendering=Rendering(confidential=values.flag("confidential")),
        raw=folder / RAW / f"gitlab-{hashlib.sha256(f'{base_url} {path}'.encode()).hexdigest()[:16]}.db",
        sweep=values.positive_integer("sweep_hours", 24) * 3_600,
        clock=clock,
        sleep=sleep,
    )
