"""Servers that really listen, over projects whose model makes its vectors from the text."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import pytest
import uvicorn
from tests.server.processes import ServerProcess

from flowbed import telemetry
from flowbed.bed import aopen
from flowbed.server.app import create_app
from flowbed.server.http.connection import Connection
from flowbed.server.running import listen
from flowbed.services.service import open_service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

    from fastapi import FastAPI

    from flowbed.services.service import Service

Answer = TypeVar("Answer")
MODEL = "seeded:64"


@dataclass(frozen=True)
class Reply:
    """What an application answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    def refused(self) -> dict[str, Any]:
        """Check that this is an error in OpenAI's shape, and give it."""
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"]
        body = self.json
        assert set(body) == {"error"}
        error: dict[str, Any] = body["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["type"], str)
        return error


async def call(
    app: Any,
    method: str,
    path: str,
    body: bytes | list[bytes] | Callable[[], Any] = b"",
    headers: dict[str, str] | None = None,
) -> Reply:
    """Send one request to an application, as a server would; a list is a body in parts, or else its `receive`."""
    parts = [body] if isinstance(body, bytes) else body if isinstance(body, list) else []
    said = {"host": "127.0.0.1", **(headers or {})}
    if isinstance(body, bytes):
        said.setdefault("content-length", str(len(body)))
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in said.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8080),
        "asgi": {"version": "3.0"},
        "state": {},
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not parts:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, body if callable(body) else receive, send)
    start, *rest = sent
    return Reply(
        start["status"],
        {name.decode(): value.decode("latin-1") for name, value in start["headers"]},
        b"".join(message.get("body", b"") for message in rest),
    )


class Running:
    """A server on a free port, in a thread of its own, over a project of its own."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stack = contextlib.AsyncExitStack()
        self.folder = folder
        self.service: Service
        self.app: FastAPI
        self.url = self.wait(self._start())

    def wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Have the server's own loop do something."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def call(self, method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None) -> Reply:
        """Send one request to the application past the network; what is no bytes is sent as JSON."""
        if not isinstance(body, bytes):
            # Not by orjson, which writes no whole number of more than 64 bits.
            body, headers = json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})}
        return self.wait(call(self.app, method, path, body, headers))

    async def _start(self) -> str:
        bed = await self._stack.enter_async_context(await aopen(self.folder))
        self.service = await self._stack.enter_async_context(open_service(bed))
        self.app = create_app(self.service)
        self._stack.callback(telemetry.listen(self.app.state.metrics.count))
        listening = listen("127.0.0.1", 0)
        config = uvicorn.Config(
            self.app,
            http=Connection,
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            proxy_headers=False,
        )
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listening]))

        async def stop() -> None:
            server.should_exit = True
            await running

        self._stack.push_async_callback(stop)
        while not server.started:  # noqa: ASYNC110 - the server tells it by this alone
            await asyncio.sleep(0.01)
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    def close(self) -> None:
        """Stop serving, and close the project."""
        self.wait(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def write_project(folder: Path, settings: str = "", *, model: str = MODEL) -> Path:
    """Make a project with these settings, whose documents are numbered sentences."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ({"id": f"d{n}", "text": f"sentence {n}", "n": n} for n in range(20))
    (folder / "documents.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    source = '[sources.docs]\nkind = "jsonl"\nlocation = "documents.jsonl"\noptions = { metadata = ["n"] }\n'
    (folder / "flowbed.toml").write_text(f'model = "{model}"\n{settings}\n{source}')
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Give a server that needs no key; the tests of a module share it."""
    running = Running(write_project(tmp_path_factory.mktemp("project")))
    yield running
    running.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., ServerProcess]]:
    """Start server processes, which are killed after the test."""
    with contextlib.ExitStack() as stack:

        def start(folder: Path, *options: str, **environment: str) -> ServerProcess:
            process = ServerProcess(folder, *options, **environment)
            stack.callback(process.close)
            return process

        yield start


def create_key(folder: Path) -> str:
    """Create an API key of a project, and return its secret."""

    async def create() -> str:
        async with await aopen(folder) as bed:
            _, secret = await bed.keys().create("mine", secret=bed.secret)
            return secret

    return asyncio.run(create())


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Give what serves a project, for applications that a test makes."""
    async with await aopen(write_project(tmp_path / "project")) as bed, open_service(bed) as opened:
        yield opened


def with_embeddings(service: Service, embeddings: Any) -> Service:
    """Answer requests for embeddings by something else."""
    return replace(service, embeddings=embeddings)
