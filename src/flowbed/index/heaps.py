"""How many heaps the threads of this process share."""

from __future__ import annotations

import contextlib
import ctypes
import os

# glibc's name for how many there may be (malloc.h).
M_ARENA_MAX = -8


def share_heaps() -> None:
    """Let threads share as many heaps as there are processors, where the C library is glibc; elsewhere do nothing.

    Otherwise glibc makes up to eight times as many. Lance's threads take turns in allocating megabytes, of which each
    heap keeps what was freed: a sixth of all the memory that a long run holds. MALLOC_ARENA_MAX is overruled: this is
    for processes that are Flowbed's own.
    """
    with contextlib.suppress(
        AttributeError, OSError, ValueError
    ):  # a system or C library without these names
        if (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, max(2, os.cpu_count() or 1))
