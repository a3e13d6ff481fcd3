"""The embeddings that a key may have in a day: leased from the ledger in blocks, so that servers share them exactly."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.ledger import Quotas

# A server leases this share of what is left of a key's day, or what a request needs if that is more. What a killed
# server had not spent of its block counts as used until midnight.
BLOCK = 16
# Seconds after which a block that nobody uses is given back, so that other servers can grant it.
IDLE_SECONDS = 5.0


@dataclass
class _Block:
    """What this server has of a key's day: `free` is leased and not spent, `total` was leased by all servers."""

    day: str
    free: int = 0
    total: int = 0
    used_at: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class EmbeddingQuota:
    """The blocks of one server; for one event loop."""

    def __init__(self, rows: Quotas, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Lease from the ledger's quotas; `monotonic` returns seconds."""
        self._rows, self._monotonic = rows, monotonic
        self._blocks: dict[str, _Block] = {}

    async def take(self, key: str, day: str, wanted: int, *, least: int, most: int) -> int:
        """Take `wanted` embeddings of a key's `most` a day, or at least `least`; return how many, 0 if fewer are left.

        Raises:
            Transient: the ledger cannot be reached.
        """
        block = self._block(key, day)
        async with block.lock:  # concurrent requests lease once
            block.used_at = self._monotonic()
            if block.free < wanted:
                await self._lease(block, key, wanted, least=least, most=most)
            granted = min(block.free, wanted)
            if granted < least:
                return 0
            block.free -= granted
            return granted

    def give_back(self, key: str, day: str, unspent: int) -> None:
        """Return embeddings that were taken and not made: this server grants them to others."""
        block = self._blocks.get(key)
        if block is not None and block.day == day:
            block.free += unspent

    def left(self, key: str, day: str, most: int) -> int:
        """Return how many a key has left, as far as this server knows."""
        block = self._blocks.get(key)
        return most if block is None or block.day != day else max(0, most - block.total + block.free)

    async def release(self, *, idle: float = IDLE_SECONDS) -> None:
        """Give blocks back that were not used for some seconds; if the ledger fails, the next time."""
        now = self._monotonic()
        for key, block in list(self._blocks.items()):
            if not block.free or now - block.used_at < idle or block.lock.locked():
                continue
            async with block.lock:
                unspent, block.free = block.free, 0
                try:
                    await self._rows.give_back(block.day, key, unspent)
                    block.total = max(0, block.total - unspent)
                except Exception as error:  # noqa: BLE001 - it is kept, and given back the next time
                    block.free += unspent
                    log.warning("cannot give back unspent embeddings, will try again: %s", error)

    async def _lease(self, block: _Block, key: str, wanted: int, *, least: int, most: int) -> None:
        remaining = max(0, most - block.total)
        need = wanted - block.free
        taken = await self._rows.take(
            block.day, key, max(need, remaining // BLOCK), least=max(1, least - block.free), most=most
        )
        block.free += taken.granted
        block.total = taken.used

    def _block(self, key: str, day: str) -> _Block:
        """Return the block of a key; what is left of yesterday's is worth nothing."""
        block = self._blocks.get(key)
        if block is None or block.day != day:
            block = self._blocks[key] = _Block(day)
        return block
