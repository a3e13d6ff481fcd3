"""Servers that listen, over projects whose model computes vectors from the text itself."""

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
from tests.server.processes import ForkedServer, ServerProcess

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
    """The response of an application."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    def refused(self) -> dict[str, Any]:
        """Check that this is an error in OpenAI's format, and return it."""
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
    """Send one request to an application, as a server would; `body` is bytes, a list of parts, or a `receive`."""
    parts = [body] if isinstance(body, bytes) else body if isinstance(body, list) else []
    expected = {"host": "127.0.0.1", **(headers or {})}
    if isinstance(body, bytes):
        expected.setdefault("content-length", str(len(body)))
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in expected.items()],
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
    """A server in a thread of its own, on a free port, over a project of its own."""

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stack = contextlib.AsyncExitStack()
        self.folder = folder
        self.service: Service
        self.app: FastAPI
        self.url = self.wait(self._start())

    def wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Run a coroutine on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def call(self, method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None) -> Reply:
        """Send one request to the application, bypassing the network; a body that is not bytes is sent as JSON."""
        if not isinstance(body, bytes):
            # orjson cannot write integers of more than 64 bits.
            body, headers = json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})}
        return self.wait(call(self.app, method, path, body, headers))

    def outermost(self, app: FastAPI) -> Any:
        """Return what receives the requests; a subclass may put something in front of the application."""
        return app

    async def _start(self) -> str:
        bed = await self._stack.enter_async_context(await aopen(self.folder))
        self.service = await self._stack.enter_async_context(open_service(bed))
        self.app = create_app(self.service)
        self._stack.callback(telemetry.listen(self.app.state.metrics.count))
        listening = listen("127.0.0.1", self._port)
        config = uvicorn.Config(
            self.outermost(self.app),
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
    """Create a project with these settings, whose documents are numbered sentences."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ({"id": f"d{n}", "text": f"sentence {n}", "n": n} for n in range(20))
    (folder / "documents.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    source = '[sources.docs]\nkind = "jsonl"\nlocation = "documents.jsonl"\noptions = { metadata = ["n"] }\n'
    (folder / "flowbed.toml").write_text(f'model = "{model}"\n{settings}\n{source}')
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run a server that needs no key, shared by the tests of a module."""
    running = Running(write_project(tmp_path_factory.mktemp("project")))
    yield running
    running.close()


@contextlib.contextmanager
def started_as(kind: type[ServerProcess]) -> Iterator[Callable[..., ServerProcess]]:
    """Give a way to start servers, which are killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(folder: Path, *options: str, **environment: str) -> ServerProcess:
            process = kind(folder, *options, **environment)
            stack.callback(process.close)
            return process

        yield start


@pytest.fixture
def serve() -> Iterator[Callable[..., ServerProcess]]:
    """Start servers of one worker in processes that are forked and so start soon; they are killed after the test."""
    with started_as(ForkedServer) as start:
        yield start


@pytest.fixture
def serve_command() -> Iterator[Callable[..., ServerProcess]]:
    """Start `flowbed serve` as users do, with any number of workers; it is killed after the test."""
    with started_as(ServerProcess) as start:
        yield start


def create_key(folder: Path, name: str = "mine", *, tier: str = "default") -> str:
    """Create an API key of a project, and return its secret."""

    async def create() -> str:
        async with await aopen(folder) as bed:
            _, secret = await bed.keys().create(name, secret=bed.secret, tier=tier)
            return secret

    return asyncio.run(create())


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Open the services of a project, for applications that a test creates."""
    async with await aopen(write_project(tmp_path / "project")) as bed, open_service(bed) as opened:
        yield opened


def with_embeddings(service: Service, embeddings: Any) -> Service:
    """Replace the service that answers requests for embeddings."""
    return replace(service, embeddings=embeddings)
