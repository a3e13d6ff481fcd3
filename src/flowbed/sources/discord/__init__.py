"""Conversations of a Discord server, from exports of DiscordChatExporter or over its API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.sources.options import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flowbed.sources import Source

KNOWN = ("channels",)


def open_discord(
    location: str,
    *,
    folder: Path,
    options: Mapping[str, object],
    clock: Callable[[], int],
    token: str = "",
) -> Source:
    """Open exports of DiscordChatExporter in the format Json: a file, a folder of them, or a pattern.

    `channels` are the names or ids of those to read (default: all).

    Raises:
        Misconfigured: an option is unknown or invalid.
    """
    if "://" in location:
        del token  # an export needs none
        raise Misconfigured("the API of Discord is not read yet; give exports of DiscordChatExporter")
    from flowbed.sources.discord.export import Export

    values = SourceOptions("discord", options, KNOWN)
    return Export(location=location, folder=folder, channels=_channels(values), clock=clock)


def _channels(values: SourceOptions) -> tuple[str, ...]:
    return tuple(each.removeprefix("#") for each in values.strings("channels"))
