"""GitLab: issues, merge requests and wikis, from JSON dumps or over its REST API."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.sources.options import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from flowbed.sources import Source

KNOWN = ("confidential", "api", "group", "projects", "sweep_hours")


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

    With the option `group`, the location is that of the GitLab, and all projects of the group are read, or those that
    `projects` names. Of the others, `confidential` includes confidential issues and internal notes, `api` is the
    address of the API where GitLab is below a path (`https://host/gitlab/api/v4`), and `sweep_hours` is after how long
    everything is listed again, to notice deletions. A public project needs no `token`.

    Raises:
        Misconfigured: an option is unknown or invalid, or the location is no project.
    """
    if not location.startswith(("https://", "http://")):
        from flowbed.sources.gitlab.dumps import open_dump

        return open_dump(location, folder=folder, options=options, clock=clock)
    from flowbed.sources.apis.raw_answers import RAW
    from flowbed.sources.gitlab.api import addresses, group_addresses
    from flowbed.sources.gitlab.project import Project
    from flowbed.sources.gitlab.rendering import Rendering

    values = SourceOptions("gitlab", options, KNOWN)
    rendering = Rendering(confidential=values.flag("confidential"))
    sweep = values.positive_integer("sweep_hours", 24) * 3_600
    api = values.string("api", "")

    def project(base_url: str, path: str, address: str, origin: str) -> Project:
        return Project(
            location=address,
            origin=origin,
            base_url=base_url,
            path=path,
            token=token,
            rendering=rendering,
            raw=folder / RAW / f"gitlab-{hashlib.sha256(f'{base_url} {path}'.encode()).hexdigest()[:16]}.db",
            sweep=sweep,
            clock=clock,
            sleep=sleep,
        )

    if "group" not in options:
        base_url, path = addresses(location, api)
        if values.strings("projects"):
            raise Misconfigured(
                "option 'projects' of a source of kind 'gitlab' names those of a group: give 'group' too"
            )
        return project(base_url, path, location, f"{base_url} {path}")
    from flowbed.sources.gitlab.group import Group

    base_url, path = group_addresses(location, values.string("group", ""), api)
    return Group(
        location=location,
        base_url=base_url,
        path=path,
        token=token,
        rendering=rendering,
        projects=values.strings("projects"),
        # Its path may change, and it is the same project.
        project=lambda below: project(base_url, below, f"{location.rstrip('/')}/{below}", base_url),
        sleep=sleep,
    )
