"""Rate limits per minute and key, as providers enforce them: buckets that fill with time, on a clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Unit = Literal["requests", "inputs", "tokens"]
UNITS: tuple[Unit, ...] = ("requests", "inputs", "tokens")
MINUTE = 60.0
# As much of a part of one as adding up floats may lose: what is owed is never less.
LOST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one key may send in a minute; None is without limit.

    A key that was quiet may send what `burst` seconds allow at once: 60 lets it send a minute's worth, 1 holds it to a
    second's worth, as OpenAI does now and then.
    """

    requests: int | None = None
    inputs: int | None = None
    tokens: int | None = None
    burst: float = MINUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How one limit stands after a request: what is left, in how many seconds all is back.

    `wait` is in how many seconds the request would have fitted: 0 where it did, None where it never will.
    """

    unit: Unit
    limit: int
    asked: int
    remaining: int
    reset: float
    wait: float | None = 0.0


class Buckets:
    """One bucket for each key and limit."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        """Begin with full buckets; `clock` tells seconds, from any beginning."""
        self._clock = clock
        self._limits = [(unit, limit) for unit in UNITS if (limit := getattr(limits, unit)) is not None]
        self._burst = limits.burst
        self._levels: dict[tuple[str, Unit], tuple[float, float]] = {}

    def take(self, key: str, asked: dict[Unit, int]) -> Sequence[Room]:
        """Take what a request needs, or nothing of it save the request itself, and tell how every limit stands."""
        if not self._limits:
            return ()
        now = self._clock()
        levels = {unit: self._level(key, unit, limit, now) for unit, limit in self._limits}
        waits = {unit: self._wait(levels[unit], limit, asked[unit]) for unit, limit in self._limits}
        fits = all(wait == 0.0 for wait in waits.values())
        rooms = []
        for unit, limit in self._limits:
            # Even a request that is refused counts as a request, with OpenAI; it is not said what others do.
            taken = asked[unit] if fits or (unit == "requests" and waits[unit] == 0.0) else 0
            level = max(0.0, levels[unit] - taken)
            self._levels[key, unit] = level, now
            reset = (self._capacity(limit) - level) * MINUTE / limit
            rooms.append(
                Room(
                    unit=unit,
                    limit=limit,
                    asked=asked[unit],
                    remaining=int(level),
                    reset=reset,
                    wait=waits[unit],
                )
            )
        return rooms

    def _capacity(self, limit: int) -> float:
        return max(1.0, limit * self._burst / MINUTE)

    def _level(self, key: str, unit: Unit, limit: int, now: float) -> float:
        capacity = self._capacity(limit)
        level, then = self._levels.get((key, unit), (capacity, now))
        return min(capacity, level + (now - then) * limit / MINUTE)

    def _wait(self, level: float, limit: int, asked: int) -> float | None:
        if asked > self._capacity(limit):
            return None
        missing = asked - level
        return missing * MINUTE / limit if missing > LOST else 0.0


def in_the_way(rooms: Sequence[Room]) -> Room | None:
    """Tell which limit refuses a request, and for the longest time; None where it fits."""
    refusing = [room for room in rooms if room.wait != 0.0]
    return max(refusing, key=lambda room: float("inf") if room.wait is None else room.wait, default=None)
