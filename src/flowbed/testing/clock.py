"""A clock that stands still until it is told otherwise."""

from __future__ import annotations

# 2026-01-01T00:00:00Z: a time that any test may have, and recognise.
START = 1_767_225_600_000_000


class FixedClock:
    """Call it for the time, in microseconds since 1970."""

    def __init__(self, now: int = START) -> None:
        """Start at `now` microseconds since 1970."""
        self.now = now

    def __call__(self) -> int:
        """Tell the time."""
        return self.now

    def advance(self, *, seconds: float = 0, microseconds: int = 0) -> int:
        """Move on, and tell the new time."""
        self.now += round(seconds * 1_000_000) + microseconds
        return self.now
