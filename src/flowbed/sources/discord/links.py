"""Links to messages of Discord, and what is known of a message that has none."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flowbed.records import Linked
from flowbed.sources.discord.messages import day_key, day_of, milliseconds, snowflake

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.sources.discord.positions import Position

DAY = 86_400  # seconds

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


def linked_in_server(
    link: str, server: str, positions: Mapping[str, Position], wanted: Sequence[str]
) -> Linked | None:
    """Return what a link points to in a server that was read as far as `positions`; `wanted` are its channels."""
    found = linked(link)
    if found is None or found[0] != server:
        return None
    _, channel, message = found
    parent = next((name for name, each in positions.items() if channel in each.threads), "")
    return Linked(
        documents=documents(channel, message, parent),
        item=message,
        absent=_absent(channel, message, positions.get(parent or channel), wanted, is_thread=bool(parent)),
    )


def _absent(
    channel: str, message: str, position: Position | None, wanted: Sequence[str], *, is_thread: bool
) -> str:
    if not message:
        return no_message(channel)
    if position is None or (position.filled is None and not is_thread):
        among = f"is none of its channels ({', '.join(wanted)}), or " if wanted else ""
        return (
            f"channel {channel} was never read: it {among}the bot cannot see it (give its role the permissions View"
            " Channels and Read Message History), it is a thread that no run has read yet, or no run has come to it"
        )
    seconds = milliseconds(snowflake(message)) // 1_000
    read_at = position.threads[channel][1] if is_thread else position.listed
    if seconds >= read_at:
        return f"channel {channel} was last listed up to {_at(read_at)}; the next `flowbed run` lists it"
    if not is_thread and not position.whole and seconds < (position.filled or 0) * DAY:
        filled = _at((position.filled or 0) * DAY)
        return f"channel {channel} was read back to {filled} so far; the next runs read what is older"
    return (
        f"channel {channel} was last listed up to {_at(read_at)}, and did not have it: it was deleted, has no text, or"
        " Discord wrote it itself"
    )


def _at(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def no_message(channel: str) -> str:
    """Say that a link names no message."""
    return f"the link names channel {channel} and no message; take the one of *Copy Message Link*"
