"""A module of these tests that serves in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Self


class ModuleServer:
    """`python -m MODULE`, which prints its address and serves until its standard input ends; runs in a `with` block."""

    def __init__(self, module: str, *arguments: str, needs: str) -> None:
        """Start nothing; `needs` names what has to be installed, for the error if the module does not start."""
        self.url = ""
        self._command = [sys.executable, "-m", module, *arguments]
        self._needs = needs

    def __enter__(self) -> Self:
        """Start the process, and wait until it prints its address."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, f"{self._command[2]} did not start; is {self._needs} of the dev extra installed?"
        return self

    def __exit__(self, *_: object) -> None:
        """End the process; what it held in memory is gone."""
        self._process.communicate()
