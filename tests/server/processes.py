"""`flowbed serve` in processes of its own, and bounded waits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import openai
import psutil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Found = TypeVar("Found")
SECONDS = 120  # s until a hanging server is killed


class ServerProcess:
    """A server over a project; `started` is the first line that it prints, or {} if it ended before."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        command = [sys.executable, "-m", "flowbed", "serve", "--config", str(folder), "--json", "--port", "0"]
        self.errors = folder / "errors.txt"
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*command, *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
            )
        assert self.process.stdout is not None
        watchdog = threading.Timer(SECONDS, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        self.started: dict[str, Any] = json.loads(line) if line else {}
        self.url = self.started.get("url", "")

    def client(self, key: str = "none", *, retries: int = 0) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=retries)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def workers(self, number: int, *, killed: int = 0) -> list[psutil.Process]:
        """Wait until `number` workers live, without the killed one, and return them."""

        def look() -> list[psutil.Process] | None:
            found = []
            for child in self.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(child.cmdline()):
                        found.append(child)
            return found if len(found) == number and killed not in {each.pid for each in found} else None

        # Looking at processes costs more than their work.
        return eventually(look, f"{number} workers", pause=0.25)

    def kill(self) -> None:
        """Kill the server with its workers, which would outlive it."""
        children = self.children()
        self.process.kill()
        self.process.wait(SECONDS)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    def close(self) -> None:
        """Kill the server, and close its pipe."""
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


def eventually(
    look: Callable[[], Found | None], what: str, *, seconds: float = SECONDS, pause: float = 0.02
) -> Found:
    """Call `look` until it returns something true, and return that; fail with `what` after `seconds`."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, f"after {seconds:g} s still waiting for {what}"
        time.sleep(pause)
    return found
