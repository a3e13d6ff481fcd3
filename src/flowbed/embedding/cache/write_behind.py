"""A tier that is slow for each call, made fit for many small ones: they are joined, and nobody waits for a write."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING

from flowbed.embedding.cache.tiers import Clearable
from flowbed.embedding.wrappers import copy_error
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.embedding.cache.tiers import VectorTier

# Bytes that may wait to be written; whoever brings more waits with them, so that memory is bounded.
MAX_PENDING = 64 * 2**20
# Seconds in which vectors gather before they are written: a transaction on disk costs as much as some hundred rows.
DELAY = 0.05


class WriteBehind:
    """A tier in front of another: reads that come while one is under way go together into the next, as writes do.

    What waits to be written is found like what was. A process that is killed loses it: for whoever fills an index and
    must not pay twice this is the wrong tier, for a server that answers requests the right one. Used from one event
    loop; `aclose` writes what is left.
    """

    def __init__(self, tier: VectorTier, *, limit: int = MAX_PENDING, delay: float = DELAY) -> None:
        """Stand in front of `tier`, with at limit `most` bytes that wait, each for `gathering` seconds."""
        self.name = type(tier).__name__
        self._tier = tier
        self._limit = limit
        self._delay = delay
        self._pending: dict[bytes, bytes] = {}
        self._writing: Mapping[bytes, bytes] = {}
        self._bytes = 0
        self._writer: asyncio.Task[None] | None = None
        # Who waits for the next reading, each with its own keys, so that one who leaves takes nobody's answer along.
        self._readers: dict[asyncio.Future[Mapping[bytes, bytes]], Sequence[bytes]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look keys up; those that are not kept are missing from the answer.

        Raises:
            Transient, OutOfSpace, Misconfigured: as the tier behind does.
        """
        found: dict[bytes, bytes] = {}
        left: list[bytes] = []
        for key in keys:
            value = self._pending.get(key) or self._writing.get(key)
            if value is None:
                left.append(key)
            else:
                found[key] = value
        if left:
            found |= await self._read(left)
        return found

    async def put_many(self, vectors: Mapping[bytes, bytes]) -> None:
        """Have vectors written soon; a write that fails is told in a warning, and they are not kept."""
        # What is put once more counts twice until it is written, which errs on the safe side.
        self._bytes += sum(map(len, vectors.values()))
        self._pending.update(vectors)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_on())
        if self._bytes > self._limit:
            await asyncio.wait([self._writer])

    async def clear(self) -> None:
        """Drop everything that the tier behind can drop.

        Raises:
            Transient, OutOfSpace, Misconfigured: as the tier behind does.
        """
        await self.aclose()
        if isinstance(self._tier, Clearable):
            await self._tier.clear()

    async def aclose(self) -> None:
        """Wait until everything is written."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def _read(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        answer: asyncio.Future[Mapping[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._readers[answer] = keys
        if self._reader is None:
            self._reader = asyncio.create_task(self._read_on())
        return await answer

    async def _read_on(self) -> None:
        try:
            while self._readers:
                readers, self._readers = self._readers, {}
                await self._answer(readers)
        finally:
            self._reader = None

    async def _answer(self, readers: Mapping[asyncio.Future[Mapping[bytes, bytes]], Sequence[bytes]]) -> None:
        """Read what several ask for at once, and hand each its own."""
        failure: Exception | None = None
        found: Mapping[bytes, bytes] = {}
        try:
            found = await self._tier.get_many(list(dict.fromkeys(chain.from_iterable(readers.values()))))
        except Exception as error:  # noqa: BLE001 - it is for those who asked
            failure = error
        for answer, keys in readers.items():
            if answer.done():  # whoever asked has left
                continue
            if failure is None:
                answer.set_result({key: found[key] for key in keys if key in found})
            else:
                answer.set_exception(copy_error(failure))

    async def _write_on(self) -> None:
        try:
            while self._pending:
                await asyncio.sleep(self._delay)
                self._writing, self._pending = self._pending, {}
                try:
                    await self._tier.put_many(self._writing)
                except Exception as error:  # noqa: BLE001 - whatever a tier raises, answers are given without it
                    log.warning("%d vectors are not kept: %s", len(self._writing), error)
                self._bytes -= sum(map(len, self._writing.values()))
        finally:
            self._writing = {}
            self._bytes = sum(map(len, self._pending.values()))
            self._writer = None
