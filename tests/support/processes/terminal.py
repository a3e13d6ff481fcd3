"""A command on a pseudo-terminal: what a person would see."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

PATIENCE = 120.0  # seconds
# Sequences that move the cursor, set colours and hide the cursor.
CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


@dataclass(frozen=True)
class Shown:
    """What a command wrote to its terminal, piece by piece with the seconds since its start, and its exit status."""

    status: int
    pieces: list[tuple[float, bytes]]

    @property
    def raw(self) -> str:
        """All of it, with its sequences of control."""
        return b"".join(piece for _, piece in self.pieces).decode(errors="replace")

    @property
    def text(self) -> str:
        """All of it, without them."""
        return CONTROL.sub("", self.raw)


def on_terminal(
    *arguments: str,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    interrupt: Callable[[], bool] | None = None,
) -> Shown:
    """Run a command on a terminal 120 columns wide; press Ctrl-C once `interrupt` says so."""
    ours, its = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "LINES": "40", "TERM": "xterm", **(variables or {})}
    process = subprocess.Popen(
        [sys.executable, "-m", "flowbed", *arguments],
        cwd=folder,
        stdin=its,
        stdout=its,
        stderr=its,
        env=environment,
        start_new_session=True,
    )
    os.close(its)
    began, pieces = time.monotonic(), []
    try:
        while time.monotonic() - began < PATIENCE:
            ready, _, _ = select.select([ours], [], [], 0.1)
            if interrupt is not None and interrupt():
                interrupt = None
                process.send_signal(signal.SIGINT)
            if not ready:
                continue
            piece = b""
            with suppress(OSError):  # Linux ends a terminal with an error
                piece = os.read(ours, 65_536)
            if not piece:
                break
            pieces.append((time.monotonic() - began, piece))
        return Shown(process.wait(PATIENCE), pieces)
    finally:
        os.close(ours)
        process.kill()
        process.wait()
