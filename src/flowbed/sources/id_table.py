"""Where each id of a source was first met, in few bytes: any two of millions can be told apart."""

from __future__ import annotations

from array import array

_SLOTS = 1_024  # to begin with; doubled whenever two thirds are taken


class Places:
    """Ids, each with a number that says where it was first met, in about 35 bytes.

    An id is known by two of Python's hashes, 128 bits in all: of a billion ids, no two are likely to share them.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._hashes = array("q")
        self._others = array("q")
        self._places = array("Q")
        self._slots = array("I", [0]) * _SLOTS  # which id lies here, counted from 1; 0 where none does
        self._mask = _SLOTS - 1
        self._most = _SLOTS * 2 // 3

    def first(self, name: str, place: int) -> int:
        """Tell where an id was first met: at `place`, if it was not met before."""
        key, other = hash(name), hash("#" + name)
        slots, mask = self._slots, self._mask
        slot = key & mask
        while number := slots[slot]:
            if self._hashes[number - 1] == key and self._others[number - 1] == other:
                return self._places[number - 1]
            slot = (slot + 1) & mask
        self._hashes.append(key)
        self._others.append(other)
        self._places.append(place)
        slots[slot] = count = len(self._hashes)
        if count > self._most:
            self._grow()
        return place

    def _grow(self) -> None:
        slots = array("I", [0]) * (2 * len(self._slots))
        mask = len(slots) - 1
        for number, key in enumerate(self._hashes, start=1):
            slot = key & mask
            while slots[slot]:
                slot = (slot + 1) & mask
            slots[slot] = number
        self._slots, self._mask, self._most = slots, mask, len(slots) * 2 // 3
