"""A circuit breaker: a provider that is down is not called, until one trial call after a rest succeeds."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING

from flowbed import telemetry
from flowbed.embedding.wrappers import Wrapper
from flowbed.errors import Error, TooMany, Transient, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.embedding import Embedder
    from flowbed.embedding.wrappers.outages import Outages
    from flowbed.records import Embedded, Purpose

# Failures in a row that open a breaker. If one call in ten fails by chance, as many happen in a row once in a hundred
# million calls; if every call fails, one group of concurrent calls is enough.
FAILURES = 8

# Seconds before the trial call; one call in this time is no burden to a provider.
REST = 15.0

# Longest rest, whatever the provider asks for: one that recovers early should be used within minutes, not an hour.
MAX_REST = 300.0

# The `retry_after` of callers during a trial call; most are answered in less.
PROBING = 1.0


# Seconds between two looks at what other processes know.
LOOK = 1.0


class BreakerState(StrEnum):
    """Which calls pass."""

    CLOSED = "closed"  # all
    OPEN = "open"  # none
    HALF_OPEN = "half_open"  # one, whose outcome decides


class Breaker:
    """The health of one provider and model; used from one event loop."""

    def __init__(
        self,
        name: str,
        *,
        failures: int = FAILURES,
        rest: float = REST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open after `failures` in a row, for `rest` seconds or what the provider asks for; `clock` returns seconds."""
        self.name = name
        self.opened = 0  # times
        self._failures = failures
        self._rest = rest
        self._clock = clock
        self._failed = 0  # calls in a row
        self._until: float | None = None  # None while closed
        self._probing = False
        # Incremented by every change of state, so that the outcome of an older call is ignored.
        self._epoch = 0

    @property
    def state(self) -> BreakerState:
        """The current state."""
        if self._until is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._probing or self._clock() >= self._until else BreakerState.OPEN

    @property
    def left(self) -> float:
        """The seconds until the trial call; 0 while calls pass."""
        return 0.0 if self._until is None else max(0.0, self._until - self._clock())

    def rest(self, seconds: float) -> None:
        """Let no call pass for some seconds: another process has found the provider down."""
        if self._until is None:
            self._until = self._clock() + min(seconds, MAX_REST)
            self._epoch += 1
            self._report(BreakerState.OPEN)

    def admit(self) -> int:
        """Let a call pass, and return the number to report its outcome with.

        Raises:
            Unavailable: the provider is down.
        """
        if self._until is None:
            return self._epoch
        left = PROBING if self._probing else self._until - self._clock()
        if left > 0:
            raise Unavailable(
                f"{self.name} is down, and is called again in {left:.1f} s; retry then, or use another provider",
                retry_after=left,
            )
        self._probing = True
        self._epoch += 1
        self._report(BreakerState.HALF_OPEN)
        return self._epoch

    def answered(self, call: int) -> None:
        """Report that a call was answered, even by a refusal: the provider is up."""
        if call != self._epoch:
            return
        self._failed = 0
        if self._until is not None:
            self.reset()

    def failed(self, call: int, *, retry_after: float | None = None) -> None:
        """Report that a call failed; `retry_after` is the provider's."""
        if call != self._epoch:
            return
        self._failed += 1
        if not self._probing and self._failed < self._failures:
            return
        rest = self._rest if retry_after is None else min(retry_after, MAX_REST)
        self._until = self._clock() + rest
        self._probing = False
        self._epoch += 1
        self.opened += 1
        self._report(BreakerState.OPEN)

    def abandoned(self, call: int) -> None:
        """Report that a call ended without an answer; if it was the trial call, the next one is."""
        if call == self._epoch:
            self._probing = False

    def reset(self) -> None:
        """Let every call pass again."""
        self._failed = 0
        self._until = None
        self._probing = False
        self._epoch += 1
        self._report(BreakerState.CLOSED)

    def _report(self, state: BreakerState) -> None:
        telemetry.reached(telemetry.BREAKER, name=self.name, state=state.value)


class CircuitBreaking(Wrapper):
    """An embedder that is not called while its breaker is open."""

    def __init__(
        self,
        embedder: Embedder,
        breaker: Breaker,
        *,
        outages: Outages | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put `breaker` in front of `embedder`; `outages` are what other processes know, `clock` returns seconds."""
        super().__init__(embedder)
        self.breaker = breaker
        self._outages, self._clock = outages, clock
        self._looked = float("-inf")
        self._known = False  # others know that the provider is down
        self._told = 0  # how many openings of this breaker others were told of

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none.

        Raises:
            Unavailable: at once, while the breaker is open.
            Transient, Rejected, Misconfigured: as the embedder does.
        """
        if self._outages is not None:
            await self._learn(self._outages)
        call = self.breaker.admit()
        try:
            answer = await self._embedder.embed(texts, purpose=purpose)
        except (TooMany, Unavailable):
            # Refused on this side, or by a provider that is up but busy: neither shows that it is down.
            self.breaker.abandoned(call)
            raise
        except Transient as error:
            self.breaker.failed(call, retry_after=error.retry_after)
            if self._outages is not None and self.breaker.opened > self._told:
                self._told, self._known = self.breaker.opened, True
                await self._outages.begin(self.breaker.name, self.breaker.left)
            raise
        except Error:
            self.breaker.answered(call)
            raise
        except BaseException:  # mostly cancellation: the answer is unknown
            self.breaker.abandoned(call)
            raise
        self.breaker.answered(call)
        if self._outages is not None and self._known and not self.breaker.left:
            self._known = False
            await self._outages.end(self.breaker.name)
        return answer

    async def _learn(self, outages: Outages) -> None:
        """Look, at most once a second, whether others have found the provider down; tell them if it was reset here."""
        if self.breaker.state is not BreakerState.CLOSED:
            return
        if self._known:
            self._known = False
            await outages.end(self.breaker.name)
        elif self._clock() - self._looked >= LOOK:
            self._looked = self._clock()
            if left := await outages.left(self.breaker.name):
                self._known = True
                self.breaker.rest(left)
