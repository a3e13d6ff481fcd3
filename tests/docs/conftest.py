"""Shells whose `flowbed` starts in milliseconds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.processes.preloaded import ForkServer
from tests.support.processes.preloaded_commands import COMMANDS, write_program

if TYPE_CHECKING:
    from collections.abc import Iterator

Shell = Callable[[Path, str], str]


def variables() -> dict[str, str]:
    """Return the environment of a new user, who has set nothing."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FLOWBED_")}


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with the programs `flowbed`, and `python` for `python -m flowbed` alone.

    They are forked off a process that has loaded Flowbed.
    """
    folder = tmp_path_factory.mktemp("commands")
    with ForkServer(COMMANDS) as server:
        write_program(folder / "flowbed", server)
        write_program(folder / "python", server, skip=2)
        yield folder


@pytest.fixture(scope="session")
def in_shell(commands: Path) -> Shell:
    """Return how to run a block in a folder with `commands`; its output is returned."""
    path = os.pathsep.join((str(commands), str(Path(sys.executable).parent), os.environ["PATH"]))

    def run_block(folder: Path, block: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", block],
            cwd=folder,
            env={**variables(), "PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run_block
