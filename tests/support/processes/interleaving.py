"""Several actors whose work is interleaved as ordered: each pauses at named points, where others can go on.

Every actor is a thread with its own event loop, as a process would have, and only one runs at a time, so the same
orders give the same history. A killed actor neither goes on nor cleans up before `unwind`.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from flowbed import telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

PATIENCE = 120.0  # seconds: an actor that neither pauses nor ends within this time hangs

_acting: ContextVar[Actor | None] = ContextVar("acting", default=None)  # inherited by threads that call Lance


class Unwound(BaseException):
    """Ends the work of an actor when its history is over."""


class Actor:
    """One piece of work, started by the first `proceed`."""

    def __init__(self, name: str, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Prepare the coroutine that `work` returns."""
        self.name = name
        self.point = ""  # where it is paused
        self.done = False
        self.error: BaseException | None = None
        self._work = work
        self._stop, self._times = "", 0
        self._unwinding = False
        self._go, self._turn = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._act, name=name, daemon=True)

    def proceed(self, stop: str = "", times: int = 1) -> None:
        """Run until the point `stop` is passed for the `times`-th time, or to the end, and wait for that."""
        self._stop, self._times = stop, times
        self._resume()

    def unwind(self) -> None:
        """End the thread; the rest of its work is not done, as far as its cleanup allows."""
        self._unwinding = True
        if self._thread.ident is not None and not self.done:
            self._resume()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE)

    def _resume(self) -> None:
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()
        if not self._turn.acquire(timeout=PATIENCE):
            raise TimeoutError(f"{self.name} hangs after {self.point or 'its beginning'}")

    def _act(self) -> None:
        _acting.set(self)
        self._go.acquire()
        try:
            asyncio.run(self._work())
        except BaseException as error:  # noqa: BLE001 - whoever ordered the work looks at it
            self.error = error
        finally:
            self.done = True
            self._turn.release()

    def _reach(self, point: str) -> None:
        if self._unwinding:
            raise Unwound
        if point != self._stop:
            return
        self._times -= 1
        if self._times:
            return
        self.point = point
        self._turn.release()
        self._go.acquire()
        if self._unwinding:
            raise Unwound


def listen() -> Callable[[], None]:
    """Pause actors at the points of `flowbed.telemetry`; the returned call ends that."""
    return telemetry.listen(lambda point, _: reach(point))


def reach(point: str) -> None:
    """Pause here if the current actor is ordered to stop at `point`."""
    actor = _acting.get()
    if actor is not None:
        actor._reach(point)
