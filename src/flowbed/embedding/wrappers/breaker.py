"""A provider that is down is not asked: calls are answered at once, and one is let through after a rest."""

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
    from flowbed.records import Embedded, Purpose

# Failures in a row that open a breaker. Where one call in ten fails by chance, as many happen in a row once in a
# hundred million calls; where every call fails, one group of calls at once is enough.
FAILURES = 8

# Seconds before a provider that is down is asked again; one call in so many seconds is no burden to it.
REST = 15.0

# The longest rest, whatever the provider says: one that comes back early should not be left alone for an hour.
MAX_REST = 300.0

# Seconds to tell callers that come while the one call is under way; most are answered within it.
PROBING = 1.0


class State(StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"  # all do
    OPEN = "open"  # none does
    HALF_OPEN = "half_open"  # one does, and decides


class Breaker:
    """What is known of the health of one provider and model; used from one event loop."""

    def __init__(
        self,
        name: str,
        *,
        failures: int = FAILURES,
        rest: float = REST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open after `failures` in a row, for `rest` seconds or what the provider says; `clock` gives seconds."""
        self.name = name
        self.opened = 0  # times
        self._failures = failures
        self._rest = rest
        self._clock = clock
        self._failed = 0  # calls in a row
        self._until: float | None = None  # None while closed
        self._probing = False
        # Grows with every change, so that a call from before it decides nothing any more.
        self._epoch = 0

    @property
    def state(self) -> State:
        """Whether calls go through now."""
        if self._until is None:
            return State.CLOSED
        return State.HALF_OPEN if self._probing or self._clock() >= self._until else State.OPEN

    def admit(self) -> int:
        """Let a call through; the number returned says later whose outcome it is.

        Raises:
            Unavailable: the provider is down.
        """
        if self._until is None:
            return self._epoch
        left = PROBING if self._probing else self._until - self._clock()
        if left > 0:
            raise Unavailable(
                f"{self.name} is down, and is asked again in {left:.1f} s; try then, or use another provider",
                retry_after=left,
            )
        self._probing = True
        self._epoch += 1
        self._report(State.HALF_OPEN)
        return self._epoch

    def answered(self, call: int) -> None:
        """Note that a call was answered, be it with a refusal: the provider is there."""
        if call != self._epoch:
            return
        self._failed = 0
        if self._until is not None:
            self.reset()

    def failed(self, call: int, *, retry_after: float | None = None) -> None:
        """Note that a call failed; `retry_after` is the provider's own word on when it may be asked again."""
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
        self._report(State.OPEN)

    def abandoned(self, call: int) -> None:
        """Note that a call ended without a word of the provider: where it was to decide, the next one is."""
        if call == self._epoch:
            self._probing = False

    def reset(self) -> None:
        """Let every call through again."""
        self._failed = 0
        self._until = None
        self._probing = False
        self._epoch += 1
        self._report(State.CLOSED)

    def _report(self, state: State) -> None:
        telemetry.reached(telemetry.BREAKER, name=self.name, state=state.value)


class CircuitBreaking(Wrapper):
    """An embedder that is not asked while its breaker is open."""

    def __init__(self, embedder: Embedder, breaker: Breaker) -> None:
        """Put `breaker` in front of `embedder`."""
        super().__init__(embedder)
        self.breaker = breaker

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none.

        Raises:
            Unavailable: at once, while the breaker is open.
            Transient, Rejected, Misconfigured: as the embedder does.
        """
        call = self.breaker.admit()
        try:
            answer = await self._embedder.embed(texts, purpose=purpose)
        except (TooMany, Unavailable):
            # Said on this side, or by one that is up and busy: neither shows that it is down.
            self.breaker.abandoned(call)
            raise
        except Transient as error:
            self.breaker.failed(call, retry_after=error.retry_after)
            raise
        except Error:
            self.breaker.answered(call)
            raise
        except BaseException:  # cancelled most of all: nobody knows what the answer would have been
            self.breaker.abandoned(call)
            raise
        self.breaker.answered(call)
        return answer
