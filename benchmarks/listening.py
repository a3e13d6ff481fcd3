"""A server under comparison, in its own process on a free port of this machine, with its memory sampled."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING, Self

from benchmarks.process import BENCH, ROOT, Memory
from flowbed.testing.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STARTING = 300.0  # seconds: models are loaded, and packages imported for the first time


class Listening:
    """One server; `command` contains {port} for the port. Closing it ends the process."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        ready: str = "/",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it, and wait until it answers at `ready`; its output is kept in .bench/logs."""
        logs = BENCH / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = (logs / f"{name}.log").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(part).replace("{port}", str(port)) for part in command],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.memory = Memory(self._process.pid)
        self._wait(self.url + ready)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()

    def close(self) -> None:
        """Ask it to stop, and wait for it."""
        self.memory.stop()
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _wait(self, url: str) -> None:
        deadline = time.monotonic() + STARTING
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self.memory.stop()
                raise RuntimeError(f"the server ended ({self._process.returncode}); see {self._log.name}")
            try:
                with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own http address
                    return
            except OSError:
                time.sleep(0.1)
        self.close()
        raise RuntimeError(f"the server did not answer within {STARTING:.0f} s; see {self._log.name}")
