"""One request to a provider: sent again while its failure may pass, and paid for."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING

import stamina

from flowbed.embedding.wrappers.billing import billed_to
from flowbed.errors import Error, Transient
from flowbed.lanes.retries import WAIT_FIRST, WAIT_MOST, report_retry, wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.embedding import Embedder
    from flowbed.lanes.budget import Payment
    from flowbed.records import Embedded


async def call(texts: Sequence[str], embedder: Embedder, payment: Payment, attempts: int) -> Embedded:
    """Send a request, up to so many times; each attempt that may be billed is paid for.

    Raises:
        Transient, Rejected, Misconfigured: as the last attempt did.
    """
    tries = count(1)

    def again(error: Exception) -> bool | float:
        if not isinstance(error, Transient) or not payment.reserve():
            return False
        seconds = wait(error, next(tries))
        report_retry(error, seconds)
        return seconds

    async for attempt in stamina.retry_context(
        on=again, attempts=attempts, timeout=None, wait_initial=WAIT_FIRST, wait_max=WAIT_MOST
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
