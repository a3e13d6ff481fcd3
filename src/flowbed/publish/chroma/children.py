"""Starts the processes that open Chroma directories."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from typing import TYPE_CHECKING, Any

from flowbed.errors import Error, Misconfigured, Rejected

if TYPE_CHECKING:
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
    """Let a new process do `work` of `child` and return its response; `folder` is for their messages.

    `size` is the number of rows of the directory, which bounds the time.

    Raises:
        Damaged: it ended by a signal, took too long, or Chroma refused the directory.
        Misconfigured: chromadb is not installed.
    """
    asked, answered = folder / f"{work}.request.json", folder / f"{work}.response.json"
    answered.unlink(missing_ok=True)
    asked.write_text(json.dumps({"work": work, **request}), "utf-8")
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, str(asked), str(answered)),
        stdin=asyncio.subprocess.PIPE,  # ends with this process, and the child with it
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None  # noqa: S101 - it is a pipe
    try:
        # Not `communicate`, which would close the child's standard input, and the child would end.
        async with asyncio.timeout(seconds := STARTED + size * PER_ROW):
            said = (await process.stderr.read()).decode("utf-8", "replace").strip()
            status = await process.wait()
    except TimeoutError as error:
        raise Damaged(f"Chroma did not end within {seconds:,.0f} s on {size:,} rows") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if status == 0:
        found: dict[str, Any] = json.loads(answered.read_text("utf-8"))
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
