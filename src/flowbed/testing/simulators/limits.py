"""Rate limits per minute and key, as providers enforce them: buckets that refill with time, on a clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Unit = Literal["requests", "inputs", "tokens"]
UNITS: tuple[Unit, ...] = ("requests", "inputs", "tokens")
MINUTE = 60.0
# Tolerance for rounding errors of float sums; real debts are larger.
LOST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one key may send in a minute; None means no limit.

    An idle key may send what `burst` seconds allow at once: 60 allows a minute's worth, 1 a second's worth, as OpenAI
    sometimes enforces.
    """

    requests: int | None = None
    inputs: int | None = None
    tokens: int | None = None
    burst: float = MINUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One limit after a request: what is left, and in how many seconds it is full again.

    `wait` is how many seconds until the request would fit: 0 if it did, None if it never will.
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
        """Start with full buckets; `clock` returns seconds since any point."""
        self._clock = clock
        self._limits = [(unit, limit) for unit in UNITS if (limit := getattr(limits, unit)) is not None]
        self._burst = limits.burst
        self._levels: dict[tuple[str, Unit], tuple[float, float]] = {}

    def take(self, key: str, asked: dict[Unit, int]) -> Sequence[Room]:
        """Take what a request needs, or only the request itself if it does not fit; return the state of every limit."""
        if not self._limits:
            return ()
        now = self._clock()
        levels = {unit: self._level(key, unit, limit, now) for unit, limit in self._limits}
        waits = {unit: self._wait(levels[unit], limit, asked[unit]) for unit, limit in self._limits}
        fits = all(wait == 0.0 for wait in waits.values())
        rooms = []
        for unit, limit in self._limits:
            # A refused request also counts as a request, with OpenAI; other vendors do not say.
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
    """Return the limit that refuses a request for longest; None if it fits."""
    refusing = [room for room in rooms if room.wait != 0.0]
    return max(refusing, key=lambda room: float("inf") if room.wait is None else room.wait, default=None)
