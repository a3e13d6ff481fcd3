"""This process: its clock, the names of its workers, and settings that only a program of Flowbed's own may change."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import secrets
import socket
import sys
import time

from flowbed.settings import sandbox

# The option of glibc's mallopt that limits the number of heaps (malloc.h).
M_ARENA_MAX = -8
# Thresholds of the garbage collector. With Python's (700, 10, 10), a sixth of the time of finding work goes into
# scanning rows that are in no reference cycle.
GARBAGE = (100_000, 20, 100)
# Seconds that a busy thread may keep the interpreter while another is back from SQLite or Lance. With Python's 5 ms, a
# thread that makes five queries waits longer for the interpreter than for the database.
TURN = 0.0005


def set_up() -> None:
    """Configure memory allocation, garbage collection and thread switching; call it before starting threads."""
    share_heaps()
    gc.set_threshold(*GARBAGE)
    sys.setswitchinterval(TURN)


def share_heaps() -> None:
    """Limit glibc to one heap per processor; with another C library, do nothing.

    By default glibc creates up to eight times as many. Lance's threads take turns in allocating megabytes, and each
    heap keeps what was freed: a sixth of the memory of a long run. This overrides MALLOC_ARENA_MAX. Call it before
    starting threads: existing heaps stay.
    """
    with contextlib.suppress(
        AttributeError, OSError, ValueError
    ):  # a system or C library without these names
        if (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, max(2, os.cpu_count() or 1))


def now() -> int:
    """Return the time in microseconds since 1970."""
    return time.time_ns() // 1000


def worker() -> str:
    """Return a new worker name (host, process id, start, nonce): this host can tell whether the process runs."""
    import psutil

    process = psutil.Process()
    return f"{_host()}/{process.pid}/{process.create_time():.2f}/{secrets.token_hex(4)}"


def dead(name: str) -> bool:
    """Return whether the process of a worker is known to have ended; False for every worker of another host.

    A name that `worker` did not make belongs to no process: True.
    """
    import psutil

    try:
        host, pid, started, _ = name.rsplit("/", 3)
        number = int(pid)
    except ValueError:
        return True
    if host != _host():
        return False
    try:
        return f"{psutil.Process(number).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True


def _host() -> str:
    return sandbox() or socket.gethostname()
