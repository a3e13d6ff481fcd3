"""Starts the processes that open Chroma directories."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbed.errors import Error, Misconfigured, Rejected

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

MODULE = "flowbed.publish.chroma.child"
# Starts a child; the files of the request and the response follow.
COMMAND: tuple[str, ...] = (sys.executable, "-m", MODULE)
# How much of the child's own words a message quotes.
QUOTED = 500
# Seconds that a process may take: it starts within a few, and writes 2,000 rows a second on an idle machine.
STARTED, PER_ROW = 600.0, 1 / 50


class Damaged(Rejected):
    """A Chroma directory cannot be used; building it again helps."""


async def ask(work: str, folder: Path, *, size: int, **request: Any) -> dict[str, Any]:
    """Let a new process do `work` of `child`, as `Child.ask` does."""
    async with started(work, folder) as child:
        return await child.ask(size=size, **request)


@contextlib.asynccontextmanager
async def started(work: str, folder: Path) -> AsyncIterator[Child]:
    """Start a process for one piece of `work`: it loads chromadb meanwhile, which takes more than a second.

    `folder` is for its messages. At the end of the block it has ended, whether it was asked or not.
    """
    asked, answered = folder / f"{work}.request.json", folder / f"{work}.response.json"
    answered.unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, str(asked), str(answered)),
        stdin=asyncio.subprocess.PIPE,  # ends with this process, and the child with it
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None  # noqa: S101 - it is a pipe
    said = asyncio.create_task(process.stderr.read())  # so that it never waits for a reader
    try:
        yield Child(work=work, asked=asked, answered=answered, process=process, said=said)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await said


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process that was started for one piece of `work`; `said` is what it writes to standard error."""

    work: str
    asked: Path
    answered: Path
    process: Process
    said: asyncio.Task[bytes]

    async def ask(self, *, size: int, **request: Any) -> dict[str, Any]:
        """Let it do its work, and return its response.

        `size` is the number of rows of the directory, which bounds the time.

        Raises:
            Damaged: it ended by a signal, took too long, or Chroma refused the directory.
            Misconfigured: chromadb is not installed.
        """
        self.asked.write_text(json.dumps({"work": self.work, **request}), "utf-8")
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        # Not closed, or the child would end. If it has ended already, its status says why.
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(b"\n")
            await self.process.stdin.drain()
        try:
            async with asyncio.timeout(seconds := STARTED + size * PER_ROW):
                said = (await asyncio.shield(self.said)).decode("utf-8", "replace").strip()
                status = await self.process.wait()
        except TimeoutError as error:
            raise Damaged(f"Chroma did not end within {seconds:,.0f} s on {size:,} rows") from error
        if status == 0:
            found: dict[str, Any] = json.loads(self.answered.read_text("utf-8"))
            return found
        raise _failure(status, said)


def _failure(status: int, said: str) -> Error:
    last = said.splitlines()[-1][:QUOTED] if said else ""
    if "No module named 'chromadb'" in said:
        return Misconfigured("publishing Chroma snapshots needs chromadb: pip install 'flowbed[chroma]'")
    if status < 0:
        return Damaged(
            f"Chroma's process ended with {signal.Signals(-status).name} ({last or 'without a message'})"
        )
    return Damaged(f"Chroma refused: {last or f'exit status {status}'}")
