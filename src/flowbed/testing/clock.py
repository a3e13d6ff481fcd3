"""A clock that stands still until it is advanced."""

from __future__ import annotations

# 2026-01-01T00:00:00Z: easy to recognise.
START = 1_767_225_600_000_000


class FixedClock:
    """Call it to get the time, in microseconds since 1970."""

    def __init__(self, now: int = START) -> None:
        """Start at `now` microseconds since 1970."""
        self.now = now

    def __call__(self) -> int:
        """Return the time."""
        return self.now

    def advance(self, *, seconds: float = 0, microseconds: int = 0) -> int:
        """Advance the clock, and return the new time."""
        self.now += round(seconds * 1_000_000) + microseconds
        return self.now
