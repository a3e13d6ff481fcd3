"""When each of Slack's methods may be called next."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.telemetry import RETRIED, reached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MINUTE = 60.0
# Slow mode: what Slack allows apps that are distributed outside its marketplace. A page has at most so many messages,
# and a 429 after a single call in the last minute asks for more than half of one.
SLOW_PAGE, SLOW_WAIT = 15, MINUTE / 2
# What an internal app may call in a minute, of the methods that list messages.
CALLS_A_MINUTE = 50


@dataclass
class _Method:
    """A method's limit: no call before `until` (seconds); `interval` is the time between calls in slow mode."""

    until: float = -math.inf
    interval: float = 0.0
    largest: int = 0
    answered: list[float] = field(default_factory=list)
    turns: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(kw_only=True)
class Pacing:
    """The limits of each method by itself, as Slack has them: one that waits stops no other.

    `sleep` waits, `monotonic` returns seconds. `left` says how much is left to do, for a person who watches.
    """

    sleep: Callable[[float], Awaitable[None]]
    monotonic: Callable[[], float]
    left: Callable[[], str] = str
    _methods: dict[str, _Method] = field(default_factory=lambda: defaultdict(_Method))

    @property
    def slow(self) -> bool:
        """Whether Slack allows one call a minute of the methods that list messages."""
        return any(each.interval for each in self._methods.values())

    async def turn(self, method: str) -> None:
        """Wait until a method may be called."""
        own = self._methods[method]
        async with own.turns:
            while (rest := own.until - self.monotonic()) > 0:
                reached(RETRIED, reason=self._reason(method), seconds=rest, limited=True)
                await self.sleep(rest)
            if own.interval:
                own.until = self.monotonic() + own.interval

    def limited(self, method: str, seconds: float) -> None:
        """Note that Slack refused a call for so long."""
        own, now = self._methods[method], self.monotonic()
        own.until = max(own.until, now + seconds)
        lately = [each for each in own.answered if now - each < MINUTE]
        if seconds >= SLOW_WAIT and len(lately) == 1 and 0 < own.largest <= SLOW_PAGE:
            own.interval = MINUTE

    def answered(self, method: str, messages: int) -> None:
        """Note an answer, and how many messages it had."""
        own, now = self._methods[method], self.monotonic()
        own.largest = max(own.largest, messages)
        own.answered = [*(each for each in own.answered if now - each < MINUTE), now]
        if own.largest > SLOW_PAGE:
            own.interval = 0.0

    def _reason(self, method: str) -> str:
        if not self.slow:
            return f"Slack limits {method}"
        return f"Slack allows this app one call of {method} a minute{self.left()}"
