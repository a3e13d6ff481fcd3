"""The memory tier of the vector cache."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cachetools import TTLCache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Bytes of an entry besides its floats: the key, two object headers, and the links of two orders.
OVERHEAD = 400


class VectorMemory:
    """Vectors in this process's memory, least recently used out first; used from one event loop."""

    def __init__(self, *, limit: int, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Store at most `limit` bytes, each vector for at most `ttl` seconds; `clock` returns seconds."""
        self._kept: TTLCache[bytes, bytes] = TTLCache(
            maxsize=limit, ttl=ttl, timer=clock, getsizeof=lambda vector: len(vector) + OVERHEAD
        )
        self._limit = limit

    @property
    def size(self) -> tuple[int, int]:
        """The number of vectors, and their bytes."""
        return len(self._kept), int(self._kept.currsize)

    def find(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look keys up without waiting; unknown keys are missing from the result."""
        if not self._kept:
            return {}  # a new run looks up millions of keys in an empty cache
        looked = ((key, self._kept.get(key)) for key in keys)
        return {key: vector for key, vector in looked if vector is not None}

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look keys up; unknown keys are missing from the result."""
        return self.find(keys)

    async def put_many(self, vectors: Mapping[bytes, bytes]) -> None:
        """Store vectors, except any that is larger than the whole limit."""
        for key, vector in vectors.items():
            if len(vector) + OVERHEAD <= self._limit:
                self._kept[key] = vector

    async def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()
