"""Messages to a person about what fails, with the command that fixes it: one for each kind and hour."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from flowbed.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.http.client import HttpResponse

log = logging.getLogger("flowbed")
HOUR = 3_600 * 1_000_000  # µs
FIRST_FAILURE = 300
LONGEST = 3_000  # characters: Slack cuts longer ones


class Poster(Protocol):
    """Posts JSON to a URL, as `flowbed.http.client.HttpClient` does."""

    async def post(self, path: str, body: Mapping[str, Any]) -> HttpResponse:
        """Post a body; a response of any status is returned."""
        ...


@dataclass
class Alerts:
    """Posts messages in Slack's form, `{"text": ...}`, which Mattermost, Discord (`/slack`) and others take too.

    `poster` is None where no webhook is set; `project` begins each message; `clock` returns µs since 1970.
    """

    poster: Poster | None
    project: str
    clock: Callable[[], int]
    _sent: dict[str, int] = field(default_factory=dict)

    async def send(self, kind: str, reason: str, *, fix: str) -> None:
        """Send a message, unless one of its kind was sent within an hour; a failure to send it is logged."""
        now = self.clock()
        if self.poster is None or now - self._sent.get(kind, -HOUR) < HOUR:
            return
        text = f"{self.project}: {kind}: {reason}"[:LONGEST] + f"\nTo fix it: `{fix}`"
        try:
            status = (await self.poster.post("", {"text": text})).status
        except Error as error:
            log.warning("the webhook of [watch] cannot be reached: %s", error)
            return
        if status >= FIRST_FAILURE:
            log.warning("the webhook of [watch] answered %s to a message about %s", status, kind)
            return
        self._sent[kind] = now
