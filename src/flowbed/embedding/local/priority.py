"""Hurry: what nobody waits for leaves the processors to what somebody does."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# The lowest rank that Linux knows (sched(7)): beside a thread of the usual one it gets a seventieth of a core.
LOWEST_PRIORITY = 19

# Whether the call under way is work that nobody waits for. In a context, since every wrapper would have to hand it on.
BACKGROUND: ContextVar[bool] = ContextVar("background", default=False)


@contextmanager
def background() -> Iterator[None]:
    """Let what is embedded meanwhile be work that nobody waits for."""
    token = BACKGROUND.set(True)
    try:
        yield
    finally:
        BACKGROUND.reset(token)


def lower_thread_priority() -> None:
    """Give the calling thread the lowest rank where threads have one, which is on Linux; elsewhere do nothing."""
    if sys.platform == "linux":
        with suppress(OSError):  # forbidden in some containers: it is slower for others then, and no more
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
