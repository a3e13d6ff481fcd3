"""Several worker processes of one machine: started, started again when they die, and ended together."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.errors import Error
from flowbed.ledger.workers import PROCESSES
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.ledger.workers import Workers

# Seconds before a process that died is started again, doubled while they die young.
AGAIN, AGAIN_MOST = 1.0, 30.0
# Seconds between two looks at the processes, and at how many there shall be.
LOOK = 1.0
# A process that lived for as long (s) died of something else than its start.
SETTLED = 60.0
# The exit status of a process that cannot start: its settings have to change.
CANNOT = 2


@dataclass
class _Child:
    process: asyncio.subprocess.Process
    began: float


@dataclass(kw_only=True)
class Supervisor:
    """Keeps `wanted` processes of `command` running; `flowbed workers scale` changes how many."""

    command: Sequence[str]
    wanted: int
    rows: Workers | None
    monotonic: Callable[[], float] = time.monotonic
    _children: list[_Child] = field(default_factory=list)
    _wait, _again = 0.0, AGAIN

    async def run(self, stop: asyncio.Event) -> int:
        """Run until `stop` is set or all have been told to leave; return the exit status."""
        try:
            while not stop.is_set():
                await self._scale()
                status = await self._replace()
                if status is not None:
                    return status
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await stop.wait()
        finally:
            await self._end(len(self._children))
        return 0

    async def _scale(self) -> None:
        """Take over how many processes there shall be on this machine."""
        if self.rows is None:
            return
        with suppress(Error):  # the ledger is away: everything stays as it is
            marks = (await self.rows.marks(PROCESSES))[0]
            wanted = marks.get(socket.gethostname(), marks.get("", 0))
            if wanted and wanted != self.wanted:
                log.warning("%d worker processes instead of %d", wanted, self.wanted)
                self.wanted = wanted

    async def _replace(self) -> int | None:
        """Start what is missing and end what is too much; return the status with which all is over."""
        for child in [each for each in self._children if each.process.returncode is not None]:
            self._children.remove(child)
            status = child.process.returncode
            if status == CANNOT:
                return CANNOT
            if status == 0:  # it was told to leave
                self.wanted -= 1
                continue
            log.warning("worker process %d has ended with status %s", child.process.pid, status)
            old = self.monotonic() - child.began >= SETTLED
            self._again = AGAIN if old else min(AGAIN_MOST, 2 * self._again)
            self._wait = self.monotonic() + self._again
        if not self.wanted:
            return 0
        while len(self._children) < self.wanted and self.monotonic() >= self._wait:
            process = await asyncio.create_subprocess_exec(*self.command, stdin=asyncio.subprocess.PIPE)
            self._children.append(_Child(process, self.monotonic()))
        if len(self._children) > self.wanted:
            await self._end(len(self._children) - self.wanted)
        return None

    async def _end(self, number: int) -> None:
        """End the newest processes, which drain first."""
        ending = self._children[len(self._children) - number :]
        del self._children[len(self._children) - number :]
        for child in ending:
            with suppress(ProcessLookupError):
                child.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*(child.process.wait() for child in ending))
