"""An event loop whose time passes only while every task waits, and then at once: hours of waiting take no time."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in virtual time, which `asyncio.get_running_loop().time` returns, starting at 0.

    Raises:
        AssertionError: all tasks wait for each other.
    """
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)


class _Selector(selectors.DefaultSelector):
    """A selector that advances the clock instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:  # as the selector of the platform
        events = super().select(0)
        if not events:
            # Only the loop's own threads and sockets could end this, and no clock.
            assert timeout is not None, "deadlock: every task waits, and none for time to pass"
            self.now += max(0.0, timeout)
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._passing = _Selector()
        super().__init__(self._passing)

    def time(self) -> float:
        return self._passing.now
