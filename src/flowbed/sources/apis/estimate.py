"""How many calls of a fetch are left, and how long they take. No I/O."""

from __future__ import annotations

import math

from flowbed.records.values import count

HOUR = 3_600  # seconds


def history_calls(calls: int, *, began: int, lower: int, created: int) -> int:
    """Estimate the calls that are left for the past of a channel, at least one.

    So many `calls` were needed from the time `began` down to `lower`; `created` is when the channel was, 0 if that is
    unknown. All times are in seconds.
    """
    return max(1, math.ceil(calls * share(began=began, lower=lower, created=created)))


def share(*, began: int, lower: int, created: int) -> float:
    """Return how much of the past of a channel is left, as a multiple of what was read; 0 where nothing says so."""
    covered = began - max(lower, created)
    return max(0, lower - created) / covered if covered > 0 and created else 0.0


def in_words(calls: int, seconds: float) -> str:
    """Say how many calls are left, and how long they take; empty where none is."""
    if not calls:
        return ""
    left = f"about {count(calls, 'call')} left"
    if seconds < 2 * HOUR:
        return f"{left}, {count(math.ceil(seconds / 60), 'minute')}"
    return f"{left}, {count(round(seconds / HOUR), 'hour')}"
