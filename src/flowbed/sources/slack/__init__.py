"""Conversations of a Slack workspace, from its export or over its Web API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.sources.options import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flowbed.sources import Source

KNOWN = ("channels", "url")

# Slack sends a link on to the workspace that the browser is signed in to.
ANY_WORKSPACE = "https://slack.com/"


def open_slack(
    location: str, *, folder: Path, options: Mapping[str, object], clock: Callable[[], int]
) -> Source:
    """Open a workspace's export: the folder or the zip file that Slack makes.

    Options: `channels` are the names or ids of those to read (default: all), `url` is the address of the workspace,
    with which links begin (`https://acme.slack.com`).

    Raises:
        Misconfigured: an option is unknown or invalid.
    """
    from flowbed.sources.slack.export import Export
    from flowbed.sources.slack.export_files import ExportFiles

    values = SourceOptions("slack", options, KNOWN)
    base = values.string("url", ANY_WORKSPACE)
    if not base.startswith(("https://", "http://")):
        raise Misconfigured(
            f"option 'url' of a source of kind 'slack' must be an address such as https://acme.slack.com, not {base!r}"
        )
    return Export(
        location=location,
        files=ExportFiles(location, folder),
        channels=tuple(each.removeprefix("#") for each in values.strings("channels")),
        base=base.rstrip("/") + "/",
        clock=clock,
    )
