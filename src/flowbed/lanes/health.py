"""Whether a provider answers other texts while some fail: only then are these texts at fault."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.errors import Error, TooMany, Transient
from flowbed.lanes.budget import Payment
from flowbed.lanes.retries import CONFIRMATIONS, call

if TYPE_CHECKING:
    from flowbed.embedding.cache.cached import Cached
    from flowbed.lanes.budget import Budget

# A text that no provider refuses. It is sent where no other text was answered meanwhile, and ends in digits of the text
# in doubt, so that nothing is ever sent twice.
HARMLESS = "Is this provider up? {}"


@dataclass
class Health:
    """What the requests of some texts tell about their provider; used from one event loop.

    `answered` counts the requests that were, `refused` single texts that were not accepted; `limited` says that it has
    limited the rate of requests.
    """

    answered: int = 0
    refused: int = 0
    limited: bool = False
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _fault: Error | None = None
    _fault_at: int = -1

    def failed(self, error: Transient) -> None:
        """Note the failure of an attempt."""
        self.limited = self.limited or isinstance(error, TooMany)

    async def fault(
        self, since: int, key: str, embedder: Cached, budget: Budget
    ) -> tuple[Error | None, list[int]]:
        """Return the error that any text meets now, and the tokens of the text that was sent to find out.

        None where a request was answered after the first `since`. Where none was, a harmless text decides, which is
        sent once for all requests that fail until the next answer. `key` is a hash of the text in doubt.
        """
        async with self._asking:
            if self.answered > since:
                return None, []
            if self._fault_at == self.answered:
                return self._fault, []
            text = HARMLESS.format(key[:12])
            size = embedder.count(text)
            cost = size * embedder.price / 1e6
            if not budget.reserve([cost]):
                return Transient("the budget does not allow another request"), []
            payment, paid = Payment(budget, [cost]), 0.0
            try:
                # Past the cache, which would keep it.
                # More than once: a connection may end for what was sent before.
                answer = await call([text], embedder.wrapped, payment, CONFIRMATIONS)
            except Error as error:
                self._fault, self._fault_at = error, self.answered
                return error, [size] * payment.lost
            else:
                paid = answer.cost(embedder.price)
                self.answered += 1
                return None, [answer.tokens]
            finally:
                payment.settle(paid)
