"""Names of people whom the list of the workspace lacks, such as those of other workspaces."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Misconfigured, Transient
from flowbed.sources.slack.api import SlackRefusal
from flowbed.sources.slack.messages import user_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flowbed.sources.slack.api import SlackApi

# Who is asked for in one fetch; the others appear under their ids until another message of theirs comes.
MOST_ASKED = 200
# A name is asked for again after this time (seconds).
RENAMED = 30 * 86_400

_USER = re.compile(rb'(?:<@|"user(?:_id)?":")([UW][A-Z0-9]{2,})')


@dataclass
class People:
    """The names of a workspace's people by id, to which those of strangers are added.

    `asked` has the name of each stranger, empty if there is none, and when it was asked for.
    """

    api: SlackApi
    names: dict[str, str]
    asked: dict[str, tuple[str, int]] = field(default_factory=dict)
    _left: int = MOST_ASKED

    def __post_init__(self) -> None:
        """Take in the names that were asked for before."""
        self.names |= {id_: name for id_, (name, _) in self.asked.items() if name and id_ not in self.names}

    async def learn(self, messages: Iterable[Mapping[str, Any]]) -> bool:
        """Ask for the strangers in some messages; return whether any was asked for."""
        named = {id_.decode() for each in messages for id_ in _USER.findall(orjson.dumps(each))}
        learned = False
        for id_ in sorted(named - self.names.keys() | self._old(named)):
            if self._left <= 0 or self.asked.get(id_, ("", 0))[1] > self.api.date - RENAMED:
                continue
            self._left -= 1
            try:
                answer = await self.api.call("users.info", user=id_)
                user = answer.get("user")
                name = user_name({**user, "id": id_}) if isinstance(user, dict) else ""
            except SlackRefusal:
                name = ""
            except (Misconfigured, Transient):
                self._left = 0  # names are no reason to fail
                break
            learned = True
            self.asked[id_] = (name, self.api.date)
            if name:
                self.names[id_] = name
        return learned

    def _old(self, named: set[str]) -> set[str]:
        return named & self.asked.keys()
