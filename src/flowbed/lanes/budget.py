"""A limit on what requests may cost: what is in flight counts before it is sent."""

from __future__ import annotations

from itertools import accumulate
from math import floor, inf, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Dollars that adding up small sums may be off by: less than a token of any model costs.
ROUNDING = 1e-12

# Decimals of an amount of US dollars: as many as prices of a thousand tokens have.
DECIMALS = 4


def dollars(amount: float) -> str:
    """Write an amount of US dollars; a smaller one than four decimals can show, with two figures."""
    decimals = DECIMALS
    if 0 < amount < 10**-DECIMALS:
        decimals = 1 - floor(log10(amount))
    return f"${amount:,.{decimals}f}"


class Budget:
    """What one run may still spend, in US dollars.

    Texts are reserved before they are sent and settled when the answer says what they were billed, so that requests in
    flight at once cannot pass the limit together. Used from one event loop.

    Of what is spent, `perhaps_usd` was reserved for requests that were sent and brought nothing: a provider may bill
    them.
    """

    def __init__(self, limit_usd: float = inf) -> None:
        """Begin with nothing spent."""
        self.limit_usd = limit_usd
        self.spent_usd = 0.0
        self.perhaps_usd = 0.0
        self.exhausted = False
        self._in_flight = 0.0

    def reserve(self, costs: Sequence[float]) -> int:
        """Reserve as many texts from the first on as still fit, each at its cost, and return how many."""
        if self.exhausted:
            return 0
        left = self.limit_usd - self.spent_usd - self._in_flight + ROUNDING
        sums = [each for each in accumulate(costs) if each <= left]
        if len(sums) < len(costs):
            # Later requests are of longer texts: letting a short one slip in would only blur where the run stopped.
            self.exhausted = True
        self._in_flight += sums[-1] if sums else 0.0
        return len(sums)

    def spend(self, cost: float) -> bool:
        """Spend what a text will cost that is handed in now and billed later; False where it does not fit any more."""
        if not self.reserve([cost]):
            return False
        self.settle(cost, cost)
        return True

    def settle(self, reserved: float, billed: float) -> None:
        """Put what was billed in the place of what was reserved for it."""
        self._in_flight = max(0.0, self._in_flight - reserved)
        self.spent_usd += billed

    def lose(self, reserved: float) -> None:
        """Spend what was reserved for a request that was sent, and brought nothing."""
        self.settle(reserved, reserved)
        self.perhaps_usd += reserved


class Payment:
    """What the texts of one request are paid with, however often it is sent; reserved when it is made.

    `lost` counts how often the texts were sent for nothing; `refused` says that there was no money for sending them
    once more.
    """

    def __init__(self, budget: Budget, costs: Sequence[float]) -> None:
        """Take the costs of texts, all of which are reserved in `budget`."""
        self._budget, self._costs = budget, costs
        self._reserved, self._sent = True, False
        self.lost = 0
        self.refused = False

    def send(self) -> None:
        """Note that the texts are being sent."""
        self._sent = True

    def lose(self) -> None:
        """Count what was sent as billed, though nothing came of it."""
        if self._sent:
            self._budget.lose(sum(self._costs))
            self._reserved = self._sent = False
            self.lost += 1

    def reserve(self) -> bool:
        """Reserve the texts once more, unless they are; False where they do not all fit any more."""
        if not self._reserved:
            fitting = self._budget.reserve(self._costs)
            self._reserved = fitting == len(self._costs)
            self.refused = not self._reserved
            if self.refused:
                self._budget.settle(sum(self._costs[:fitting]), 0.0)
        return self._reserved

    def allow_resend(self) -> bool:
        """Count what was sent as billed, and pay for sending it once more, at once; False where there is no money."""
        self.lose()
        self._sent = self.reserve()
        return self._sent

    def settle(self, billed: float) -> None:
        """Put what was billed in the place of what is reserved."""
        if self._reserved:
            self._budget.settle(sum(self._costs), billed)
            self._reserved = self._sent = False
