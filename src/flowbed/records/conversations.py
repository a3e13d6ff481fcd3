"""What a source of conversations writes as the text of a document, and the chunker reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import orjson

from flowbed.errors import Rejected

KIND = "conversation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message: `time` in microseconds since 1970, `author` as readers know them, `url` or an empty string.

    `answers` is the id of the message that it replies to, and `quote` the beginning of that.
    """

    id: str
    author: str
    time: int
    text: str
    url: str = ""
    answers: str = ""
    quote: str = ""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages of one channel, oldest first: those of a thread, or those of one day where `thread` is empty.

    `channel` is its name as readers know it (`#general`), `channel_id` the name that never changes.
    """

    channel: str
    channel_id: str
    messages: tuple[Message, ...]
    thread: str = ""

    def to_json(self) -> str:
        """Return the text of its document."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> Conversation:
        """Parse the result of `to_json`.

        Raises:
            Rejected: `text` is no conversation.
        """
        try:
            fields: dict[str, Any] = orjson.loads(text)
            messages = tuple(Message(**message) for message in fields.pop("messages"))
            return cls(**fields, messages=messages)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Rejected(f"not a conversation: {error}") from error
