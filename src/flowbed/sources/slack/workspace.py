"""What a token can see of a workspace: its channels, its people, and where its links lead."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured
from flowbed.records import Problem
from flowbed.records.values import listing
from flowbed.sources.apis.choice import Choice, chosen
from flowbed.sources.slack.messages import Channel, usable, user_name
from flowbed.sources.slack.text import Names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from flowbed.sources.slack.api import SlackApi

# As many channels or users as Slack gives at a time; some workspaces answer fewer.
PAGE = 200


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The channels to read, and how things are called; `date` is the server's time, in seconds since 1970.

    `wanted` are the ids of the channels to read, with those that the app cannot read.
    `people` are the names of `names`, to which others may be added; `lists_people` tells whether the token may ask for
    them. `private` and `archived` are ids of channels; `unread` are the labels of those that the app could read if it
    were invited.
    """

    team: str
    base: str
    date: int
    channels: tuple[Channel, ...]
    wanted: tuple[str, ...]
    names: Names
    people: dict[str, str]
    lists_people: bool = True
    private: frozenset[str] = frozenset()
    archived: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    created: dict[str, int] = field(default_factory=dict)


async def open_workspace(
    api: SlackApi, wanted: Sequence[str], before: Mapping[str, str] | None = None
) -> Workspace:
    """Ask which channels there are, and who is in the workspace. `wanted` are names or ids of channels; empty: all.

    `before` has the names of the channels that were read before, by their ids.

    Raises:
        Misconfigured: the token is refused, or no channel has a name that is wanted.
        Transient: Slack does not answer.
    """
    identity = await api.call("auth.test")
    problems: list[Problem] = []
    listed: list[dict[str, Any]] = []
    for kind, scope in (("public_channel", "channels:read"), ("private_channel", "groups:read")):
        try:
            listed += [each async for each in _objects(api, "conversations.list", "channels", types=kind)]
        except Misconfigured:
            if kind == "public_channel":
                raise
            reason = f"the token lacks the scope {scope}, so private channels are not read"
            problems.append(Problem(subject="private channels", reason=reason, skipped=True))
    lists_people = True
    try:
        users = {each["id"]: user_name(each) async for each in _objects(api, "users.list", "members")}
    except Misconfigured:
        users, lists_people = {}, False
        reason = "the token lacks the scope users:read, so people appear under their ids"
        problems.append(Problem(subject="users", reason=reason, skipped=True))
    names = {each["id"]: usable(each.get("name")) or each["id"] for each in listed}
    choice = _chosen(names, wanted, before or {}) if wanted else Choice(shown=tuple(names))
    problems += choice.problems
    members = {each["id"] for each in listed if each.get("is_member") is not False}
    for each in choice.shown:
        if wanted and each not in members:
            reason = "the app is not in this channel; type /invite and the app's name there"
            problems.append(
                Problem(subject=f"#{names[each]}", reason=reason, skipped=True, folder=f"{each}/")
            )
    readable = [each for each in choice.shown if each in members]
    if not readable:
        reason = (
            "the app is in none of the channels, so nothing is read; type /invite and its name in a channel"
        )
        problems.append(Problem(subject="channels", reason=reason, skipped=True))
    return Workspace(
        team=str(identity.get("team", "")),
        base=str(identity.get("url") or "https://slack.com/").rstrip("/") + "/",
        date=api.date,
        channels=tuple(Channel(id=each, label=f"#{names[each]}") for each in readable),
        wanted=choice.all if wanted else tuple(readable),
        names=Names(users=users, channels=names),
        people=users,
        lists_people=lists_people,
        private=frozenset(each["id"] for each in listed if each.get("is_private") is True),
        archived=frozenset(each["id"] for each in listed if each.get("is_archived") is True),
        unread=tuple(f"#{name}" for each, name in names.items() if each not in members),
        problems=tuple(problems),
        created={each["id"]: each["created"] for each in listed if isinstance(each.get("created"), int)},
    )


def _chosen(names: Mapping[str, str], wanted: Sequence[str], before: Mapping[str, str]) -> Choice:
    def unknown(name: str, suggestion: str) -> Misconfigured:
        return Misconfigured(
            f"channel {name!r} does not exist in Slack, or the token cannot see it{suggestion}; check the name, and"
            f" invite the app to a private channel; the token sees: {listing(sorted(names.values()), none='none')}"
        )

    return chosen(wanted, names.items(), before, option="the option channels", unknown=unknown)


async def _objects(
    api: SlackApi, method: str, field_: str, **arguments: Any
) -> AsyncIterator[dict[str, Any]]:
    """List everything of a method that has an id."""
    async for answer in api.pages(method, limit=PAGE, **arguments):
        found = answer.get(field_)
        for each in found if isinstance(found, list) else ():
            if isinstance(each, dict) and usable(each.get("id")):
                yield each
