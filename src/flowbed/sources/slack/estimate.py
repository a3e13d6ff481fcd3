"""How many calls are left until the past of all channels is read, and how long they take. No I/O."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.sources.slack.reading import ChannelReading

HOUR = 3_600  # seconds


def left_to_read(channels: Sequence[ChannelReading]) -> tuple[int, int]:
    """Estimate the calls for histories and for threads that are left, from those of this run and the time they covered.

    A channel that was not begun, or whose age is unknown, counts as one call: it is at least that.
    """
    histories = threads = 0
    for each in channels:
        if each.position.whole:
            continue
        covered = each.began - max(each.lower, each.created)
        share = max(0, each.lower - each.created) / covered if covered > 0 and each.created else 0.0
        histories += max(1, math.ceil(each.history_calls * share))
        threads += each.waiting + math.ceil((each.thread_calls + each.waiting) * share)
    return histories, threads


def in_words(channels: Sequence[ChannelReading], interval: float) -> str:
    """Say how much is left where a call of each method takes `interval` seconds; empty where nothing is.

    Histories and threads have limits of their own, so they are read at the same time.
    """
    histories, threads = left_to_read(channels)
    if not histories + threads:
        return ""
    seconds = max(histories, threads) * interval
    if seconds < 2 * HOUR:
        return f"about {count(histories + threads, 'call')} left, {count(math.ceil(seconds / 60), 'minute')}"
    return f"about {count(histories + threads, 'call')} left, {count(round(seconds / HOUR), 'hour')}"
