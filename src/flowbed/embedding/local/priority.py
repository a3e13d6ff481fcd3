"""Background work: it yields the CPU to interactive requests."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# The lowest priority on Linux (sched(7)): beside a normal thread it gets a seventieth of a core.
LOWEST_PRIORITY = 19

# Whether the current call is background work. In a context variable, so that wrappers need not pass it on.
BACKGROUND: ContextVar[bool] = ContextVar("background", default=False)


@contextmanager
def background() -> Iterator[None]:
    """Mark the embedder calls inside the block as background work."""
    token = BACKGROUND.set(True)
    try:
        yield
    finally:
        BACKGROUND.reset(token)


def lower_thread_priority() -> None:
    """Give the calling thread the lowest priority; on systems other than Linux do nothing."""
    if sys.platform == "linux":
        with suppress(OSError):  # forbidden in some containers: then it only competes with others
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
