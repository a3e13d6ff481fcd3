"""What starting a server for tests takes: a free port, and an end together with the process that started it."""

from __future__ import annotations

import socket
from random import SystemRandom
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = "127.0.0.1"
# Linux gives ports from 32768 on to outgoing connections, so no client takes one of these before the server does.
FIRST, LAST = 20_000, 32_000
TRIES = 100


def free_port() -> int:
    """Return a port of 127.0.0.1 at which nothing listens.

    Raises:
        OSError: none of a hundred ports chosen at random was free.
    """
    chance = SystemRandom()  # property tests seed the common one, in several processes at once
    for _ in range(TRIES):
        port = chance.randint(FIRST, LAST)
        if _is_free(port):
            return port
    raise OSError(f"no port of {HOST} from {FIRST} to {LAST} is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def ended_with_input(command: Sequence[str], *, kill: str = "kill -KILL $$") -> list[str]:
    """Return a command that becomes `command`, and leaves a watcher that runs the shell command `kill` at the end.

    The end is when the standard input closes, which must be a pipe: with the process that started it, even if that was
    killed. `$$` is the process id of the command.
    """
    script = f'exec 3<&0; (read -r _ <&3; {kill} 2>/dev/null) & exec 3<&-; exec "$0" "$@" </dev/null'
    return ["/bin/sh", "-c", script, *command]
