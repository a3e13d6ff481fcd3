"""The background of a server that works on vector stores."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Self

from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.services.vector_stores.processing import StoreProcessing

# Seconds between two searches for stores that other processes changed.
LOOK_SECONDS = 1.0
# Stores that one process works on at a time.
AT_ONCE = 4
# Seconds before a store whose work failed is tried again, doubled each time.
RETRY, RETRY_MOST = 1.0, 60.0


class StoreWorker:
    """A context in which vector stores are worked on, sharing them with other processes."""

    def __init__(
        self,
        processing: StoreProcessing,
        changed: asyncio.Event,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look for work when `changed` is set, and every second."""
        self._processing, self._changed, self._monotonic = processing, changed, monotonic
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, tuple[int, float]] = {}  # how often work failed, and when to try again
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start."""
        self._looking = asyncio.create_task(self._keep_looking(), name="vector stores")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; another process, or the next start, continues."""
        tasks = [each for each in (self._looking, *self._running.values()) if each is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self) -> None:
        """Begin to work on stores in free places."""
        now = self._monotonic()
        for store in await self._processing.due():
            if len(self._running) >= AT_ONCE:
                return
            if store not in self._running and self._failures.get(store, (0, now))[1] <= now:
                self._running[store] = asyncio.create_task(self._work(store), name=store)

    async def _keep_looking(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - the next search may succeed
                log.warning("cannot search for work of vector stores, will try again: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()

    async def _work(self, store: str) -> None:
        try:
            done = await self._processing.process(store)
        except Exception as error:  # noqa: BLE001 - other stores continue, and this one is tried again
            done = False
            log.warning("work on vector store %s failed, will try again: %s", store, error)
        finally:
            self._running.pop(store, None)
        if done:
            self._failures.pop(store, None)
            self._changed.set()  # a place is free
            return
        failures = self._failures.get(store, (0, 0.0))[0] + 1
        self._failures[store] = (
            failures,
            self._monotonic() + min(RETRY_MOST, RETRY * 2 ** min(failures - 1, 10)),
        )
