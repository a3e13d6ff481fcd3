"""How many calls are left until the past of all channels is read, and how long they take. No I/O."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flowbed.sources.apis import estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.sources.slack.reading import ChannelReading


def left_to_read(channels: Sequence[ChannelReading]) -> tuple[int, int]:
    """Estimate the calls for histories and for threads that are left, from those of this run and the time they covered.

    A channel that was not begun, or whose age is unknown, counts as one call: it is at least that.
    """
    histories = threads = 0
    for each in channels:
        if each.position.whole:
            continue
        past = {"began": each.began, "lower": each.lower, "created": each.created}
        histories += estimate.history_calls(each.history_calls, **past)
        threads += each.waiting + math.ceil((each.thread_calls + each.waiting) * estimate.share(**past))
    return histories, threads


def in_words(channels: Sequence[ChannelReading], interval: float) -> str:
    """Say how much is left where a call of each method takes `interval` seconds; empty where nothing is.

    Histories and threads have limits of their own, so they are read at the same time.
    """
    histories, threads = left_to_read(channels)
    return estimate.in_words(histories + threads, max(histories, threads) * interval)
