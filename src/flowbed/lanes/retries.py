"""How often a request to a provider is retried, and after how long; each attempt is paid for."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING

import stamina

from flowbed.embedding.wrappers.billing import billed_to
from flowbed.errors import Error, TooMany, Transient
from flowbed.telemetry import RETRIED, reached

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.embedding import Embedder
    from flowbed.lanes.budget import Payment
    from flowbed.records import Embedded

ATTEMPTS = 6  # with the waits below about half a minute: a longer outage is left to the next run
# Of a text that was among those of a request that failed so often: enough that a provider which fails by chance is not
# mistaken for one that this text breaks.
CONFIRMATIONS = 3
# Single texts that are refused before any is accepted, until a harmless text tells whether the request is at fault.
REFUSALS = 8
WAIT_FIRST, WAIT_MOST = 0.5, 20.0  # seconds
WAIT_JITTER = (
    1.0  # seconds at most that are added to a wait: clients that failed together come again one by one
)
# Rate limits are per minute: after a 429 without a wait the waits are this many times as long, over a minute in all.
RATE_LIMIT_FACTOR = 8
# The longest wait (seconds) that a provider may ask for: limits of one or five minutes pass within it, daily ones are
# left to another run.
RETRY_AFTER_MAX = 300.0


def wait(error: Transient, tries: int) -> bool | float:
    """Return the seconds to wait after this many tries; True means the usual backoff, False gives up."""
    retry_after = error.retry_after
    if retry_after is None:
        # Doubled after each failure, as the backoff does, but longer.
        backoff = RATE_LIMIT_FACTOR * WAIT_FIRST * 2 ** (tries - 1)
        return min(WAIT_MOST, backoff) if isinstance(error, TooMany) else True
    if retry_after > RETRY_AFTER_MAX:
        return False
    # Where the provider says 0 and fails again, all tries would be over at once.
    return max(retry_after, WAIT_FIRST * 2 ** (tries - 2) if tries > 1 else 0.0)


def report_retry(error: Transient, seconds: bool | float) -> None:
    """Report that a request is sent again after the wait that `wait` returned, if it is."""
    if seconds is not False:
        known = None if seconds is True else seconds
        reached(RETRIED, reason=str(error), seconds=known, limited=isinstance(error, TooMany))


async def call(
    texts: Sequence[str],
    embedder: Embedder,
    payment: Payment,
    attempts: int,
    failed: Callable[[Transient], None] = lambda _: None,
) -> Embedded:
    """Send a request, up to so many times; each attempt that may be billed is paid for.

    `failed` is called with the error of each attempt that may succeed later.

    Raises:
        Transient, Rejected, Misconfigured: as the last attempt did.
    """
    tries = count(1)

    def again(error: Exception) -> bool | float:
        if not isinstance(error, Transient):
            return False
        failed(error)
        if not payment.reserve():
            return False
        seconds = wait(error, next(tries))
        report_retry(error, seconds)
        return seconds

    async for attempt in stamina.retry_context(
        on=again,
        attempts=attempts,
        timeout=None,
        wait_initial=WAIT_FIRST,
        wait_max=WAIT_MOST,
        wait_jitter=WAIT_JITTER,
    ):
        with attempt:
            return await _ask(texts, embedder, payment)
    raise AssertionError("unreachable: the last attempt raises")


async def _ask(texts: Sequence[str], embedder: Embedder, payment: Payment) -> Embedded:
    """Send a request once, and pay for it if it may be billed though it failed."""
    payment.send()
    try:
        with billed_to(payment):
            return await embedder.embed(texts, purpose="document")
    except Error as error:
        if error.perhaps_billed:
            payment.lose()
        raise
    except asyncio.CancelledError:
        payment.lose()
        raise
