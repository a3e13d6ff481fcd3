"""A process that counts the texts sent to it, as a provider's bill would, and outlives its clients.

    python -m tests.support.counting --port 0

prints its port and answers JSON lines on 127.0.0.1: `{"op": "embed", "texts": [...]}` with `{"id", "flaky"}`, where
`flaky` holds the positions of texts with FLAKY in them that come for the first time, and `{"op": "report"}` with a
`Counted`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

HOST = "127.0.0.1"

# A call of a few thousand long texts is one line.
LINE_LIMIT = 1 << 28


@dataclass(kw_only=True)
class Request:
    """One call; `answered` says that its answer was written while the client was connected."""

    id: int
    texts: Sequence[str]
    answered: bool = False


@dataclass(kw_only=True)
class Counted:
    """What was sent: how often each text, in which requests, and how many texts are and were in flight."""

    texts: dict[str, int] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    in_flight: int = 0
    max_in_flight: int = 0

    @property
    def unanswered(self) -> int:
        """Count the texts of requests that were cut off."""
        return sum(len(request.texts) for request in self.requests if not request.answered)


class CountingProcess:
    """Run the process during a `with` block; it ends with the process that started it at the latest."""

    def __init__(self, *, delay: float = 0.0) -> None:
        """Answer each call after `delay` seconds."""
        self._delay = delay
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    def __enter__(self) -> Self:
        """Start, and set `address` to host:port."""
        command = [
            sys.executable,
            "-m",
            "tests.support.counting",
            "--port",
            "0",
            "--delay",
            str(self._delay),
        ]
        self._process = subprocess.Popen(
            [*command, "--until-stdin-closes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.address = f"{HOST}:{int(self._process.stdout.readline())}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, waiting for the process to end."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def report(self) -> Counted:
        """Return what has been sent until now."""
        host, _, port = self.address.partition(":")
        with socket.create_connection((host, int(port))) as connection, connection.makefile("rw") as lines:
            lines.write('{"op": "report"}\n')
            lines.flush()
            fields = json.loads(lines.readline())
        fields["requests"] = [Request(**request) for request in fields["requests"]]
        return Counted(**fields)


class _Server:
    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._counted = Counted()
        self._flaky: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                asked = json.loads(line)
                if asked["op"] == "report":
                    await _answer(reader, writer, asdict(self._counted))
                else:
                    await self._embed(asked["texts"], reader, writer)
        except ConnectionError:
            return  # the client was killed; the report says that its requests are unanswered
        finally:
            writer.close()

    async def _embed(
        self, texts: Sequence[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        request = Request(id=len(self._counted.requests), texts=texts)
        self._counted.requests.append(request)
        for text in texts:
            self._counted.texts[text] = self._counted.texts.get(text, 0) + 1
        self._counted.in_flight += len(texts)
        self._counted.max_in_flight = max(self._counted.max_in_flight, self._counted.in_flight)
        flaky = [
            position for position, text in enumerate(texts) if "FLAKY" in text and text not in self._flaky
        ]
        self._flaky.update(texts[position] for position in flaky)
        try:
            await asyncio.sleep(self._delay)
            await _answer(reader, writer, {"id": request.id, "flaky": flaky})
            request.answered = True
        finally:
            self._counted.in_flight -= len(texts)


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Mapping[str, Any]
) -> None:
    # A client that closes before its answer was killed, even where a write would succeed.
    if reader.at_eof() or writer.is_closing():
        raise ConnectionResetError("the client is gone")
    writer.write(json.dumps(answer).encode() + b"\n")
    await writer.drain()


async def _run(port: int, delay: float, *, until_stdin_closes: bool) -> None:
    server = await asyncio.start_server(_Server(delay).serve, HOST, port, limit=LINE_LIMIT)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    if until_stdin_closes:
        await asyncio.to_thread(sys.stdin.read)
        server.close()
    else:
        await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.counting", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one, and prints it")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end with the process that started this one"
    )
    asked = parser.parse_args()
    asyncio.run(_run(asked.port, asked.delay, until_stdin_closes=asked.until_stdin_closes))


if __name__ == "__main__":
    main()
