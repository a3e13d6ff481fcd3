"""How a process that is Flowbed's own is set up: what a library leaves alone, since it is its user's to say."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import secrets
import socket
import sys
import time

# glibc's name for how many there may be (malloc.h).
M_ARENA_MAX = -8
# New containers after which the youngest are looked through, and rounds after which older ones are. With Python's 700
# and 10, a sixth of the time that finding takes goes to looking through rows that nothing refers back to.
GARBAGE = (100_000, 20, 100)
# Seconds for which a busy thread keeps the interpreter from one that is back from SQLite or Lance. With Python's 5 ms
# a thread that asks a database something five times waits longer than the database takes.
TURN = 0.0005


def set_up() -> None:
    """Set this process up: its heaps, its search for garbage, and the turns of its threads.

    To be called before there are threads.
    """
    share_heaps()
    gc.set_threshold(*GARBAGE)
    sys.setswitchinterval(TURN)


def share_heaps() -> None:
    """Let threads share as many heaps as there are processors, where the C library is glibc; elsewhere do nothing.

    Otherwise glibc makes up to eight times as many. Lance's threads take turns in allocating megabytes, of which each
    heap keeps what was freed: a sixth of all the memory that a long run holds. MALLOC_ARENA_MAX is overruled. To be
    called before there are threads: a heap that is made stays.
    """
    with contextlib.suppress(
        AttributeError, OSError, ValueError
    ):  # a system or C library without these names
        if (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, max(2, os.cpu_count() or 1))


def now() -> int:
    """Tell the time: microseconds since 1970."""
    return time.time_ns() // 1000


def worker() -> str:
    """Name one piece of this process's work so that others here can tell whether it lives: host, pid, start, nonce."""
    import psutil

    process = psutil.Process()
    return f"{socket.gethostname()}/{process.pid}/{process.create_time():.2f}/{secrets.token_hex(4)}"


def dead(name: str) -> bool:
    """Tell whether the process that `worker` named is known to have ended; of another host nothing is known.

    What is no name that `worker` gives is nobody's.
    """
    import psutil

    try:
        host, pid, started, _ = name.rsplit("/", 3)
        number = int(pid)
    except ValueError:
        return True
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(number).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
