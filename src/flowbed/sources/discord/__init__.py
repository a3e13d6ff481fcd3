"""Conversations of a Discord server, from exports of DiscordChatExporter or over its API."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING

from flowbed.sources.options import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flowbed.sources import Source

KNOWN = ("channels",)
OVER_HTTP = ("channels", "lookback")

DAY = 86_400  # seconds
# Most edits come within a week.
LOOKBACK_DAYS = 7


def open_discord(
    location: str,
    *,
    folder: Path,
    options: Mapping[str, object],
    clock: Callable[[], int],
    token: str = "",
) -> Source:
    """Open exports of DiscordChatExporter (a file, a folder or a pattern), or a server over the API.

    A server is `discord://SERVER` with its id, or the address of one of its channels. `channels` are the names or ids
    of those to read (default: all). Over the API, `lookback` is how many days are listed again each time.

    Raises:
        Misconfigured: an option is unknown or invalid.
    """
    if "://" in location:
        return _open_server(location, folder, options, token)
    from flowbed.sources.discord.export import Export

    values = SourceOptions("discord", options, KNOWN)
    return Export(location=location, folder=folder, channels=_channels(values), clock=clock)


def _open_server(location: str, folder: Path, options: Mapping[str, object], token: str) -> Source:
    from flowbed.sources.apis.raw_answers import RAW
    from flowbed.sources.discord.api import addresses
    from flowbed.sources.discord.web import Web

    values = SourceOptions("discord", options, OVER_HTTP)
    base_url, server = addresses(location)
    name = hashlib.sha256(f"{base_url} {server}".encode()).hexdigest()[:16]
    return Web(
        location=location,
        base_url=base_url,
        server=server,
        token=token,
        channels=_channels(values),
        lookback=values.positive_integer("lookback", LOOKBACK_DAYS) * DAY,
        raw=folder / RAW / f"discord-{name}.db",
        sleep=asyncio.sleep,
        monotonic=time.monotonic,
    )


def _channels(values: SourceOptions) -> tuple[str, ...]:
    return tuple(each.removeprefix("#") for each in values.strings("channels"))
