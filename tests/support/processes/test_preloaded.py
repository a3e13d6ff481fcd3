"""Processes that are forked off a server end as a program of their own would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.support.processes.preloaded import CLIENT, command

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = """
import socket, sys
from tests.support.processes.preloaded import serve
serve(socket.socket(fileno=int(sys.argv[1])))
"""
# A client that is not scheduled between its request and its next step, until the server has closed the connection.
SLOW = """
import runpy, select, socket, sys
send = socket.send_fds
def send_fds(server, *given):
    sent = send(server, *given)
    closed = select.poll()
    closed.register(server, 0)
    assert closed.poll(60_000)
    return sent
socket.send_fds = send_fds
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the path of the socket of a server that has loaded nothing."""
    path = tmp_path_factory.mktemp("server") / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen(8)
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(listening.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
        )
    yield str(path)
    process.communicate(timeout=60)


def ended(*started: str) -> tuple[int, str]:
    """Run a program to its end, and return its status and what it has written to standard error."""
    done = subprocess.run(
        started, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


def test_client_slower_than_its_fork_ends_with_the_status_of_the_fork(server: str) -> None:
    """The connection has been closed before it goes on, and what was sent over it is still there."""
    status, said = ended(sys.executable, "-c", SLOW, str(CLIENT), server, "json.tool", "--no-such-option")
    assert (status, "unrecognized arguments" in said) == (2, True), said


def test_server_client_killed_midway_closes_its_streams(server: str) -> None:
    """What reads its messages finds their end, and the next client is served."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.connect(server)
        socket.send_fds(killed, [b'{"module": '], [0, 1, writing])
    os.close(writing)
    status, _ = ended(*command(server, "json.tool"))
    assert (status, os.read(reading, 1)) == (1, b"")
    os.close(reading)
