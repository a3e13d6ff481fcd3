"""The text of a Discord message: its content, embeds, poll and files, as readable lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# A preview of a link repeats what is written elsewhere: this many characters say what it is about.
UNFURL_LENGTH = 500

# A code span, in which Discord resolves nothing, or a reference such as <@123>.
_TOKEN = re.compile(
    r"(```.*?```|``.*?``|`[^`\n]+`)"
    r"|<(?:@[!&]?(?P<member>\d+)|#(?P<channel>\d+)|a?:(?P<emoji>\w+):\d+|t:(?P<time>-?\d{1,13})(?::\w)?"
    r"|/(?P<command>[^<>:\n]+):\d+|id:(?P<page>\w+)(?::\d+)?)>",
    re.DOTALL,
)
# Later times are no date of Python.
_LAST_SECOND = 253_402_300_799


@dataclass(frozen=True, kw_only=True)
class Names:
    """How channels and roles are called, by their ids; what is missing keeps its id, never an empty name."""

    channels: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)


def content_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a message that hold text, as they are kept: of Discord's API or of an export."""
    content = _string(message, "content")
    kept: dict[str, Any] = {"content": content} if content else {}
    embeds = [text for each in _objects(message, "embeds") if (text := _embed(each, content))]
    # The addresses of files are signed and expire.
    files = [
        _string(each, "filename") or _string(each, "fileName") for each in _objects(message, "attachments")
    ]
    stickers = [
        _string(each, "name") for name in ("sticker_items", "stickers") for each in _objects(message, name)
    ]
    for name, found in (("embeds", embeds), ("files", files), ("stickers", stickers)):
        if some := [each for each in found if each]:
            kept[name] = some
    poll = _poll(message.get("poll"))
    if poll:
        kept["poll"] = poll
    return kept


def message_text(message: Mapping[str, Any], names: Names) -> str:
    """Return the text of a kept message, empty if it has none."""
    mentions = message.get("mentions", {})
    parts = [resolved(message.get("content", ""), names, mentions)]
    parts += [resolved(each, names, mentions) for each in message.get("embeds", ())]
    parts.append(message.get("poll", ""))
    parts += [f"[file: {each}]" for each in message.get("files", ())]
    parts += [f"[sticker: {each}]" for each in message.get("stickers", ())]
    if "forward" in message:
        parts.append(f"[forwarded] {message_text({**message['forward'], 'mentions': mentions}, names)}")
    return "\n".join(dict.fromkeys(part.strip() for part in parts if part.strip()))


def resolved(text: str, names: Names, mentions: Mapping[str, str]) -> str:
    """Resolve Discord's references; Markdown stays as it is."""
    if "<" not in text:
        return text
    return _TOKEN.sub(lambda found: _reference(found, names, mentions), text)


def _reference(found: re.Match[str], names: Names, mentions: Mapping[str, str]) -> str:
    if found[1]:
        return found[1]
    if id_ := found["member"]:
        known = names.roles if found[0].startswith("<@&") else mentions
        return f"@{known.get(id_) or id_}"
    if id_ := found["channel"]:
        return f"#{names.channels.get(id_) or id_}"
    if found["time"]:
        return _moment(int(found["time"])) or found[0]
    return (
        f"/{found['command']}"
        if found["command"]
        else f":{found['emoji']}:"
        if found["emoji"]
        else f"#{found['page']}"
    )


def _moment(seconds: int) -> str:
    if not 0 <= seconds <= _LAST_SECOND:
        return ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _embed(embed: Mapping[str, Any], content: str) -> str:
    """Return the text of an embed: that of an app, or the preview of a link in the message."""
    url = _string(embed, "url")
    title, description = _string(embed, "title"), _string(embed, "description")
    if url and url in content:
        return "\n".join(filter(None, (title, description)))[:UNFURL_LENGTH]
    fields = [
        f"{_string(each, 'name')}: {_string(each, 'value')}".strip(": ") for each in _objects(embed, "fields")
    ]
    footer = embed.get("footer")
    footer = _string(footer, "text") if isinstance(footer, dict) else ""
    return "\n".join(filter(None, (title, description, *fields, footer)))


def _poll(poll: object) -> str:
    if not isinstance(poll, dict):
        return ""
    question = poll.get("question")
    lines = [_string(question, "text") if isinstance(question, dict) else ""]
    for each in _objects(poll, "answers"):
        media = each.get("poll_media")
        lines.append(f"- {_string(media, 'text')}" if isinstance(media, dict) else "")
    return "\n".join(filter(None, lines))


def _objects(value: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a list, and nothing of what is no list or no object."""
    found = value.get(name)
    if isinstance(found, list):
        yield from (each for each in found if isinstance(each, dict))


def _string(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""
