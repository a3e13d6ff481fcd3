"""Flowbed's commands, forked off a server that has loaded Flowbed.

with ForkServer(COMMANDS) as server:
write_program(folder / "flowbed", server)   # for a shell that finds it there
"""

from __future__ import annotations

import shlex
import socket
import sys
from typing import TYPE_CHECKING

from tests.support.processes.preloaded import ForkServer, command, serve

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = "tests.support.processes.preloaded_commands"


def write_program(file: Path, server: ForkServer, *, skip: int = 0) -> None:
    """Write a program that does what `flowbed` does; its first `skip` arguments are left out."""
    left_out = f"shift {skip}\n" if skip else ""
    file.write_text(
        f'#!/bin/sh\n{left_out}exec {shlex.join(command(server.path, "flowbed"))} "$@"\n', "utf-8"
    )
    file.chmod(0o755)


def main() -> None:
    """Load what the commands use, and serve."""
    import tests.support.processes.running  # noqa: F401 - it loads that, and leaves it out of garbage collection

    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
