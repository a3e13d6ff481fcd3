"""A limit on what requests may cost: what is in flight counts before it is sent."""

from __future__ import annotations

from itertools import accumulate
from math import floor, log10
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
    """

    def __init__(self, limit_usd: float) -> None:
        """Begin with nothing spent."""
        self.limit_usd = limit_usd
        self.spent_usd = 0.0
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
