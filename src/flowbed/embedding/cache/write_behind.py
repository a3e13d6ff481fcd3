"""Makes a slow tier fit for many small calls: reads and writes are batched, and callers do not wait for a write."""

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

# Bytes that may wait to be written; callers beyond that wait, so that memory is bounded.
MAX_PENDING = 64 * 2**20
# Seconds in which vectors are collected before a write: a transaction on disk costs as much as some hundred rows.
DELAY = 0.05


class WriteBehind:
    """A tier around another: reads that arrive during one go together into the next, and so do writes.

    Pending writes are found like stored ones. A process that is killed loses them: fine for a server that answers
    requests, wrong for a run that fills an index and must not pay twice. Used from one event loop; `aclose` writes what
    is left.
    """

    def __init__(self, tier: VectorTier, *, limit: int = MAX_PENDING, delay: float = DELAY) -> None:
        """Wrap `tier`; at most `limit` bytes are pending, each for about `delay` seconds."""
        self.name = type(tier).__name__
        self._tier = tier
        self._limit = limit
        self._delay = delay
        self._pending: dict[bytes, bytes] = {}
        self._writing: Mapping[bytes, bytes] = {}
        self._bytes = 0
        self._writer: asyncio.Task[None] | None = None
        # The callers that wait for the next read, each with its keys, so that one who leaves cancels no other.
        self._readers: dict[asyncio.Future[Mapping[bytes, bytes]], Sequence[bytes]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look keys up; unknown keys are missing from the result.

        Raises:
            Transient, OutOfSpace, Misconfigured: as the inner tier does.
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
        """Write vectors soon; a failed write becomes a warning, and they are lost."""
        # A key that is put twice counts twice until it is written, which errs on the safe side.
        self._bytes += sum(map(len, vectors.values()))
        self._pending.update(vectors)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_on())
        if self._bytes > self._limit:
            await asyncio.wait([self._writer])

    async def clear(self) -> None:
        """Drop everything that the inner tier can drop.

        Raises:
            Transient, OutOfSpace, Misconfigured: as the inner tier does.
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
        """Read the keys of several callers at once, and give each its own."""
        failure: Exception | None = None
        found: Mapping[bytes, bytes] = {}
        try:
            found = await self._tier.get_many(list(dict.fromkeys(chain.from_iterable(readers.values()))))
        except Exception as error:  # noqa: BLE001 - raised in the callers
            failure = error
        for answer, keys in readers.items():
            if answer.done():  # the caller has left
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
                except Exception as error:  # noqa: BLE001 - requests are answered without the tier
                    log.warning("%d vectors could not be cached: %s", len(self._writing), error)
                self._bytes -= sum(map(len, self._writing.values()))
        finally:
            self._writing = {}
            self._bytes = sum(map(len, self._pending.values()))
            self._writer = None
