"""Slack's messages as documents: one for each thread, one for each day of a channel's other messages."""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.records import Document, canonical
from flowbed.records.conversations import KIND, Conversation, Message
from flowbed.records.values import shown
from flowbed.sources.decoding import UNUSABLE
from flowbed.sources.slack.text import message_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.sources.slack.text import Names

# Increase it whenever the same messages would give another text, so that documents are read again.
REVISION = 1

# An id and a time: seconds, and a counter where a clock would have microseconds. A float would lose its last digits.
_TS = re.compile(r"([0-9]{1,11})\.([0-9]{6})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# What Slack writes into a channel about the channel itself.
_NOISE = frozenset(
    {
        "bot_add",
        "bot_disable",
        "bot_enable",
        "bot_remove",
        "ekm_access_denied",
        "huddle_thread",
        "message_changed",
        "message_deleted",
        "message_replied",
        "pinned_item",
        "reply_broadcast",
        "sh_room_created",
        "tombstone",
        "unpinned_item",
    }
)
_NOISE_PREFIXES = ("channel_", "group_")

# What affects a document; reactions and the like do not.
_FIELDS = (
    "ts",
    "thread_ts",
    "subtype",
    "hidden",
    "user",
    "bot_id",
    "username",
    "text",
    "blocks",
    "attachments",
    "files",
    "file",
    "reply_count",
)


# What a parent says of its replies, which are in the same document.
_ABOUT_REPLIES = frozenset({"reply_count", "latest_reply"})


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A channel: `label` is how readers know it, such as `#general`."""

    id: str
    label: str


def timestamp(value: object, field: str = "ts") -> tuple[int, int]:
    """Return a message's time as (seconds, counter), which sort as the messages do.

    Raises:
        Rejected: `value` is no timestamp of Slack.
    """
    found = _TS.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise Rejected(
            f"{field} must be seconds and six digits, such as 1767600000.000100, not {shown(value)}"
        )
    return int(found[1]), int(found[2])


def is_timestamp(value: object) -> bool:
    """Return whether a value is a timestamp of Slack."""
    return isinstance(value, str) and _TS.fullmatch(value) is not None


def checked(message: object) -> dict[str, Any]:
    """Return what documents need of a message.

    Raises:
        Rejected: it is no message; the message says why.
    """
    if not isinstance(message, dict):
        raise Rejected(f"expected a message, found {shown(message)}")
    timestamp(message.get("ts"))
    if message.get("thread_ts") is not None:
        timestamp(message["thread_ts"], "thread_ts")
    for name in ("text", "user", "bot_id", "subtype", "username"):
        if not isinstance(message.get(name, ""), str | None):
            raise Rejected(f"{name} must be a string, not {shown(message[name])}")
    kept = {name: value for name in _FIELDS if (value := message.get(name))}
    edited = message.get("edited")
    if isinstance(edited, dict) and isinstance(edited.get("ts"), str):
        kept["edited"] = edited["ts"]
    if isinstance(message.get("latest_reply"), str):
        kept["latest_reply"] = message["latest_reply"]
    author = _author_elsewhere(message)
    if author:
        kept["author"] = author
    return kept


def _author_elsewhere(message: Mapping[str, Any]) -> str:
    """Return the author's name or id where Slack writes it elsewhere than in `user`."""
    for part, field in (("bot_profile", "name"), ("comment", "user"), ("user_profile", "display_name")):
        inner = message.get(part)
        if isinstance(inner, dict) and isinstance(inner.get(field), str) and inner[field]:
            return str(inner[field])
    profile = message.get("user_profile")
    real = profile.get("real_name") if isinstance(profile, dict) else None
    return real if isinstance(real, str) else ""


def thread_of(message: Mapping[str, Any]) -> str:
    """Return the thread of a checked message: its own timestamp if it has replies, empty if it is in no thread."""
    thread = message.get("thread_ts", "")
    if thread and thread != message["ts"]:
        return str(thread)
    replies = message.get("reply_count")
    return str(message["ts"]) if isinstance(replies, int) and replies > 0 else ""


def day_of(seconds: int) -> str:
    """Return the day of a time, in UTC."""
    return (_EPOCH + timedelta(seconds=seconds)).date().isoformat()


def document_key(message: Mapping[str, Any]) -> str:
    """Return the end of the id of the document that a checked message belongs to."""
    thread = thread_of(message)
    return f"t/{thread}" if thread else f"d/{day_of(timestamp(message['ts'])[0])}"


def has_text(message: Mapping[str, Any]) -> bool:
    """Return whether a checked message may have text to index: it was not deleted, and a person or an app wrote it."""
    subtype = message.get("subtype", "")
    if subtype in _NOISE or subtype.startswith(_NOISE_PREFIXES) or message.get("hidden"):
        return False
    return any(message.get(name) for name in ("text", "blocks", "attachments", "files", "file"))


def message_hash(message: Mapping[str, Any]) -> int:
    """Return a hash of a checked message, 32 bits, without what it says of its replies."""
    return zlib.crc32(canonical({name: message[name] for name in message if name not in _ABOUT_REPLIES}))


def etag(channel: Channel, messages: Sequence[Mapping[str, Any]], base: str) -> str:
    """Return what changes with the text of a document. Names are left out: a renamed user changes no document."""
    slim = [{name: each[name] for name in each if name not in _ABOUT_REPLIES} for each in messages]
    return hashlib.sha256(canonical([REVISION, channel.id, base, slim])).hexdigest()[:32]


def read_document(
    channel: Channel, key: str, messages: Sequence[Mapping[str, Any]], names: Names, base: str
) -> Document:
    """Create the document of a thread or a day from its checked messages, oldest first; `base` begins its links."""
    thread = key.removeprefix("t/") if key.startswith("t/") else ""
    found = []
    for message in messages:
        text = message_text(message, names)
        if text.strip():
            seconds, counter = timestamp(message["ts"])
            found.append(
                Message(
                    id=message["ts"],
                    author=_author(message, names),
                    time=seconds * 1_000_000 + counter,
                    text=text,
                    url=link(base, channel.id, message["ts"], thread),
                )
            )
    talk = Conversation(channel=channel.label, channel_id=channel.id, messages=tuple(found), thread=thread)
    return Document(id=f"{channel.id}/{key}", kind=KIND, text=talk.to_json())


def link(base: str, channel: str, ts: str, thread: str = "") -> str:
    """Return the address at which Slack shows a message."""
    url = f"{base}archives/{channel}/p{ts.replace('.', '')}"
    return f"{url}?thread_ts={thread}&cid={channel}" if thread and thread != ts else url


def _author(message: Mapping[str, Any], names: Names) -> str:
    user, known = message.get("user", ""), message.get("author", "")
    name = names.user(user, known or message.get("username", "")) if user else ""
    name = name or message.get("username") or names.user(known) or message.get("bot_id") or "unknown"
    return " ".join(str(name).split())


def user_name(user: Mapping[str, Any]) -> str:
    """Return how a user is called: their display name, real name or handle, or else the id."""
    profile = user.get("profile")
    profile = profile if isinstance(profile, dict) else {}
    candidates = (
        profile.get("display_name"),
        profile.get("real_name"),
        user.get("real_name"),
        user.get("name"),
    )
    return next((" ".join(name.split()) for each in candidates if (name := usable(each))), str(user["id"]))


def usable(value: object) -> str:
    """Return a name that an id or a line can hold; otherwise empty."""
    return value if isinstance(value, str) and value.strip() and not UNUSABLE.search(value) else ""
