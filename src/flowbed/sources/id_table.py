"""A compact table of where each id of a source was first seen, for millions of ids."""

from __future__ import annotations

from array import array

_SLOTS = 1_024  # initial size; doubled whenever two thirds are used


class IdTable:
    """Ids, each with a number that says where it was first seen, in about 35 bytes per id.

    An id is stored as two of Python's hashes, 128 bits in all: among a billion ids, a collision is unlikely.
    """

    def __init__(self) -> None:
        """Create an empty table."""
        self._hashes = array("q")
        self._others = array("q")
        self._places = array("Q")
        self._slots = array("I", [0]) * _SLOTS  # number of the id in each slot, from 1; 0 is free
        self._mask = _SLOTS - 1
        self._most = _SLOTS * 2 // 3

    def first(self, name: str, place: int) -> int:
        """Return where an id was first seen: `place` if it is new."""
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
