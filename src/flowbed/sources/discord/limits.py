"""When each of Discord's routes may be called next."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.telemetry import RETRIED, reached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

# A bucket that is empty says when it is full again; an hour there would be a mistake of somebody's clock.
LONGEST_REST = 60.0

_Key = tuple[str, str]


@dataclass(kw_only=True)
class Limits:
    """Discord's limits: those of a bucket of routes hold for each channel or server by itself, as its headers say.

    `sleep` waits, `monotonic` returns seconds. `left` says how much is left to do after a rest of so many seconds, for
    a person who watches.
    """

    sleep: Callable[[float], Awaitable[None]]
    monotonic: Callable[[], float]
    left: Callable[[float], str] = lambda _rest: ""
    _buckets: dict[str, str] = field(default_factory=dict)
    _until: dict[_Key, float] = field(default_factory=dict)
    _all_until: float = -math.inf

    async def turn(self, route: str, owner: str) -> None:
        """Wait until a route of a channel or server, the `owner`, may be called."""
        while (rest := self._free_at(route, owner) - self.monotonic()) > 0:
            reached(RETRIED, reason=f"Discord limits {route}{self.left(rest)}", seconds=rest, limited=True)
            await self.sleep(rest)

    def answered(self, route: str, owner: str, headers: Mapping[str, str]) -> None:
        """Note what an answer says of its bucket."""
        self._buckets[route] = headers.get("x-ratelimit-bucket") or self._buckets.get(route, route)
        if headers.get("x-ratelimit-remaining") == "0":
            rest = min(seconds(headers.get("x-ratelimit-reset-after")), LONGEST_REST)
            self._rest(self._key(route, owner), rest)

    def limited(self, route: str, owner: str, rest: float, *, everything: bool) -> None:
        """Note that Discord refused a call for so many seconds, and whether it will refuse all others too."""
        if everything:
            self._all_until = max(self._all_until, self.monotonic() + rest)
        else:
            self._rest(self._key(route, owner), rest)

    def _rest(self, key: _Key, rest: float) -> None:
        now = self.monotonic()
        self._until = {each: until for each, until in self._until.items() if until > now}
        self._until[key] = max(self._until.get(key, -math.inf), now + rest)

    def _key(self, route: str, owner: str) -> _Key:
        return self._buckets.get(route, route), owner

    def _free_at(self, route: str, owner: str) -> float:
        return max(self._all_until, self._until.get(self._key(route, owner), -math.inf))


def seconds(value: object) -> float:
    """Return a number of seconds as Discord writes it, 0 where it is none."""
    try:
        found = float(value) if isinstance(value, str | int | float) else 0.0
    except ValueError:
        return 0.0
    return found if math.isfinite(found) and found > 0 else 0.0
