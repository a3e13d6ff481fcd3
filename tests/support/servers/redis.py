"""A Redis server for tests, on a free port of 127.0.0.1, without persistence."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Self

from flowbed.errors import Misconfigured
from flowbed.testing.servers import HOST, ended_with_input, free_port

if TYPE_CHECKING:
    from types import TracebackType

PATIENCE = 20.0  # s


class RedisServer:
    """Run a server during a `with` block; `url` is its address."""

    def __init__(self, *, password: str = "") -> None:
        """Require a password, if one is given.

        Raises:
            Misconfigured: there is no `redis-server` on this machine.
        """
        program = shutil.which("redis-server")
        if program is None:
            raise Misconfigured(
                "there is no redis-server here; install it (Debian: apt-get install redis-server)"
            )
        self._program = program
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """The server's address."""
        return f"redis://{f':{self._password}@' if self._password else ''}{HOST}:{self.port}/0"

    def __enter__(self) -> Self:
        """Start the server, empty."""
        self._folder = tempfile.TemporaryDirectory(prefix="flowbed-redis-")
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """Start the server, empty, on the same port as before."""
        settings = {
            "port": str(self.port),
            "bind": HOST,
            "dir": self._folder.name,
            "save": "",
            "appendonly": "no",
        }
        if self._password:
            settings["requirepass"] = self._password
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            ended_with_input([self._program, *options]),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.02)

    def stop(self) -> None:
        """Kill the server: its data is gone, and its clients are disconnected."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64)[:1] in (b"+", b"-")
        except OSError:
            return False
