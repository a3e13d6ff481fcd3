"""Starts the process that parses files, and starts another where it ended, hung or swelled."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from flowbed.errors import Rejected, Transient, Unreadable
from flowbed.records.values import count
from flowbed.sources.extraction.child import FOUND, LENGTH, OUT_OF_MEMORY, REFUSED

if TYPE_CHECKING:
    from flowbed.errors import Error

PACKAGE = Path(__file__).parents[3]
MODULE = "flowbed.sources.extraction.child"
READ_BYTES = 1 << 20
# JSON takes up to 6 bytes for a character, and a block of a few characters some 30 bytes.
BYTES_PER_CHARACTER = 16
LEAST_RESPONSE = 16 * 2**20
# Ends that another process would not change.
FINAL = frozenset({signal.SIGXCPU, signal.SIGALRM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
# Waiting for the processor counts as well: a file that takes its time on a busy machine takes longer.
PATIENCE = 10


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one file may take: processor time in seconds, memory of its process in bytes, and characters of text."""

    seconds: float = 60
    memory_bytes: int = 2 * 2**30
    characters: int = 20_000_000


class Parsers:
    """A process that parses one file after the other; it is started for the first file."""

    def __init__(self, limits: Limits) -> None:
        """Start nothing yet."""
        self.limits = limits
        self.started = 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[[subprocess.Popen[bytes]], Parsers] | None = None

    def extract(self, path: Path, parser: str, language: str = "") -> str:
        """Return the extract of a file as JSON.

        Raises:
            Unreadable: it is encrypted, damaged, has no text, or takes more than the limits allow.
            Rejected: the process was killed, or did not get on, for which the file need not be the reason.
            Transient: the process was interrupted, as by Ctrl+C.
        """
        limits = self.limits
        request = {
            "path": str(path.absolute()),
            "parser": parser,
            "language": language,
            "characters": limits.characters,
            "seconds": limits.seconds,
        }
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._stop()
            while True:
                used = self._process is not None
                answer, ended = self._ask(json.dumps(request).encode() + b"\n")
                if answer.startswith(FOUND):
                    return answer[1:].decode()
                if answer.startswith(REFUSED):
                    raise Unreadable(answer[1:].decode())
                # It ended, or has no memory left; earlier files may have had a part in that.
                self._stop()
                if not used or ended in FINAL:
                    raise self._failure(answer, ended)

    def _failure(self, answer: bytes, ended: int) -> Error:
        memory = f"{self.limits.memory_bytes / 2**30:.3g} GiB of memory"
        if answer == OUT_OF_MEMORY:
            return Unreadable(f"it needs more than {memory}: split it, or exclude it")
        match ended:
            case signal.SIGXCPU:
                seconds = count(int(self.limits.seconds), "second")
                return Unreadable(f"it takes more than {seconds} to parse: split it, or exclude it")
            case signal.SIGINT | signal.SIGTERM | signal.SIGHUP:
                return Transient("its parser was interrupted")
            case signal.SIGKILL:
                reason = "was killed, as when the machine has no memory left"
            case signal.SIGALRM:
                reason = "did not get on, as on a very busy machine or a slow disk"
            case 0:
                reason = "ended without an answer"
            case _:
                name = signal.Signals(ended).name
                return Unreadable(f"its parser ended with {name}: it is damaged, or needs more than {memory}")
        return Rejected(f"its parser {reason}: run again, or exclude it")

    def _ask(self, request: bytes) -> tuple[bytes, int]:
        """Return the response, or an empty one and the signal by which the process ended."""
        process = self._process or self._start()
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(request)
            process.stdin.flush()
            return self._response(process.stdout), 0
        except (BrokenPipeError, EOFError):
            return b"", _signal(process)
        except TimeoutError:
            return b"", signal.SIGALRM  # which nothing else sends

    def _response(self, pipe: IO[bytes]) -> bytes:
        deadline = time.monotonic() + PATIENCE * (self.limits.seconds + 1)
        most = LEAST_RESPONSE + BYTES_PER_CHARACTER * self.limits.characters
        received = bytearray()
        wanted = LENGTH.size
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while len(received) < wanted:
                if not selector.select(deadline - time.monotonic()):
                    raise TimeoutError
                some = os.read(pipe.fileno(), READ_BYTES)
                received += some
                if not some or len(received) > most:
                    raise EOFError
                if len(received) >= LENGTH.size:
                    wanted = LENGTH.size + LENGTH.unpack_from(received)[0]
        return bytes(received[LENGTH.size :])

    def _start(self) -> subprocess.Popen[bytes]:
        # It gets where to import from and nothing else of the environment, which has tokens and keys. It imports
        # nothing from the current folder, which may be the one that is indexed.
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-B", "-P", "-m", MODULE, str(self.limits.memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONPATH": os.pathsep.join(_places())},
        )
        self.started += 1
        self._end = weakref.finalize(self, _ended, self._process)
        return self._process

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._process = self._end = None

    def close(self) -> None:
        """End the process; another one is started for the next file."""
        with self._lock:
            self._stop()


def _places() -> list[str]:
    """Return the folders to import from: that of this package, and those of others, without the current one."""
    here = Path.cwd()
    return [str(PACKAGE), *(each for each in sys.path if each and Path(each).resolve() != here)]


def _signal(process: subprocess.Popen[bytes]) -> int:
    """Return the signal by which a process ended that answers no more, 0 for another end."""
    try:
        return max(-process.wait(timeout=PATIENCE), 0)
    except subprocess.TimeoutExpired:
        return 0


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # what was not sent is not wanted any more
