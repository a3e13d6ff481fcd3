"""Links to messages of Slack, and what is known of a message that has none."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from flowbed.records import Linked
from flowbed.sources.slack.messages import day_of, is_timestamp, timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.sources.slack.positions import Position

# Slack sends a link on to the workspace that the browser is signed in to.
ANY_WORKSPACE = "https://slack.com/"
HOSTS = ("slack.com", "slack-gov.com")

# What *Copy link* gives, and what the address bar of a browser has beside an open thread.
_ARCHIVED = re.compile(r"/archives/([A-Z0-9]+)(?:/p(\d{1,11})(\d{6}))?/?")
_OPENED = re.compile(r"/client/[A-Z0-9]+/([A-Z0-9]+)(?:/thread/[A-Z0-9]+-(\d{1,11})\.(\d{6}))?/?")


def linked(link: str, base: str) -> tuple[str, str, str] | None:
    """Return the channel, the message and the thread of a link; the last two may be empty. None if it is no link.

    `base` is the address of the workspace, of which only the host counts.
    """
    parts = urlsplit(link)
    host = parts.hostname or ""
    if host != urlsplit(base).hostname and not any(
        host == each or host.endswith(f".{each}") for each in HOSTS
    ):
        return None
    found = _ARCHIVED.fullmatch(parts.path) or _OPENED.fullmatch(parts.path)
    if found is None:
        return None
    ts = f"{found[2]}.{found[3]}" if found[2] else ""
    thread = parse_qs(parts.query).get("thread_ts", [""])[-1]
    return found[1], ts, thread if is_timestamp(thread) else ""


def documents(channel: str, ts: str, thread: str, threads: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the documents that may have a message; a link may lack its thread, which is then one of `threads`."""
    if not ts:
        return ()
    if thread and thread != ts:
        return (f"{channel}/t/{thread}",)
    own = (f"{channel}/t/{ts}", f"{channel}/d/{day_of(timestamp(ts)[0])}")
    return (*own, *(f"{channel}/t/{each}" for each in threads if each != ts))


def linked_in_workspace(
    link: str, base: str, positions: Mapping[str, Position], wanted: Sequence[str]
) -> Linked | None:
    """Return what a link points to in a workspace that was read as far as `positions`; `wanted` are its channels."""
    found = linked(link, base)
    if found is None:
        return None
    channel, ts, thread = found
    position = positions.get(channel)
    threads = position.threads if position is not None else {}
    around = [
        each for each, (newest, *_) in threads.items() if timestamp(each) <= _key(ts) <= timestamp(newest)
    ]
    return Linked(
        documents=documents(channel, ts, thread, around),
        item=ts,
        absent=_absent(channel, ts, thread, position, wanted),
    )


def linked_in_export(link: str, base: str) -> Linked | None:
    """Return what a link points to in an export."""
    found = linked(link, base)
    if found is None:
        return None
    channel, ts, thread = found
    absent = (
        "the export does not have it: it was made before, without this channel, or the message has no text"
    )
    return Linked(
        documents=documents(channel, ts, thread), item=ts, absent=absent if ts else _no_message(channel)
    )


def _absent(channel: str, ts: str, thread: str, position: Position | None, wanted: Sequence[str]) -> str:
    if not ts:
        return _no_message(channel)
    if position is None or position.filled is None:
        among = f"is none of its channels ({', '.join(wanted)}), or " if wanted else ""
        return (
            f"channel {channel} was never read: it {among}the app is not in it (type /invite and its name there), or no"
            " run has come to it yet"
        )
    known = position.threads.get(thread) if thread != ts else None
    if known is not None and timestamp(ts)[0] < known[2]:
        return f"its thread was last read at {_at(known[2])}, and did not have it: it was deleted, or has no text"
    return f"channel {channel} was {_how_far(timestamp(ts)[0], position)}"


def _how_far(seconds: int, position: Position) -> str:
    if seconds >= position.listed:
        return f"last listed up to {_at(position.listed)}; the next `flowbed run` lists it"
    if position.rest and position.rest[0] <= seconds < position.rest[1]:
        return f"not listed from {_at(position.rest[0])} to {_at(position.rest[1])} yet; the next runs go on there"
    if position.filled is not None and seconds < position.filled and not position.whole:
        return f"read back to {_at(position.filled)} so far; the next runs read what is older"
    return (
        f"last listed up to {_at(position.listed)}, and did not have it: it was deleted, has no text, or is a reply"
        " whose link lacks its thread"
    )


def _no_message(channel: str) -> str:
    return f"the link names channel {channel} and no message; take the one of *Copy link* at a message"


def _key(ts: str) -> tuple[int, int]:
    return timestamp(ts) if ts else (0, 0)


def _at(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
