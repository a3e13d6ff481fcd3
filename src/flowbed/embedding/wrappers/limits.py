"""Rate limits of providers, kept to before they are passed: calls wait until there is room for them.

Room is measured in seconds: a call that needs a tenth of what a minute allows costs 6 s of it. Whoever keeps the
buckets needs to know neither limits nor units, so that processes share them through a few numbers.
"""

from __future__ import annotations

import asyncio
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from flowbed import telemetry
from flowbed.embedding.requests import cut, in_parts
from flowbed.embedding.unicode import require_unicode
from flowbed.embedding.usage import guessed
from flowbed.embedding.wrappers import Wrapper
from flowbed.errors import Error, TooMany, Transient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from flowbed.embedding import Embedder, Rates
    from flowbed.records import Embedded, Purpose

MINUTE = 60.0

# Seconds of room that a key which was quiet may use at once. OpenAI holds keys to the share of a second now and then;
# half of one leaves as much for what the network bunches together, and makes up for wakers that come late.
BURST = 0.5

# The part of a minute's tokens and inputs that one request may carry: larger ones would make the others wait for long.
PART = 4

# Seconds to wait where a provider says "too many requests" and not for how long.
PAUSE = 1.0

# The longest that others wait because a provider told one call to: what it says beyond that is for that call alone.
PAUSE_MOST = 120.0

# Seconds for which shared buckets that failed are left alone.
APART = 10.0


class Buckets(Protocol):
    """Where the room of keys is kept. Costs are seconds of room, by unit (requests, inputs, tokens)."""

    async def take(self, name: str, costs: Mapping[str, float]) -> float:
        """Take `costs` from the room of `name` and return 0, or take nothing and return the seconds to wait.

        There is room where what was taken before has been made up for, whatever is to be taken: a large call then waits
        no longer than a small one, and the one after it waits for what it took.
        """
        ...

    async def settle(self, name: str, costs: Mapping[str, float], *, pause: float = 0.0) -> None:
        """Take more, or less than nothing, from the room of `name`, and let nobody take any for `pause` seconds."""
        ...


class MemoryBuckets:
    """The room of keys that only this process uses."""

    def __init__(self, *, burst: float = BURST, clock: Callable[[], float] = time.monotonic) -> None:
        """Let a key that was quiet use `burst` seconds of room at once; `clock` gives seconds."""
        self._burst = burst
        self._clock = clock
        # When everything that was taken will have been made up for: all that a bucket needs to know.
        self._full: dict[tuple[str, str], float] = {}
        self._paused: dict[str, float] = {}

    async def take(self, name: str, costs: Mapping[str, float]) -> float:
        """Take room, or say how long until there is some."""
        now = self._clock()
        wait = self._paused.get(name, now) - now
        for unit in costs:
            wait = max(wait, self._full.get((name, unit), now) - now - self._burst)
        if wait > 0:
            return wait
        for unit, cost in costs.items():
            self._full[name, unit] = max(now, self._full.get((name, unit), now)) + cost
        return 0.0

    async def settle(self, name: str, costs: Mapping[str, float], *, pause: float = 0.0) -> None:
        """Correct what was taken."""
        now = self._clock()
        for unit, cost in costs.items():
            self._full[name, unit] = max(now, self._full.get((name, unit), now)) + cost
        if pause > 0:
            self._paused[name] = max(self._paused.get(name, now), now + pause)


class SharedBuckets:
    """Buckets that processes share, and those of this process alone while the shared ones fail."""

    def __init__(self, shared: Buckets, own: Buckets, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Use `own` for some seconds after `shared` failed; `clock` gives seconds."""
        self._shared = shared
        self._own = own
        self._clock = clock
        self._apart_until = float("-inf")

    async def take(self, name: str, costs: Mapping[str, float]) -> float:
        """Take room where it is kept now."""
        if self._clock() >= self._apart_until:
            try:
                return await self._shared.take(name, costs)
            except Error as error:
                self._leave(error)
        return await self._own.take(name, costs)

    async def settle(self, name: str, costs: Mapping[str, float], *, pause: float = 0.0) -> None:
        """Correct what was taken, where room is kept now."""
        if self._clock() >= self._apart_until:
            try:
                await self._shared.settle(name, costs, pause=pause)
            except Error as error:
                self._leave(error)
            else:
                costs = {}
        # A pause is known here too, in case the shared buckets fail during it.
        await self._own.settle(name, costs, pause=pause)

    def _leave(self, error: Error) -> None:
        self._apart_until = self._clock() + APART
        telemetry.log.warning("rate limits are kept by this process alone for %d s: %s", APART, error)


class Limited(Wrapper):
    """An embedder whose calls wait for room under the provider's limits, first come, first served.

    Larger calls are cut into requests that fit the limits. What a provider says in `retry_after` holds for all that use
    the name. Used from one event loop.
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
        """Keep to `rates` together with all others that give the same `name`, which `bucket_name` makes.

        A call that would wait for more than `patience` seconds is refused at once; without, it waits for as long as it
        takes.
        """
        super().__init__(embedder)
        limits = {"requests": rates.requests, "inputs": rates.inputs, "tokens": rates.tokens}
        self._limits = {unit: limit for unit, limit in limits.items() if limit is not None}
        self.items = min(self.items, max(1, self._limits.get("inputs", PART * self.items) // PART))
        self.tokens = min(self.tokens, max(1, self._limits.get("tokens", PART * self.tokens) // PART))
        self._buckets = buckets
        self._name = name
        self._shown = name.partition(":")[0]  # what stands behind it is made of a key, and for nobody to see
        self._patience = patience
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._ahead = 0.0  # seconds of room that waiting calls will take

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none, when there is room.

        Raises:
            TooMany: it would take longer than the patience allows; `retry_after` says for how long.
            Transient, Rejected, Misconfigured: as the embedder does.
        """
        require_unicode(texts)
        if not texts:
            return await self._embedder.embed(texts, purpose=purpose)
        self._refuse(self._ahead)
        if not self._limits:
            # Sent whole, once that others were not told to wait.
            await self._wait({})
            return await self._ask(texts, purpose, {})
        sizes = [self._size(text) for text in texts]
        runs = cut(sizes, items=self.items, tokens=self.tokens)

        async def ask(run: slice) -> Embedded:
            costs = self._costs(inputs=run.stop - run.start, tokens=sum(sizes[run]))
            await self._wait(costs)
            return await self._ask(texts[run], purpose, costs)

        return await (ask(runs[0]) if len(runs) == 1 else in_parts(runs, ask))

    def _size(self, text: str) -> int:
        """Tell the tokens of a text, exactly where they count."""
        return self.bill(text, self.count(text)) if "tokens" in self._limits else guessed(text)

    def _costs(self, **amounts: int) -> dict[str, float]:
        """Tell what one request takes, in seconds of room."""
        amounts = {"requests": 1, **amounts}
        return {unit: amounts[unit] * MINUTE / limit for unit, limit in self._limits.items()}

    async def _wait(self, costs: Mapping[str, float]) -> None:
        """Wait for this call's turn, and then for room."""
        longest = max(costs.values(), default=0.0)
        self._ahead += longest
        waited = 0.0
        try:
            # Only the first in the line asks for room, so that no call is overtaken by smaller ones for ever.
            async with self._turn:
                while (wait := await self._buckets.take(self._name, costs)) > 0:
                    self._refuse(waited + wait)
                    waited += wait
                    await self._sleep(wait)
        finally:
            self._ahead -= longest
        if waited:
            telemetry.reached(telemetry.LIMITED, name=self._shown, seconds=waited)

    def _refuse(self, wait: float) -> None:
        if self._patience is not None and wait > self._patience:
            raise TooMany(
                f"the rate limit of {self._shown} leaves no room for {wait:.0f} s, and a call waits for at most "
                f"{self._patience:g} s; ask less often, or have the provider raise the limit",
                retry_after=wait,
            )

    async def _ask(self, texts: Sequence[str], purpose: Purpose, costs: Mapping[str, float]) -> Embedded:
        try:
            answer = await self._embedder.embed(texts, purpose=purpose)
        except Transient as error:
            pause = PAUSE if isinstance(error, TooMany) else 0.0
            if error.retry_after is not None:
                pause = min(error.retry_after, PAUSE_MOST)
            if pause:
                await self._buckets.settle(self._name, {}, pause=pause)
            raise
        # The provider's own count decides how much room is left; ours may have been a guess.
        if "tokens" in costs and answer.tokens:
            more = answer.tokens * MINUTE / self._limits["tokens"] - costs["tokens"]
            if more:
                await self._buckets.settle(self._name, {"tokens": more})
        return answer


def bucket_name(provider: str, key: str) -> str:
    """Name the buckets of one provider and API key, which cannot be read out of the name."""
    return f"{provider}:{sha256(key.encode()).hexdigest()[:16]}"
