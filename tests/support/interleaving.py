"""Work of several actors, interleaved to order: each stops at named points, where others can go on before it does.

Every actor is a thread with an event loop of its own, as a process would have, and only one of them is ever under way:
the same orders give the same history. An actor that is killed does not go on, nor clean up, before `unwind`.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from flowbed import telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

PATIENCE = 120.0  # seconds: an actor that neither stops nor ends for so long hangs

_acting: ContextVar[Actor | None] = ContextVar("acting", default=None)  # threads of Lance's work inherit it


class Unwound(BaseException):
    """Ends what an actor was about, once its history is over."""


class Actor:
    """One piece of work, begun by the first `proceed`."""

    def __init__(self, name: str, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Prepare the work that `work` makes."""
        self.name = name
        self.point = ""  # where it stands
        self.done = False
        self.error: BaseException | None = None
        self._work = work
        self._stop, self._times = "", 0
        self._unwinding = False
        self._go, self._turn = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._act, name=name, daemon=True)

    def proceed(self, stop: str = "", times: int = 1) -> None:
        """Go on until the point `stop` is passed for the `times`-th time from here, or to the end; blocks meanwhile."""
        self._stop, self._times = stop, times
        self._resume()

    def unwind(self) -> None:
        """Let the thread end; what it would still do is left undone, as far as its cleaning up allows."""
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
    """Have actors stop at the points of `flowbed.telemetry`; the call that is returned ends that."""
    return telemetry.listen(lambda point, _: reach(point))


def reach(point: str) -> None:
    """Stop here if an actor comes by whose order is to stop at `point`."""
    actor = _acting.get()
    if actor is not None:
        actor._reach(point)
