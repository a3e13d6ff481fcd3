"""Fair shares of what is scarce: places for requests, memory for bodies, connections."""

from __future__ import annotations

# How many times as much as is still free one holder may have: alone it gets three quarters, of two each gets three
# sevenths, and something is always left for the next. Such dynamic thresholds share the buffers of network switches.
GREED = 3


class Shares:
    """Something of which there is a fixed amount, shared among holders: no holder can take all of it.

    Holder "" stands for everyone who cannot be told apart, and gets all that is free.
    """

    __slots__ = ("_held", "free")

    def __init__(self, most: int) -> None:
        """Share `most`."""
        self.free = most
        self._held: dict[str, int] = {}

    def take(self, holder: str, amount: int = 1) -> bool:
        """Take an amount if it is free and within the holder's share; a holder's first unit always is."""
        held = self._held.get(holder, 0)
        if amount > self.free or (holder and held and held + amount > GREED * (self.free - amount)):
            return False
        self.free -= amount
        self._held[holder] = held + amount
        return True

    def give_back(self, holder: str, amount: int = 1) -> None:
        """Return what was taken."""
        self.free += amount
        left = self._held[holder] - amount
        if left:
            self._held[holder] = left
        else:
            del self._held[holder]


class Addresses:
    """The number of connections from each address, each up to `most`."""

    def __init__(self, most: int) -> None:
        """Start without connections."""
        self._most = most
        self._open: dict[str, int] = {}

    def enter(self, address: str) -> bool:
        """Count a connection, or refuse it."""
        count = self._open.get(address, 0)
        if count >= self._most:
            return False
        self._open[address] = count + 1
        return True

    def leave(self, address: str) -> None:
        """Forget a connection that was counted."""
        left = self._open[address] - 1
        if left:
            self._open[address] = left
        else:
            del self._open[address]
