"""`flowbed serve` in processes of its own, and bounded waits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import openai
import psutil
from tests.support.processes.running import start

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.support.processes.running import Forked

Found = TypeVar("Found")
SECONDS = 120  # s until a hanging server is killed


class ServerProcess:
    """A server over a project; `started` is the first line that it prints, or {} if it ended before."""

    process: Process
    errors: Path

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self._opened = contextlib.ExitStack()
        line = self._start(
            folder, ("serve", "--config", str(folder), "--json", "--port", "0", *options), environment
        )
        self.started: dict[str, Any] = json.loads(line) if line else {}
        self.url = self.started.get("url", "")

    def _start(self, folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> str:
        """Start the process, and return the first line that it prints."""
        self.errors = folder / "errors.txt"
        with self.errors.open("ab") as errors:
            self.process = process = subprocess.Popen(
                [sys.executable, "-m", "flowbed", *command],
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
                text=True,
            )
        assert process.stdout is not None
        watchdog = threading.Timer(SECONDS, process.kill)
        watchdog.start()
        self._opened.callback(process.stdout.close)
        line = process.stdout.readline()
        watchdog.cancel()
        return line

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
        """Kill the server, and close its pipe if it has one."""
        self.kill()
        self._opened.close()


class ForkedServer(ServerProcess):
    """A server forked off a process that has loaded Flowbed, which starts in a tenth of the time; one worker only."""

    def _start(self, folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> str:
        log = Path(tempfile.mkdtemp(prefix="serve-", dir=folder.parent)) / "process"
        self.errors = log.with_suffix(".err")
        settings = {
            name: value for name, value in os.environ.items() if name.startswith(("FLOWBED_", "AWS_"))
        }
        self.process = process = Fork(self._fork(folder, command, {**settings, **environment}, log))

        def printed() -> tuple[str] | None:
            ended = process.poll() is not None
            said = log.with_suffix(".out").read_text("utf-8")
            return (said,) if ended or said.endswith("\n") else None

        return eventually(printed, "the start of the server")[0]

    def _fork(self, folder: Path, command: Sequence[str], variables: Mapping[str, str], log: Path) -> Forked:
        return start(*command, folder=folder, variables=variables, log=log)


class Process(Protocol):
    """What tests do with a process."""

    @property
    def pid(self) -> int:
        """Its number."""

    def send_signal(self, sig: int, /) -> None:
        """Send a signal, unless it has ended."""

    def kill(self) -> None:
        """End it at once."""

    def wait(self, timeout: float | None = None, /) -> int:
        """Wait for its end, and return the exit status."""


class Fork:
    """A forked process, used like one that `subprocess` has started."""

    def __init__(self, forked: Forked) -> None:
        assert forked.process.pid is not None
        self.pid = forked.process.pid
        self._forked = forked
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status if it has ended."""
        if self._status is None and self._forked.process.exitcode is not None:
            self.wait()
        return self._status

    def send_signal(self, sig: int, /) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None, /) -> int:
        """Wait for its end, and return the exit status."""
        if self._status is None:
            self._status = self._forked.wait(SECONDS if timeout is None else timeout).returncode
        return self._status


def eventually(
    look: Callable[[], Found | None], what: str, *, seconds: float = SECONDS, pause: float = 0.02
) -> Found:
    """Call `look` until it returns something true, and return that; fail with `what` after `seconds`."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, f"after {seconds:g} s still waiting for {what}"
        time.sleep(pause)
    return found
