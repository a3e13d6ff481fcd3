"""Read the messages of a channel or of a thread, page by page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Problem
from flowbed.sources.discord.api import UNKNOWN_MESSAGE, DiscordRefusal
from flowbed.sources.discord.messages import from_api, is_by_a_person, is_id
from flowbed.sources.discord.positions import Position
from flowbed.sources.discord.server import NO_CONTENT, WITH_MESSAGES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from flowbed.sources.discord.api import DiscordApi
    from flowbed.sources.discord.messages import Place
    from flowbed.sources.discord.server import Channel

DAY = 86_400  # seconds
# Messages and threads of a page, the most that Discord gives.
PAGE = 100
# Malformed messages that are reported one by one.
MOST_PROBLEMS = 20
# If so many messages of people have no content at all, the bot may not read it.
SILENT = 50


@dataclass
class Content:
    """How many messages of people were seen, and whether any of them had content."""

    seen: int = 0
    found: bool = False

    def note(self, messages: list[Any]) -> None:
        """Note a page of messages.

        Raises:
            Misconfigured: the bot may not read the content of messages.
        """
        people = [each for each in messages if isinstance(each, dict) and is_by_a_person(each)]
        self.seen += len(people)
        self.found |= any(
            each.get(name) for each in people for name in ("content", "embeds", "attachments", "components")
        )
        if self.seen >= SILENT and not self.found:
            raise Misconfigured(NO_CONTENT)


@dataclass
class Found:
    """Documents of a channel by the ends of their ids, and the position after them; those without text are gone.

    `titles` are the names of threads.
    """

    documents: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    position: Position = field(default_factory=Position)


@dataclass(kw_only=True)
class History:
    """The messages of a channel and of its threads; `calls` counts those for the channel itself.

    `readable` says that the bot may read them: some were seen, or Discord answered about one.
    """

    api: DiscordApi
    place: Place
    channel: Channel
    content: Content
    readable: bool = False
    calls: int = 0

    async def pages(
        self, channel: str, *, before: int, oldest: int = 0
    ) -> AsyncIterator[tuple[list[Any], int | None]]:
        """Yield the pages of a channel or thread, newest first, and the lowest id of each; None for the last one."""
        while before > oldest:
            messages = await self.api.get("/channels/{}/messages", channel, before=before, limit=PAGE)
            self.calls += channel == self.channel.id
            if not isinstance(messages, list):
                raise DiscordRefusal(f"Discord lists no messages of {self.place.label}", status=200, number=0)
            self.content.note(messages)
            ids = [int(each["id"]) for each in messages if isinstance(each, dict) and is_id(each.get("id"))]
            lowest = min(ids, default=before)
            self.readable |= bool(ids)
            if not messages:
                # Only an empty page is certainly the last.
                if not self.readable:
                    await self._require_history()
                break
            if lowest >= before:
                raise DiscordRefusal(
                    f"Discord lists messages of {self.place.label} that are not older",
                    status=200,
                    number=0,
                )
            if lowest <= oldest:
                yield messages, None
                return
            before = lowest
            yield messages, lowest
        yield [], None

    async def _require_history(self) -> None:
        """Check that a channel that lists nothing may be read: without the permission, Discord answers an empty list.

        Raises:
            DiscordRefusal: it may not.
        """
        if self.channel.kind in WITH_MESSAGES and self.channel.last:
            try:
                await self.api.get(f"/channels/{{}}/messages/{self.channel.last}", self.channel.id)
            except DiscordRefusal as error:
                if error.number != UNKNOWN_MESSAGE:
                    raise DiscordRefusal(
                        "the bot lacks the permission Read Message History",
                        status=error.status,
                        number=error.number,
                    ) from error
        self.readable = True

    def checked(self, place: Place, messages: list[Any], found: Found) -> Iterator[dict[str, Any]]:
        """Yield the messages that are well formed, and report the others."""
        for message in messages:
            try:
                kept = from_api(message)
            except Rejected as error:
                if len(found.problems) < MOST_PROBLEMS:
                    id_ = message.get("id") if isinstance(message, dict) else None
                    subject = place.link(id_) if is_id(id_) and isinstance(id_, str) else place.label
                    found.problems.append(Problem(subject=subject, reason=str(error), skipped=True))
                continue
            yield kept
