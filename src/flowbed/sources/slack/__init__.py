"""Conversations of a Slack workspace, from its export or over its Web API."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.sources.options import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flowbed.sources import Source

KNOWN = ("channels", "url")
OVER_HTTP = ("channels", "lookback", "minutes", "page")

API = "https://slack.com/api"

DAY = 86_400  # seconds
# Most edits and replies come within a week.
LOOKBACK_DAYS = 7
# Slack's most for internal apps is 999, and it advises fewer.
PAGE, LARGEST_PAGE = 200, 999
# A fetch ends after this time and the next one goes on: the past of a workspace may take days.
MINUTES = 60


def open_slack(
    location: str,
    *,
    folder: Path,
    options: Mapping[str, object],
    clock: Callable[[], int],
    token: str = "",
) -> Source:
    """Open a workspace: its export, which is a folder or a zip file, or `slack://`, which is read over the Web API.

    `channels` are the names or ids of those to read (default: all of an export; those that the app is in). Of an
    export, `url` is the address of the workspace, with which links begin (`https://acme.slack.com`). Over the API,
    `lookback` is how many days are listed again each time, `page` how many messages are requested at once, and
    `minutes` after how long a run stops reading, for the next one to go on.

    Raises:
        Misconfigured: an option is unknown or invalid.
    """
    if "://" in location:
        return _open_web(location, folder, options, token)
    return _open_export(location, folder, options, clock)


def _open_web(location: str, folder: Path, options: Mapping[str, object], token: str) -> Source:
    from flowbed.sources.apis.raw_answers import RAW
    from flowbed.sources.slack.web import SlackOptions, Web

    values = SourceOptions("slack", options, OVER_HTTP)
    address = API if location.startswith("slack://") else location
    return Web(
        location=address,
        token=token,
        options=SlackOptions(
            channels=_channels(values),
            lookback=values.positive_integer("lookback", LOOKBACK_DAYS) * DAY,
            page=min(values.positive_integer("page", PAGE), LARGEST_PAGE),
            seconds=values.positive_integer("minutes", MINUTES) * 60.0,
        ),
        raw=folder / RAW / f"slack-{hashlib.sha256(address.encode()).hexdigest()[:16]}.db",
        sleep=asyncio.sleep,
        monotonic=time.monotonic,
    )


def _open_export(
    location: str, folder: Path, options: Mapping[str, object], clock: Callable[[], int]
) -> Source:
    from flowbed.sources.slack.export import Export
    from flowbed.sources.slack.export_files import ExportFiles
    from flowbed.sources.slack.links import ANY_WORKSPACE

    values = SourceOptions("slack", options, KNOWN)
    base = values.string("url", ANY_WORKSPACE)
    if not base.startswith(("https://", "http://")):
        raise Misconfigured(
            f"option 'url' of a source of kind 'slack' must be an address such as https://acme.slack.com, not {base!r}"
        )
    return Export(
        location=location,
        files=ExportFiles(location, folder),
        channels=_channels(values),
        base=base.rstrip("/") + "/",
        clock=clock,
    )


def _channels(values: SourceOptions) -> tuple[str, ...]:
    return tuple(each.removeprefix("#") for each in values.strings("channels"))
