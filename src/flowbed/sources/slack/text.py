"""The text of a Slack message: its blocks or its `text`, then its attachments and files, as readable lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# A preview of a link repeats what is written elsewhere: this many characters say what it is about.
UNFURL_LENGTH = 500

# Deeper blocks are no message that Slack accepted.
DEEPEST = 20

# A code span, or a reference such as <@U1|ann>. In code Slack writes signs that a person typed as entities, but marks
# addresses all the same.
_TOKEN = re.compile(r"(```.*?```|`[^`\n]+`)|<([@#!][^<>\n]+|[a-zA-Z][a-zA-Z0-9+.-]*:[^<>\n]+)>", re.DOTALL)
_ADDRESS = re.compile(r"<((?:https?|ftp|mailto):[^<>|\s]+)(?:\|([^<>\n]+))?>")
_WITHOUT_CONTENT = frozenset({"tombstone", "hidden_by_limit"})


@dataclass(frozen=True, kw_only=True)
class Names:
    """How users and channels are called, by their ids; what is missing keeps its id, never an empty name."""

    users: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[str, str] = field(default_factory=dict)

    def user(self, id_: str, label: str = "") -> str:
        """Return the name of a user."""
        return self.users.get(id_) or label or id_

    def channel(self, id_: str, label: str = "") -> str:
        """Return the name of a channel."""
        return self.channels.get(id_) or label or id_


def message_text(message: Mapping[str, Any], names: Names) -> str:
    """Return the text of a message, empty if it has none."""
    blocks = _blocks(message.get("blocks"), names)
    body = blocks or mrkdwn(_string(message, "text"), names)
    parts = [body, *(_attachment(each, names) for each in _objects(message.get("attachments")))]
    files = [*_objects(message.get("files")), *_objects([message.get("file")])]
    parts += [_file(each) for each in files]
    return "\n".join(dict.fromkeys(part.strip() for part in parts if part.strip()))


def mrkdwn(text: str, names: Names) -> str:
    """Resolve Slack's references and entities; marks such as *bold* stay as they are."""
    if "<" in text:
        text = _TOKEN.sub(lambda found: _code(found[1]) if found[1] else _reference(found[2], names), text)
    # Last, and once: what looks like a reference after this was typed by a person.
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") if "&" in text else text


def _code(text: str) -> str:
    return _ADDRESS.sub(lambda found: found[2] or found[1].removeprefix("mailto:"), text)


def _reference(inner: str, names: Names) -> str:
    target, _, label = inner.partition("|")
    match target[:1]:
        case "@":
            return f"@{names.user(target[1:], label.removeprefix('@'))}"
        case "#":
            return f"#{names.channel(target[1:], label.removeprefix('#'))}"
        case "!":
            return _command(target[1:], label)
    if not label or label == target or target.removeprefix("mailto:") == label:
        return target.removeprefix("mailto:")
    return f"[{label}]({target})"


def _command(command: str, label: str) -> str:
    name, _, rest = command.partition("^")
    if name == "date":
        return label or rest.partition("^")[0]
    if name == "subteam":
        return f"@{(label or rest).removeprefix('@')}"
    return f"@{(label or name).removeprefix('@')}"


def _blocks(blocks: object, names: Names) -> str:
    return "\n".join(part for block in _objects(blocks) if (part := _block(block, names).strip("\n")))


def _block(block: Mapping[str, Any], names: Names) -> str:  # noqa: PLR0911 - one case for each type
    match block.get("type"):
        case "rich_text":
            return "\n".join(_rich(block.get("elements"), names, 0))
        case "section":
            parts = [_text_object(block.get("text"), names)]
            parts += [_text_object(each, names) for each in _objects(block.get("fields"))]
            return "\n".join(filter(None, parts))
        case "header":
            return _text_object(block.get("text"), names)
        case "context":
            return " ".join(
                filter(None, (_text_object(each, names) for each in _objects(block.get("elements"))))
            )
        case "markdown":
            return _string(block, "text")
        case "table":
            rows = block.get("rows")
            return "\n".join(_row(row, names) for row in rows) if isinstance(rows, list) else ""
        case "image" | "video":
            return _text_object(block.get("title"), names) or _string(block, "alt_text")
    return ""


def _row(cells: object, names: Names) -> str:
    found = [
        " ".join(_rich(cell.get("elements"), names, 0))
        if cell.get("type") == "rich_text"
        else _string(cell, "text")
        for cell in _objects(cells)
    ]
    return " | ".join(found)


def _text_object(value: object, names: Names) -> str:
    """Return the text of a block's text object; only `mrkdwn` has references."""
    if not isinstance(value, dict) or value.get("type") not in {"mrkdwn", "plain_text"}:
        return ""
    text = _string(value, "text")
    return mrkdwn(text, names) if value["type"] == "mrkdwn" else text


def _rich(elements: object, names: Names, depth: int) -> Iterator[str]:
    """Yield the paragraphs of rich text as Markdown."""
    if depth > DEEPEST:
        return
    for element in _objects(elements):
        inner = element.get("elements")
        match element.get("type"):
            case "rich_text_list":
                indent = element.get("indent")
                lead = "  " * min(indent, DEEPEST) if isinstance(indent, int) and indent > 0 else ""
                ordered = element.get("style") == "ordered"
                offset = element.get("offset")
                first = 1 + (offset if isinstance(offset, int) else 0)
                for number, item in enumerate(_rich(inner, names, depth + 1), start=first):
                    yield f"{lead}{f'{number}.' if ordered else '-'} {item}"
            case "rich_text_quote":
                yield "> " + _leaves(inner, names).strip("\n").replace("\n", "\n> ")
            case "rich_text_preformatted":
                text = _leaves(inner, names).strip("\n")
                yield f"```\n{text}\n```"
            case "rich_text_section":
                yield _leaves(inner, names).strip("\n")


def _leaves(elements: object, names: Names) -> str:
    return "".join(_leaf(each, names) for each in _objects(elements))


def _leaf(leaf: Mapping[str, Any], names: Names) -> str:  # noqa: C901, PLR0911 - one case for each type
    style = leaf.get("style")
    match leaf.get("type"):
        case "text":
            text = _string(leaf, "text")
            code = isinstance(style, dict) and style.get("code") is True
            return f"`{text}`" if code and text.strip() else text
        case "link":
            url, label = _string(leaf, "url"), _string(leaf, "text")
            return f"[{label}]({url})" if label and label != url else url
        case "user":
            return f"@{names.user(_string(leaf, 'user_id'))}"
        case "channel":
            return f"#{names.channel(_string(leaf, 'channel_id'))}"
        case "usergroup":
            return f"@{_string(leaf, 'usergroup_id')}"
        case "broadcast":
            return f"@{_string(leaf, 'range')}"
        case "emoji":
            return f":{_string(leaf, 'name')}:"
        case "date":
            return _string(leaf, "fallback") or str(leaf.get("timestamp", ""))
        case "color":
            return _string(leaf, "value")
    return _string(leaf, "text")


def _attachment(attachment: Mapping[str, Any], names: Names) -> str:
    title, link = _string(attachment, "title"), _string(attachment, "title_link")
    fields = [
        ": ".join(filter(None, (_string(each, "title"), mrkdwn(_string(each, "value"), names))))
        for each in _objects(attachment.get("fields"))
    ]
    parts = [
        mrkdwn(_string(attachment, "pretext"), names),
        _string(attachment, "author_name"),
        f"[{title}]({link})" if title and link else title,
        _blocks(attachment.get("blocks"), names) or mrkdwn(_string(attachment, "text"), names),
        *fields,
    ]
    text = "\n".join(filter(None, parts)) or mrkdwn(_string(attachment, "fallback"), names)
    is_unfurl = attachment.get("from_url") or attachment.get("is_msg_unfurl")
    return text[:UNFURL_LENGTH] if is_unfurl else text


def _file(file: Mapping[str, Any]) -> str:
    """Return the name and the text of a file; its address would need a token, and may even contain one."""
    if file.get("mode") in _WITHOUT_CONTENT:
        return ""
    name = _string(file, "title") or _string(file, "name")
    content = _string(file, "plain_text") or _string(file, "preview")
    return "\n".join(filter(None, (f"[file: {name}]" if name else "", content)))


def _objects(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a list, and nothing of what is no list or no object."""
    if isinstance(value, list):
        yield from (each for each in value if isinstance(each, dict))


def _string(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""
