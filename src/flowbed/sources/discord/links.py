"""Links to messages of Discord, and what is known of a message that has none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flowbed.records import Linked
from flowbed.sources.discord.messages import day_key, day_of, snowflake

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HOSTS = ("discord.com", "ptb.discord.com", "canary.discord.com", "discordapp.com")
# `/threads/` stands between in a window with an open thread.
_PLACE = re.compile(r"/channels/(\d{1,19}|@me)/(\d{1,19})(?:/threads/(\d{1,19}))?(?:/(\d{1,19}))?/?")


def linked(link: str) -> tuple[str, str, str] | None:
    """Return the server, the channel or thread, and the message (or empty) of a link; None if it is no link."""
    parts = urlsplit(link)
    found = _PLACE.fullmatch(parts.path) if parts.hostname in HOSTS else None
    if found is None:
        return None
    return found[1], found[3] or found[2], found[4] or ""


def documents(channel: str, message: str, parent: str = "") -> tuple[str, ...]:
    """Return the documents that may have a message; `channel` may be a thread, of `parent` if that is known."""
    if not message:
        return (f"{parent}/t/{channel}",) if parent else ()
    day = day_key(day_of(snowflake(message)))
    if parent:
        return (f"{parent}/t/{channel}",)
    # A thread has the id of the message that it was begun on.
    return (f"{channel}/{day}", f"{channel}/t/{message}")


def linked_in_export(link: str, parents: Callable[[], Mapping[str, str]]) -> Linked | None:
    """Return what a link points to in an export; `parents` returns the channels of its threads."""
    found = linked(link)
    if found is None:
        return None
    _, channel, message = found
    if not message:
        return Linked(documents=(), absent=no_message(channel))
    return Linked(
        documents=documents(channel, message, parents().get(channel, "")),
        item=message,
        absent="the export does not have it: it was made before, without this channel, or the message has no text",
    )


def no_message(channel: str) -> str:
    """Say that a link names no message."""
    return f"the link names channel {channel} and no message; take the one of *Copy Message Link*"
