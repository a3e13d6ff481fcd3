"""Processes that open Chroma directories, forked off a server that has loaded chromadb: loading takes most of a second.

    with Preloaded() as preloaded:      # `flowbed` starts its own children this way from here on
        run_preloaded(PLAIN, directory, "docs")

Flowbed's command for such a child is replaced by a small client. It passes its standard streams, arguments, folder and
environment to the server, whose fork carries out the module; the client ends as the fork does, by the same signal too.
If the client is killed, the fork is. The server starts with the first client, and ends with the process of the tests.

`PLAIN` is a reader that knows nothing of Flowbed.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    import pytest

# Processes that tests start, and those that they start in turn, find the socket by it.
VARIABLE = "TESTS_PRELOADED"
BUILDER, READER = "flowbed.publish.chroma.child", "flowbed.publish.reading.child"
PLAIN = "tests.support.plain_reader"
CLIENT = Path(__file__).with_name("preloaded_client.py")
LONGEST = 1 << 20  # bytes of a request: arguments and environment
# Flowbed's own commands, by the module that has each.
OWN: dict[ModuleType, tuple[str, ...]] = {}


def command(path: str, module: str) -> tuple[str, ...]:
    """Return the command that carries out a module on the server of a socket."""
    return (sys.executable, "-S", "-E", str(CLIENT), path, module)


def use_preloaded() -> None:
    """Let Flowbed start its children on the server that the environment names, if it names one."""
    path = os.environ.get(VARIABLE)
    if path is not None:
        from flowbed.publish.chroma import children
        from flowbed.publish.reading import directory

        for module in (children, directory):
            OWN.setdefault(module, module.COMMAND)  # once: called again, it finds the client
        children.COMMAND = command(path, BUILDER)
        directory.COMMAND = command(path, READER)


def use_own(patch: pytest.MonkeyPatch) -> None:
    """Let Flowbed start its children as it does for users, until the end of a test."""
    for module, own in OWN.items():
        patch.setattr(module, "COMMAND", own)


def run_preloaded(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Carry out a module in a process of its own, on the server if there is one."""
    path = os.environ.get(VARIABLE)
    started = (sys.executable, "-m", module) if path is None else command(path, module)
    return subprocess.run([*started, *arguments], capture_output=True, text=True, timeout=300, check=False)


class ForkServer:
    """A program that calls `serve`, started by its first client in a `with` block; `path` is that of its socket."""

    def __init__(self, program: str) -> None:
        """Name the module of the program."""
        self._program = program

    def __enter__(self) -> Self:
        """Listen."""
        self._folder = tempfile.TemporaryDirectory(prefix="flowbed-preloaded-")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stop, self._stopped = os.pipe()
        self._process: subprocess.Popen[bytes] | None = None
        self.path = f"{self._folder.name}/socket"
        self._socket.bind(self.path)
        self._socket.listen(128)
        self._thread = threading.Thread(target=self._start, daemon=True)
        self._thread.start()
        return self

    def _start(self) -> None:
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._socket, selectors.EVENT_READ)
            waiting.register(self._stop, selectors.EVENT_READ)
            if any(key.fileobj == self._stop for key, _ in waiting.select()):
                return
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._program, str(self._socket.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[self._socket.fileno()],
            # Threads would be missing in the forks, and a thread for each processor reserves memory that has limits.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        self._socket.close()  # if the server ends, its clients fail

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        os.write(self._stopped, b"x")
        self._thread.join()
        if self._process is not None:
            self._process.communicate()  # it ends when its input does
        self._socket.close()
        os.close(self._stop)
        os.close(self._stopped)
        self._folder.cleanup()


class Preloaded:
    """A server of children that open Chroma directories, during a `with` block."""

    def __enter__(self) -> Self:
        """Listen, and name the socket in the environment."""
        self._server = ForkServer("tests.support.processes.preloaded")
        os.environ[VARIABLE] = self._server.__enter__().path
        use_preloaded()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        os.environ.pop(VARIABLE, None)
        self._server.__exit__()


def serve(listening: socket.socket) -> None:
    """Fork for each client until standard input ends."""
    waiting = selectors.DefaultSelector()
    waiting.register(listening, selectors.EVENT_READ, lambda: _accept(listening, waiting))
    waiting.register(0, selectors.EVENT_READ, sys.exit)
    while True:
        # One at a time: the end of a fork and that of its client may come together.
        key, _ = waiting.select()[0]
        key.data()


def _accept(listening: socket.socket, waiting: selectors.BaseSelector) -> None:
    client, _ = listening.accept()
    try:
        child, alive = _fork(client, waiting)
    except (OSError, ValueError):  # the client was killed
        client.close()
        return

    def kill() -> None:  # the client sends nothing more: it was killed
        waiting.unregister(client)
        os.kill(child, signal.SIGKILL)

    def end() -> None:
        waiting.unregister(alive)
        os.close(alive)
        _, status = os.waitpid(child, 0)
        with suppress(KeyError):
            waiting.unregister(client)
        with suppress(OSError):
            client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        client.close()

    waiting.register(client, selectors.EVENT_READ, kill)
    waiting.register(alive, selectors.EVENT_READ, end)


def _fork(client: socket.socket, waiting: selectors.BaseSelector) -> tuple[int, int]:
    said, streams, _, _ = socket.recv_fds(client, LONGEST, 3)
    try:
        while not said.endswith(b"\n"):
            more = client.recv(LONGEST)
            if not more:
                raise ValueError("half a request")
            said += more
        asked = json.loads(said)
        alive, held = os.pipe()
        child = os.fork()
        if child == 0:
            _carry_out(waiting, [client.fileno(), alive], streams, **asked)
    finally:
        for each in streams:  # a reader waits for their end
            os.close(each)
    os.close(held)
    return child, alive


def _carry_out(
    waiting: selectors.BaseSelector,
    unneeded: Sequence[int],
    streams: Sequence[int],
    *,
    module: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
) -> NoReturn:
    status = 70
    try:
        # Nothing of the server's.
        for each in (*unneeded, *(key.fd for key in waiting.get_map().values() if key.fd != 0)):
            os.close(each)
        waiting.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        # The streams of the server are those of the files that it was started with.
        sys.stdin, sys.stdout = (open(number, mode, closefd=False) for number, mode in ((0, "r"), (1, "w")))  # noqa: SIM115
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)  # noqa: T201 - as Python does
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - the reader of standard error wants it
        traceback.print_exc()
        status = 1
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Load what the children use, and serve."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    for name in (BUILDER, READER, "flowbed.publish.reading.database"):
        __import__(name)
    with suppress(ImportError):
        import chromadb
        import chromadb.api.rust
        import chromadb.telemetry.product.posthog  # noqa: F401 - a client loads them by name
    for name in (BUILDER, READER):
        del sys.modules[name]  # carried out as the program
    gc.collect()
    gc.freeze()
    serve(listening)


if __name__ == "__main__":
    main()
