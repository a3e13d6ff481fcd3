"""How the command configures its process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

COUNT = """
import ctypes, os, sys, threading
if sys.argv[1] == "shared":
    from flowbed.wiring.process import share_heaps
    share_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = (ctypes.c_int, ctypes.c_void_p)
libc.fclose.argtypes = (ctypes.c_void_p,)
threads = [None] * (4 * max(2, os.cpu_count()))
everyone = threading.Barrier(len(threads))

def allocate():
    everyone.wait()  # those of a thread that has ended are taken over by the next
    libc.malloc(10_000)
    everyone.wait()

for place in range(len(threads)):
    threads[place] = threading.Thread(target=allocate)
    threads[place].start()
for each in threads:
    each.join()
said = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, said)
libc.fclose(said)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is the C library of most Linux")
def test_share_heaps_many_threads_use_one_heap_per_processor(tmp_path: Path) -> None:
    """There are at most as many heaps as processors; by default each thread gets its own."""
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names or not os.confstr("CS_GNU_LIBC_VERSION"):
        pytest.skip("the C library is not glibc")

    def heaps(how: str) -> int:
        file = tmp_path / how
        subprocess.run([sys.executable, "-c", COUNT, how, file], check=True, timeout=60)
        return file.read_text().count("<heap nr=")

    most = max(2, os.cpu_count() or 1)
    assert heaps("as it comes") > most
    assert heaps("shared") <= most


def test_command_configures_its_process_and_the_library_does_not() -> None:
    """Process-wide settings belong to the user; only the command changes them."""
    told = "import gc, sys; print(gc.get_threshold(), round(sys.getswitchinterval(), 6))"

    def said(first: str) -> str:
        code = f"import atexit; atexit.register(lambda: exec({told!r}))\n{first}"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout.splitlines()[-1]

    plain = said("pass")
    assert said("import flowbed.bed, flowbed.lanes.batch.find") == plain
    assert (
        said("import sys; sys.argv = ['flowbed', '--version']; from flowbed.cli import main; main()") != plain
    )
