"""How often a provider is asked again, and after how long. No I/O."""

from __future__ import annotations

from flowbed.errors import TooMany, Transient

ATTEMPTS = 6  # with the waits below about half a minute: longer outages are for the next run
WAIT_FIRST, WAIT_MOST = 0.5, 20.0  # seconds
# Rate limits are by the minute: the waits of those who were asked too often, and did not say for how long, are so many
# times as long, and together more than that.
TOO_OFTEN = 8
# Seconds that are waited because the other side says so: limits by the minute and by five of them pass within it, those
# by the day are for another run.
TOLD_MOST = 300.0


def wait(error: Transient, tries: int) -> bool | float:
    """Decide how many seconds to wait after so many tries; True leaves it to the usual backoff, False gives up."""
    told = error.retry_after
    if told is None:
        # Each failure twice the last one's wait, as the backoff does, but longer.
        return (
            min(WAIT_MOST, TOO_OFTEN * WAIT_FIRST * 2 ** (tries - 1)) if isinstance(error, TooMany) else True
        )
    # Told to come again at once, and failing again, the tries would be over at once.
    return max(told, WAIT_FIRST * 2 ** (tries - 2) if tries > 1 else 0.0) if told <= TOLD_MOST else False
