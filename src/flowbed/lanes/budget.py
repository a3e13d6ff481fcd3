"""A limit on the cost of requests: requests in flight count before they are sent."""

from __future__ import annotations

from itertools import accumulate
from math import floor, inf, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Dollars that a sum of small amounts may be off by: less than a token of any model costs.
ROUNDING = 1e-12

# Decimals of an amount of US dollars: as many as the prices of a thousand tokens have.
DECIMALS = 4


def dollars(amount: float) -> str:
    """Format an amount of US dollars; one too small for four decimals has two significant digits."""
    decimals = DECIMALS
    if 0 < amount < 10**-DECIMALS:
        decimals = 1 - floor(log10(amount))
    return f"${amount:,.{decimals}f}"


class Budget:
    """What one run may still spend, in US dollars.

    The cost of texts is reserved before they are sent and settled when the response says what was billed, so that
    concurrent requests cannot exceed the limit together. Used from one event loop.

    `perhaps_usd` is the part of the spending that was reserved for requests without a response: a provider may bill
    them.
    """

    def __init__(self, limit_usd: float = inf) -> None:
        """Start with nothing spent."""
        self.limit_usd = limit_usd
        self.spent_usd = 0.0
        self.perhaps_usd = 0.0
        self.exhausted = False
        self._in_flight = 0.0

    def reserve(self, costs: Sequence[float]) -> int:
        """Reserve as many texts as fit, from the first on, each at its cost, and return their number."""
        if self.exhausted:
            return 0
        left = self.limit_usd - self.spent_usd - self._in_flight + ROUNDING
        sums = [each for each in accumulate(costs) if each <= left]
        if len(sums) < len(costs):
            # Later requests are of longer texts: admitting a short one would only blur where the run stopped.
            self.exhausted = True
        self._in_flight += sums[-1] if sums else 0.0
        return len(sums)

    def spend(self, cost: float) -> bool:
        """Spend the cost of a text that is submitted now and billed later; False where it does not fit."""
        if not self.reserve([cost]):
            return False
        self.settle(cost, cost)
        return True

    def settle(self, reserved: float, billed: float) -> None:
        """Replace a reserved amount by what was billed."""
        self._in_flight = max(0.0, self._in_flight - reserved)
        self.spent_usd += billed

    def lose(self, reserved: float) -> None:
        """Spend the amount reserved for a request that brought no response."""
        self.settle(reserved, reserved)
        self.perhaps_usd += reserved


class Payment:
    """The payment for the texts of one request, however often it is sent.

    `lost` counts how often the texts were sent without a response; `refused` says that the budget did not allow sending
    them once more.
    """

    def __init__(self, budget: Budget, costs: Sequence[float]) -> None:
        """Take the costs of the texts, all of which are reserved in `budget`."""
        self._budget, self._costs = budget, costs
        self._reserved, self._sent = True, False
        self.lost = 0
        self.refused = False

    def send(self) -> None:
        """Record that the texts are being sent."""
        self._sent = True

    def lose(self) -> None:
        """Count a request without a response as billed."""
        if self._sent:
            self._budget.lose(sum(self._costs))
            self._reserved = self._sent = False
            self.lost += 1

    def reserve(self) -> bool:
        """Reserve the texts again, unless they are reserved; False where they do not all fit."""
        if not self._reserved:
            fitting = self._budget.reserve(self._costs)
            self._reserved = fitting == len(self._costs)
            self.refused = not self._reserved
            if self.refused:
                self._budget.settle(sum(self._costs[:fitting]), 0.0)
        return self._reserved

    def allow_resend(self) -> bool:
        """Count the request as billed, and pay for sending it again; False where the budget does not allow that."""
        self.lose()
        self._sent = self.reserve()
        return self._sent

    def settle(self, billed: float) -> None:
        """Replace the reserved amount by what was billed."""
        if self._reserved:
            self._budget.settle(sum(self._costs), billed)
            self._reserved = self._sent = False
