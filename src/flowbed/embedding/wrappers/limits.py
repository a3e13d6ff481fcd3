"""Keeps calls within the rate limits of providers: a call waits until there is room for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed import telemetry
from flowbed.embedding.splitting import call_in_parts, split
from flowbed.embedding.token_counts import estimate_tokens
from flowbed.embedding.unicode import require_unicode
from flowbed.embedding.wrappers import Wrapper
from flowbed.errors import TooMany, Transient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from flowbed.embedding import Embedder, Rates
    from flowbed.embedding.wrappers.buckets import Buckets
    from flowbed.records import Embedded, Purpose

MINUTE = 60.0

# One request carries at most this fraction (a quarter) of a minute's tokens and inputs; larger ones would delay the
# others for long.
SHARE = 4

# Seconds to wait after "too many requests" without a time.
PAUSE = 1.0

# Longest pause of the other calls after one was told to wait; a longer wait is for that call alone.
MAX_PAUSE = 120.0


class RateLimited(Wrapper):
    """An embedder whose calls wait for room under the provider's limits, first come, first served.

    Larger calls are split into requests that fit the limits. A provider's `retry_after` pauses all calls of the same
    account. Used from one event loop.
    """

    def __init__(
        self,
        embedder: Embedder,
        rates: Rates,
        buckets: Buckets,
        *,
        name: str,
        patience: float | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Keep to `rates`, together with all others of the same `name` (see `bucket_name`).

        A call that would wait for more than `patience` seconds is refused at once; without, it waits as long as needed.
        """
        super().__init__(embedder)
        limits = {"requests": rates.requests, "inputs": rates.inputs, "tokens": rates.tokens}
        self._limits = {unit: limit for unit, limit in limits.items() if limit is not None}
        self.items = min(self.items, max(1, self._limits.get("inputs", SHARE * self.items) // SHARE))
        self.tokens = min(self.tokens, max(1, self._limits.get("tokens", SHARE * self.tokens) // SHARE))
        self._buckets = buckets
        self._name = name
        self._label = name.partition(":")[0]  # the rest is derived from a key
        self._patience = patience
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._queued = 0.0  # seconds of room that waiting calls will take

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none, once there is room.

        Raises:
            TooMany: it would take longer than the patience; `retry_after` says how long.
            Transient, Rejected, Misconfigured: as the embedder does.
        """
        require_unicode(texts)
        if not texts:
            return await self._embedder.embed(texts, purpose=purpose)
        self._refuse(self._queued)
        if not self._limits:
            # Without limits only a pause is waited for.
            await self._wait({})
            return await self._request(texts, purpose, {})
        sizes = [self._size(text) for text in texts]
        runs = split(sizes, items=self.items, tokens=self.tokens)

        async def ask(run: slice) -> Embedded:
            costs = self._costs(inputs=run.stop - run.start, tokens=sum(sizes[run]))
            await self._wait(costs)
            return await self._request(texts[run], purpose, costs)

        return await (ask(runs[0]) if len(runs) == 1 else call_in_parts(runs, ask))

    def _size(self, text: str) -> int:
        """Return the tokens of a text; an estimate if tokens are not limited."""
        return self.bill(text, self.count(text)) if "tokens" in self._limits else estimate_tokens(text)

    def _costs(self, **amounts: int) -> dict[str, float]:
        """Return the cost of one request in seconds of room."""
        amounts = {"requests": 1, **amounts}
        return {unit: amounts[unit] * MINUTE / limit for unit, limit in self._limits.items()}

    async def _wait(self, costs: Mapping[str, float]) -> None:
        """Wait for this call's turn, then for room."""
        longest = max(costs.values(), default=0.0)
        self._queued += longest
        waited = 0.0
        try:
            # Only the first in line asks for room, so that small calls never starve a large one.
            async with self._turn:
                while (wait := await self._buckets.take(self._name, costs)) > 0:
                    self._refuse(waited + wait)
                    waited += wait
                    await self._sleep(wait)
        finally:
            self._queued -= longest
        if waited:
            telemetry.reached(telemetry.LIMITED, name=self._label, seconds=waited)

    def _refuse(self, wait: float) -> None:
        if self._patience is not None and wait > self._patience:
            raise TooMany(
                f"the rate limit of {self._label} leaves no room for {wait:.0f} s, and a call waits for at most "
                f"{self._patience:g} s; send less, or have the provider raise the limit",
                retry_after=wait,
            )

    async def _request(self, texts: Sequence[str], purpose: Purpose, costs: Mapping[str, float]) -> Embedded:
        try:
            answer = await self._embedder.embed(texts, purpose=purpose)
        except Transient as error:
            pause = PAUSE if isinstance(error, TooMany) else 0.0
            if error.retry_after is not None:
                pause = min(error.retry_after, MAX_PAUSE)
            if pause:
                await self._buckets.settle(self._name, {}, pause=pause)
            raise
        # The provider's own count decides how much room is left; ours may have been an estimate.
        if "tokens" in costs and answer.tokens:
            more = answer.tokens * MINUTE / self._limits["tokens"] - costs["tokens"]
            if more:
                await self._buckets.settle(self._name, {"tokens": more})
        return answer
