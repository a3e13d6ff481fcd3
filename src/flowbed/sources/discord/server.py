"""What a bot can see of a Discord server: its channels, its roles and its threads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured
from flowbed.records import Problem
from flowbed.records.values import listing
from flowbed.sources.apis.choice import Choice, chosen
from flowbed.sources.discord.api import UNKNOWN_GUILD, DiscordRefusal
from flowbed.sources.discord.messages import is_id
from flowbed.sources.discord.text import Names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.sources.discord.api import DiscordApi

TEXT, VOICE, ANNOUNCEMENT, STAGE, FORUM, MEDIA = 0, 2, 5, 13, 15, 16
# Channels with messages, those that may have threads, and those that may have private ones.
WITH_MESSAGES = frozenset({TEXT, VOICE, ANNOUNCEMENT, STAGE})
WITH_THREADS = frozenset({TEXT, ANNOUNCEMENT, FORUM, MEDIA})
# Bits of what the bot may do, as the Developer Portal shows them: without either, all messages are empty.
MESSAGE_CONTENT = 1 << 18 | 1 << 19
NO_CONTENT = (
    "the bot may not read the content of messages: turn on Message Content Intent under Bot in Discord's Developer"
    " Portal, and run again"
)


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A channel: `last` is the id of its last message, which may be deleted, or empty."""

    id: str
    name: str
    kind: int
    last: str = ""

    @property
    def label(self) -> str:
        """How readers know it."""
        return f"#{self.name}"


@dataclass(frozen=True, kw_only=True)
class Server:
    """The channels to read, and how things are called; `date` is Discord's time, in seconds since 1970.

    `threads` are the active threads by the id of their channel. `wanted` are the ids of the channels to read, with
    those that are not shown any more.
    """

    id: str
    name: str
    date: int
    channels: tuple[Channel, ...]
    wanted: tuple[str, ...]
    names: Names
    threads: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


async def open_server(
    api: DiscordApi, server: str, wanted: Sequence[str], before: Mapping[str, str] | None = None
) -> Server:
    """Ask what there is in a server. `wanted` are names or ids of channels; empty: all.

    `before` has the names of the channels that were read before, by their ids.

    Raises:
        Misconfigured: the token is refused, the server or a channel that is wanted does not exist, or the bot may not
            read the content of messages.
        NoAnswer: Discord does not answer.
    """
    await require_content(api)
    try:
        guild = await api.get("/guilds/{}", server)
        listed = await api.get("/guilds/{}/channels", server)
        active = await api.get("/guilds/{}/threads/active", server)
    except DiscordRefusal as error:
        why = "does not exist, or" if error.number == UNKNOWN_GUILD else "cannot be read:"
        raise Misconfigured(
            f"server {server} of Discord {why} the bot is not in it; invite it with the permissions View Channels and"
            " Read Message History"
        ) from error
    found = [
        Channel(
            id=each["id"],
            name=_name(each),
            kind=each.get("type", TEXT),
            last=each["last_message_id"] if is_id(each.get("last_message_id")) else "",
        )
        for each in _objects(listed)
        if each.get("type") in WITH_MESSAGES | WITH_THREADS
    ]
    threads: dict[str, list[dict[str, Any]]] = {}
    names = {each["id"]: _name(each) for each in _objects(listed)}
    for each in threads_of(active):
        threads.setdefault(each["parent_id"], []).append(each)
        names[each["id"]] = _name(each)
    choice = (
        _chosen(found, wanted, before or {}) if wanted else Choice(shown=tuple(each.id for each in found))
    )
    problems = [*choice.problems]
    if not found:
        reason = "the bot sees no channel with messages, so nothing is read; give its role the permission View Channels"
        problems.append(Problem(subject="channels", reason=reason, skipped=True))
    return Server(
        id=server,
        name=_name(guild),
        date=api.date,
        channels=tuple(each for each in found if each.id in choice.shown),
        wanted=choice.all,
        names=Names(channels=names, roles={each["id"]: _name(each) for each in _objects(guild.get("roles"))}),
        threads=threads,
        problems=tuple(problems),
    )


async def require_content(api: DiscordApi) -> None:
    """Check that the bot may read the content of messages, where Discord says so.

    Raises:
        Misconfigured: it may not.
    """
    try:
        flags = (await api.get("/applications/@me", "")).get("flags")
    except DiscordRefusal:
        return  # the messages will show it
    if isinstance(flags, int) and not flags & MESSAGE_CONTENT:
        raise Misconfigured(NO_CONTENT)


def threads_of(answer: object) -> list[dict[str, Any]]:
    """Return the threads of an answer that lists some."""
    listed = answer.get("threads") if isinstance(answer, dict) else None
    return [each for each in _objects(listed) if is_id(each.get("parent_id"))]


def _chosen(found: Sequence[Channel], wanted: Sequence[str], before: Mapping[str, str]) -> Choice:
    def unknown(name: str, suggestion: str) -> Misconfigured:
        return Misconfigured(
            f"channel {name!r} does not exist in this server, or the bot cannot see it{suggestion}; check the name, and"
            " give the role of the bot the permission View Channels there; it sees:"
            f" {listing(sorted(each.name for each in found), none='no channel')}"
        )

    shown = [(each.id, each.name) for each in found]
    return chosen(wanted, shown, before, option="the option channels", unknown=unknown)


def _name(value: dict[str, Any]) -> str:
    name = value.get("name")
    return " ".join(name.split()) if isinstance(name, str) and name.strip() else str(value.get("id", ""))


def _objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list that have an id."""
    found = value if isinstance(value, list) else []
    return [each for each in found if isinstance(each, dict) and is_id(each.get("id"))]
