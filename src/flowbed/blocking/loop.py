"""An open project on an event loop in a background thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from flowbed.bed import aopen
from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from flowbed.bed import Flowbed

Answer = TypeVar("Answer")

# Time for interrupted work to release its claims, in seconds; after it the interrupt is raised all the same.
RELEASE_WITHIN = 10


class Loop:
    """An open project, and how its calls are run to their end."""

    def __init__(self, folder: Path) -> None:
        """Open the project; use `flowbed.open`."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="flowbed", daemon=True)
        self._thread.start()
        try:
            self._bed = self._wait(_opened(folder))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        """Return the project; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the project."""
        self.close()

    def close(self) -> None:
        """Close files, databases and the thread. Closing twice is allowed."""
        if not self._loop.is_closed():
            try:
                self._wait(self._bed.close())
            finally:
                self._stop()

    def _wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        if self._loop.is_closed():
            work.close()
            raise Rejected("this project is closed; open it again with flowbed.open()")
        tasks: list[asyncio.Task[Answer]] = []

        async def watched() -> Answer:
            tasks.append(asyncio.ensure_future(work))
            return await tasks[0]

        future = asyncio.run_coroutine_threadsafe(watched(), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            # Let the work release its claims first. The caller gets the interrupt, however the work ends.
            for task in tasks:
                self._loop.call_soon_threadsafe(task.cancel)
            with contextlib.suppress(BaseException):
                future.result(timeout=RELEASE_WITHIN)
            raise

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _opened(folder: Path) -> Flowbed:
    return await aopen(folder)
