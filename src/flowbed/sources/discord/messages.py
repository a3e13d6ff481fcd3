"""Discord's messages as documents: one for each thread, one for each day of a channel's other messages."""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.records import Document, canonical
from flowbed.records.conversations import KIND, Conversation, Message
from flowbed.records.values import shown
from flowbed.sources.decoding import UNUSABLE
from flowbed.sources.discord.text import content_of, message_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flowbed.sources.discord.text import Names

# Increase it whenever the same messages would give another text, so that documents are read again.
REVISION = 1

LINKS = "https://discord.com/channels"

# An id holds the time of its creation: milliseconds since this one (ms since 1970) above 22 bits of other things.
DISCORD_EPOCH = 1_420_070_400_000
TIME_SHIFT = 22
LARGEST_ID = 2**63
_ID = re.compile(r"[0-9]{1,19}")

DEFAULT, REPLY, THREAD_CREATED, THREAD_STARTER = 0, 19, 18, 21
# What Discord writes into a channel about the channel itself: members, pins, boosts, moderation, results of polls.
_NOISE = frozenset({*range(1, 13), *range(14, 19), 22, *range(24, 33), *range(36, 40), 44, 46})

# Names that DiscordChatExporter has for types of messages; others stand there as numbers.
_TYPES = {
    "Default": DEFAULT,
    "RecipientAdd": 1,
    "RecipientRemove": 2,
    "Call": 3,
    "ChannelNameChange": 4,
    "ChannelIconChange": 5,
    "ChannelPinnedMessage": 6,
    "GuildMemberJoin": 7,
    "ThreadCreated": THREAD_CREATED,
    "Reply": REPLY,
    "ThreadStarterMessage": THREAD_STARTER,
}
FORWARD = 1

# What stands in a document under its id, so that a renamed member changes no document.
_NAMES = frozenset({"name", "mentions"})

# Of the message that a reply answers, so much is sent along with the reply.
QUOTE_LENGTH = 200

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A channel, or a thread in it: `label` is how readers know the channel, such as `#general`.

    `thread` and `title` are the id and the name of a thread or a post of a forum.
    """

    guild: str
    channel: str
    label: str
    thread: str = ""
    title: str = ""

    def link(self, message: str) -> str:
        """Return the address at which Discord shows a message of this place."""
        return f"{LINKS}/{self.guild}/{self.thread or self.channel}/{message}"


def is_id(value: object) -> bool:
    """Return whether a value is an id of Discord."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None and 0 < int(value) < LARGEST_ID


def snowflake(value: object, field: str = "id") -> int:
    """Return an id as a number, which sorts as time does.

    Raises:
        Rejected: `value` is no id of Discord.
    """
    if is_id(value):
        return int(str(value))
    raise Rejected(f"{field} must be an id of Discord, such as 640049179111981056, not {shown(value)}")


def milliseconds(number: int) -> int:
    """Return when an id was created, in milliseconds since 1970."""
    return (number >> TIME_SHIFT) + DISCORD_EPOCH


def first_id(seconds: int) -> int:
    """Return the least id of a time, in seconds since 1970."""
    return max(0, seconds * 1_000 - DISCORD_EPOCH) << TIME_SHIFT


def day_of(number: int) -> int:
    """Return the day of an id, counted from 1970, in UTC."""
    return milliseconds(number) // 86_400_000


def day_key(day: int) -> str:
    """Return the end of the id of the document of a day."""
    return f"d/{(_EPOCH + timedelta(days=day)).date().isoformat()}"


def from_api(message: object) -> dict[str, Any]:
    """Return what documents need of a message as Discord's API answers it.

    Raises:
        Rejected: it is no message; the message says why.
    """
    kept = _common(message, number=_number_of(message))
    assert isinstance(message, dict)  # noqa: S101 - as `_common` has checked
    kept |= content_of(message)
    snapshots = message.get("message_snapshots")
    for each in snapshots if isinstance(snapshots, list) else ():
        if isinstance(each, dict) and isinstance(each.get("message"), dict):
            kept["forward"] = content_of(each["message"])
            kept["mentions"] = {**kept.get("mentions", {}), **_mentions(each["message"])}
    answered = message.get("referenced_message")
    if isinstance(answered, dict):
        other = from_api({**answered, "referenced_message": None})
        if kept.get("type") == THREAD_STARTER:
            kept["starter"] = other
        elif kept.get("type") == REPLY:
            kept["quote"] = quoted(other)
    return kept


def from_export(message: object) -> dict[str, Any]:
    """Return what documents need of a message as DiscordChatExporter writes it.

    What it answers is in another record, whose id is in `answers`.

    Raises:
        Rejected: it is no message; the message says why.
    """
    kept = _common(message, number=_named(message))
    assert isinstance(message, dict)  # noqa: S101 - as `_common` has checked
    kept |= content_of(message)
    forwarded = message.get("forwardedMessage")
    if isinstance(forwarded, dict):
        kept["forward"] = content_of(forwarded)
    reference = message.get("reference")
    if isinstance(reference, dict) and kept.get("type") in (REPLY, THREAD_STARTER):
        answered = reference.get("messageId")
        if is_id(answered):
            kept["answers"] = answered
    return kept


def _number_of(message: object) -> object:
    return message.get("type", DEFAULT) if isinstance(message, dict) else DEFAULT


def _named(message: object) -> object:
    name = message.get("type", "Default") if isinstance(message, dict) else "Default"
    if isinstance(name, str):
        return int(name) if name.isascii() and name.isdecimal() and len(name) < 5 else _TYPES.get(name, name)  # noqa: PLR2004
    return name


def _common(message: object, *, number: object) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise Rejected(f"expected a message, found {shown(message)}")
    snowflake(message.get("id"))
    if not isinstance(number, int) or isinstance(number, bool):
        raise Rejected(f"type must be one of Discord's, such as Default or 0, not {shown(number)}")
    if not isinstance(message.get("content", ""), str | None):
        raise Rejected(f"content must be a string, not {shown(message['content'])}")
    author = message.get("author")
    if not isinstance(author, dict):
        raise Rejected(f"author must be an object, not {shown(author)}")
    kept: dict[str, Any] = {
        "id": message["id"],
        "author": str(author.get("id", "")),
        "name": member_name(author),
    }
    if number:
        kept["type"] = number
    mentions = _mentions(message)
    if mentions:
        kept["mentions"] = mentions
    return kept


def _mentions(message: Mapping[str, Any]) -> dict[str, str]:
    found = message.get("mentions")
    return {
        str(each["id"]): member_name(each)
        for each in (found if isinstance(found, list) else ())
        if isinstance(each, dict) and "id" in each
    }


def member_name(user: Mapping[str, Any]) -> str:
    """Return how a member is called, or else the id."""
    for field in ("nickname", "global_name", "username", "name"):
        name = user.get(field)
        if isinstance(name, str) and name.strip() and not UNUSABLE.search(name):
            return " ".join(name.split())
    return str(user.get("id", "unknown"))


def is_by_a_person(message: Mapping[str, Any]) -> bool:
    """Return whether a person wrote a message of Discord's API, which always has some content."""
    author = message.get("author")
    if not isinstance(author, dict) or author.get("bot") or message.get("webhook_id"):
        return False
    elsewhere = ("sticker_items", "message_snapshots", "poll")
    return message.get("type") in (DEFAULT, REPLY) and not any(message.get(each) for each in elsewhere)


def has_text(message: Mapping[str, Any]) -> bool:
    """Return whether a kept message may have text to index: a member or an app wrote it."""
    kind = message.get("type", DEFAULT)
    if kind == THREAD_STARTER:
        return "starter" in message
    return kind not in _NOISE and any(
        message.get(name) for name in ("content", "embeds", "files", "stickers", "poll", "forward")
    )


def quoted(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a reply says of the message that it answers."""
    kept = {
        name: message[name] for name in ("id", "author", "name", "mentions", "content") if name in message
    }
    if "content" in kept:
        kept["content"] = kept["content"][: 2 * QUOTE_LENGTH]
    return kept


def message_hash(message: Mapping[str, Any]) -> int:
    """Return a hash of what a kept message says by itself, 32 bits and never 0."""
    own = {name: value for name, value in _without_names(message).items() if name != "quote"}
    return zlib.crc32(canonical(own)) or 1


def etag(place: Place, messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what changes with the text of a document. Names of people and channels are left out."""
    slim = [_without_names(each) for each in messages]
    own = [REVISION, place.guild, place.channel, place.thread, place.title, slim]
    return hashlib.sha256(canonical(own)).hexdigest()[:32]


def _without_names(message: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_names(value) if isinstance(value, dict) else value
        for name, value in message.items()
        if name not in _NAMES
    }


def read_document(place: Place, key: str, messages: Sequence[Mapping[str, Any]], names: Names) -> Document:
    """Create the document of a thread or a day from its kept messages, oldest first."""
    found = tuple(_messages(place, messages, names))
    talk = Conversation(channel=place.label, channel_id=place.channel, messages=found, thread=place.thread)
    return Document(id=f"{place.channel}/{key}", kind=KIND, text=talk.to_json(), title=place.title)


def _messages(place: Place, messages: Sequence[Mapping[str, Any]], names: Names) -> Iterator[Message]:
    for message in messages:
        if "starter" in message:
            # The message that a thread was begun on is in the channel.
            yield from _messages(replace(place, thread=""), [message["starter"]], names)
            continue
        text = message_text(message, names)
        if not text.strip():
            continue
        quote = message.get("quote", {})
        yield Message(
            id=message["id"],
            author=message["name"],
            time=milliseconds(int(message["id"])) * 1_000,
            text=text,
            url=place.link(message["id"]),
            answers=quote.get("id", ""),
            quote=_quote(quote, names),
        )


def _quote(quote: Mapping[str, Any], names: Names) -> str:
    text = " ".join(message_text(quote, names).split()) if quote else ""
    if len(text) > QUOTE_LENGTH:
        text = f"{text[:QUOTE_LENGTH].rpartition(' ')[0] or text[:QUOTE_LENGTH]} ..."
    return f"{quote['name']}: {text}" if text else ""
