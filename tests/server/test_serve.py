"""`flowbed serve`: a process that starts, answers and stops."""

from __future__ import annotations

import asyncio
import http.server
import json
import signal
import socket
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import openai
import pytest
from tests.server.conftest import MODEL, create_key, write_project
from tests.server.processes import SECONDS, ServerProcess, eventually

from flowbed.bed import aopen
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = "text-embedding-3-small"
# Seconds that the slow provider takes: long enough for a signal in between.
SLOW = 1.5


def test_serve_answers_logs_traces_and_stops_cleanly(
    tmp_path: Path, serve: Callable[..., ServerProcess]
) -> None:
    """Neither the log nor the spans sent to the OTLP endpoint have texts."""
    arrived = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        running = serve(write_project(tmp_path / "project"), OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        assert running.started == {"url": running.url, "models": [MODEL]}
        with running.client() as client:
            assert len(client.embeddings.create(model=MODEL, input="a secret text").data) == 1
        assert running.end() == 0
        collector.shutdown()
        thread.join()
    (line,) = map(json.loads, running.errors.read_text().splitlines())
    assert (line["event"], line["status"], line["model"]) == ("request", 200, MODEL)
    assert "a secret text" not in running.errors.read_text()
    sent = b"".join(body for path, body in arrived if path == "/v1/traces")
    assert b"POST /v1/embeddings" in sent
    assert b"a secret text" not in sent


def test_serve_ctrl_c_with_workers_exits_with_130(
    tmp_path: Path, serve: Callable[..., ServerProcess]
) -> None:
    running = serve(write_project(tmp_path / "project"), "--no-log-requests", "--workers", "2")
    assert running.end(signal.SIGINT) == 130
    assert "Traceback" not in running.errors.read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_stopped_finishes_accepted_requests(
    tmp_path: Path, serve: Callable[..., ServerProcess], workers: int
) -> None:
    simulator = Simulator(OpenAI())
    simulator.order(Fault(kind="slow", delay=SLOW))
    with running_thread(simulator) as url, ThreadPoolExecutor() as threads:
        settings = f'[providers.openai]\napi_key = "sk-test"\nbase_url = "{url}/v1"\n'
        folder = write_project(tmp_path / "project", settings, model=f"openai:{SMALL}")
        running = serve(folder, "--workers", str(workers))
        clients = [running.client() for _ in range(4)]
        requested = [
            threads.submit(client.embeddings.create, model=SMALL, input=f"text {n}")
            for n, client in enumerate(clients)
        ]
        count = simulator.account.totals
        eventually(lambda: max(count().most_at_once, count().requests) >= 4, "four requests at the provider")
        assert running.end() == 0
        assert [len(each.result().data) for each in requested] == [1] * 4
        for client in clients:
            client.close()
    host, port = running.url.removeprefix("http://").split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


def test_serve_other_machines_needs_a_key(tmp_path: Path, serve: Callable[..., ServerProcess]) -> None:
    folder = write_project(tmp_path / "project")
    refused = serve(folder, "--host", "0.0.0.0")  # noqa: S104 - that is what is refused
    assert refused.process.wait(SECONDS) == 2
    assert "flowbed keys create" in refused.errors.read_text()
    secret = create_key(folder)
    running = serve(folder, "--host", "0.0.0.0")  # noqa: S104
    running.url = running.url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    with running.client(secret) as client, running.client() as stranger:
        assert len(client.embeddings.create(model=MODEL, input="text").data) == 1
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
    assert running.end() == 0
    assert secret not in running.errors.read_text()


def test_serve_project_that_lost_its_keys_is_refused_until_told(
    tmp_path: Path, serve: Callable[..., ServerProcess]
) -> None:
    """The recovery of a lost ledger makes one without keys, whose server would answer everybody."""
    folder = write_project(tmp_path / "project")
    create_key(folder)
    for file in (folder / ".flowbed").glob("ledger.db*"):
        file.unlink()

    async def recover() -> None:
        async with await aopen(folder, repair=True) as bed:
            await bed.verify(repair=True)

    asyncio.run(recover())
    refused = serve(folder)
    assert refused.process.wait(SECONDS) == 2
    said = refused.errors.read_text()
    assert "flowbed keys create NAME" in said
    assert "--without-keys" in said
    allowed = serve(folder, "--without-keys")
    with allowed.client() as anyone:
        assert anyone.models.list().data
    assert allowed.end() == 0
    secret = create_key(folder)
    again = serve(folder)
    with again.client() as stranger, again.client(secret) as client:
        assert client.models.list().data
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
    assert again.end() == 0


def test_serve_usage_of_a_key_survives_a_restart(tmp_path: Path, serve: Callable[..., ServerProcess]) -> None:
    """Also one after Ctrl-C, which ends the server with 130."""
    folder = write_project(tmp_path / "project", "[serve]\ntiers.default = { tokens_per_day = 1000 }")
    secret = create_key(folder)
    left = []
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 0)):
        running = serve(folder)
        with running.client(secret) as client:
            raw = client.embeddings.with_raw_response.create(model=MODEL, input="text")
            left.append(int(raw.headers["x-ratelimit-remaining-tokens"]))
        assert running.end(number) == status
        assert "Traceback" not in running.errors.read_text()
    assert left[0] > left[1] > 0


def test_serve_address_in_use_exits_with_2(tmp_path: Path, serve: Callable[..., ServerProcess]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        running = serve(write_project(tmp_path / "project"), "--port", port)
        assert running.process.wait(SECONDS) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in running.errors.read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_unknown_model_exits_with_2_and_the_reason(
    tmp_path: Path, serve: Callable[..., ServerProcess], workers: str
) -> None:
    folder = write_project(tmp_path / "project", model="nobody:knows")
    running = serve(folder, "--workers", workers)
    assert running.process.wait(SECONDS) == 2
    assert "nobody:knows" in running.errors.read_text()
    assert "Traceback" not in running.errors.read_text()


def test_serve_killed_worker_is_replaced_until_none_can_start(
    tmp_path: Path, serve: Callable[..., ServerProcess]
) -> None:
    """Workers count together; a killed one is restarted, and if none can start, the server ends with the reason."""
    folder = write_project(tmp_path / "project")
    running = serve(folder, "--workers", "2")

    def answer() -> None:
        with running.client(retries=2) as client:
            assert len(client.embeddings.create(model=MODEL, input="text").data) == 1

    first, _ = running.workers(2)
    for _ in range(5):
        answer()
    # Any worker reports the requests of both.
    line = 'flowbed_http_requests_total{method="POST",route="/v1/embeddings",status="200"} 5.0'
    for _ in range(4):
        with urllib.request.urlopen(f"{running.url}/metrics", timeout=SECONDS) as metrics:  # noqa: S310 - our own server
            assert line in metrics.read().decode()
    first.kill()
    second, _ = running.workers(2, killed=first.pid)
    answer()
    write_project(folder, model="nobody:knows")
    second.kill()
    assert running.process.wait(SECONDS) == 2
    assert "nobody:knows" in running.errors.read_text()
