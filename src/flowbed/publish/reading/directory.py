"""Reads a Chroma directory in a child process, which has limits and cannot take this process with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.errors import Rejected
from flowbed.publish.reading.child import FAILED, FRAME, HEADER, REFUSED, ROWS
from flowbed.records.precomputed import PrecomputedRows

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from flowbed.publish.reading.child import Job

# Starts a child; its job follows.
COMMAND: tuple[str, ...] = (sys.executable, "-m", "flowbed.publish.reading.child")
# Seconds without a frame after which the child is taken for stuck: chromadb replays its queue before the first page.
IDLE = 300.0
MOST_FRAME = 2**31  # bytes: a page of 4,096 rows has some megabytes
ERRORS = 2_000  # bytes of what the child printed that a message may quote


@dataclass(kw_only=True)
class ChromaDirectory:
    """The rows of one collection in a Chroma directory, read by `job`; `scratch` is the child's own folder.

    `prepare` makes the directory of the job while the child loads chromadb, and blocks. A child that has counted the
    rows goes on to read them: starting one takes a second.
    """

    job: Job
    scratch: Path
    idle: float = IDLE
    prepare: Callable[[], None] | None = None
    _begun: AsyncGenerator[tuple[bytes, bytes], None] | None = field(default=None, init=False)

    async def count(self) -> int | None:
        """Return how many rows there are.

        Raises:
            Rejected: the directory cannot be read.
        """
        frames = self._frames()
        async for kind, body in frames:
            if kind == HEADER:
                self._begun = frames
                return int(json.loads(body)["rows"])
        return None

    async def pages(self) -> AsyncGenerator[PrecomputedRows, None]:
        """Iterate over the rows in pages, in chromadb's order.

        Raises:
            Rejected: the directory cannot be read or is not accepted, with the reason.
            OSError: the scratch folder cannot be written; the directory may be good.
        """
        begun, self._begun = self._begun, None
        async with contextlib.aclosing(begun or self._frames()) as frames:
            async for kind, body in frames:
                if kind == ROWS:
                    yield await asyncio.to_thread(decode_page, body)

    async def _frames(self) -> AsyncGenerator[tuple[bytes, bytes], None]:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            self.job.to_json(),
            stdin=asyncio.subprocess.PIPE,  # ends with this process, and the child with it
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.scratch,
            # None of this process's variables: some of them are credentials.
            env={
                "PYTHONPATH": ":".join(filter(None, sys.path)),
                "HOME": str(self.scratch),
                "TMPDIR": str(self.scratch),
                "ANONYMIZED_TELEMETRY": "False",
                # A thread of OpenBLAS for each processor reserves memory that counts against the limit.
                "OPENBLAS_NUM_THREADS": "1",
            },
        )
        assert process.stdin is not None  # noqa: S101 - narrows the type
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        printed = asyncio.create_task(_tail(process.stderr))
        whole = False
        try:
            await self._begin(process.stdin)
            while True:
                try:
                    frame = await asyncio.wait_for(_frame(process.stdout), self.idle)
                except TimeoutError:
                    raise Rejected(
                        f"reading it took longer than {self.idle:.0f} seconds without a row"
                    ) from None
                if frame is None:
                    break
                kind, body = frame
                if kind == REFUSED:
                    raise Rejected(str(json.loads(body)["reason"]))
                if kind == FAILED:
                    said = json.loads(body)
                    raise OSError(said["errno"], os.strerror(said["errno"]), said["file"] or None)
                yield kind, body
            whole = True
        finally:
            if process.returncode is None and not whole:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            status = await process.wait()
            said = await printed
        if status:
            raise Rejected(_ended(status, said))

    async def _begin(self, stdin: asyncio.StreamWriter) -> None:
        if self.prepare is not None:
            await asyncio.to_thread(self.prepare)
        with contextlib.suppress(ConnectionError):  # it has ended, and its status says why
            stdin.write(b"\n")
            await stdin.drain()


async def _frame(stream: asyncio.StreamReader) -> tuple[bytes, bytes] | None:
    try:
        kind, length = FRAME.unpack(await stream.readexactly(FRAME.size))
        if length > MOST_FRAME:
            raise Rejected(f"a page of its rows has {length:,} bytes")
        return kind, await stream.readexactly(length)
    except asyncio.IncompleteReadError:
        return None


async def _tail(stream: asyncio.StreamReader) -> bytes:
    tail = b""
    while piece := await stream.read(65_536):
        tail = (tail + piece)[-ERRORS:]
    return tail


def _ended(status: int, said: bytes) -> str:
    """Say why the child ended."""
    if status == -signal.SIGXCPU:
        return "reading it took more processor time than is allowed"
    if status < 0:
        return f"reading it crashed chromadb ({signal.Signals(-status).name}): its files are damaged"
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return f"the process that read it failed: {lines[-1] if lines else f'status {status}'}"


def decode_page(body: bytes) -> PrecomputedRows:
    """Parse one page of rows.

    Raises:
        Rejected: it is not of the child's form.
    """
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(pa.BufferReader(body)) as reader:
            table = reader.read_all()
        table.validate(full=True)
        vectors = table["vector"].combine_chunks()
        return PrecomputedRows(
            ids=table["id"].to_pylist(),
            vectors=vectors.flatten().to_numpy().reshape(len(vectors), vectors.type.list_size),
            texts=table["document"].to_pylist(),
            metadata=[json.loads(each) for each in table["metadata"].to_pylist()],
        )
    except (pa.ArrowInvalid, OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise Rejected(f"its rows could not be read: {error}") from error
