"""`flowbed serve`: a process that starts, answers and stops."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import socket
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import openai
import pytest
import uvicorn
from tests.server.conftest import MODEL, create_key, write_project
from tests.server.processes import SECONDS, ServerProcess, eventually
from uvicorn.supervisors.multiprocess import SIGNALS

from flowbed.bed import aopen
from flowbed.server.running import Workers
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = "text-embedding-3-small"
# Seconds that the slow provider takes: long enough for a signal in between.
SLOW = 1.5


def test_serve_answers_logs_traces_and_stops_cleanly(
    tmp_path: Path, serve_command: Callable[..., ServerProcess]
) -> None:
    """Neither the log nor the spans sent to the OTLP endpoint have texts; with --open a browser gets the address."""
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
        running = serve_command(
            write_project(tmp_path / "project"),
            "--open",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            BROWSER=f"sh -c 'echo %s > {tmp_path}/opened'",
        )
        assert running.started == {"url": running.url, "models": [MODEL]}
        with running.client() as client:
            assert len(client.embeddings.create(model=MODEL, input="a secret text").data) == 1
        eventually((tmp_path / "opened").exists, "an opened browser")
        assert running.end() == 0
        collector.shutdown()
        thread.join()
    assert (tmp_path / "opened").read_text() == f"{running.url}\n"
    (line,) = map(json.loads, running.errors.read_text().splitlines())
    assert (line["event"], line["status"], line["model"]) == ("request", 200, MODEL)
    assert "a secret text" not in running.errors.read_text()
    sent = b"".join(body for path, body in arrived if path == "/v1/traces")
    assert b"POST /v1/embeddings" in sent
    assert b"a secret text" not in sent


def test_serve_ctrl_c_with_workers_exits_with_130(
    tmp_path: Path, serve_command: Callable[..., ServerProcess]
) -> None:
    running = serve_command(write_project(tmp_path / "project"), "--no-log-requests", "--workers", "2")
    assert running.end(signal.SIGINT) == 130
    assert "Traceback" not in running.errors.read_text()


@pytest.fixture
def served_by(workers: int, request: pytest.FixtureRequest) -> Callable[..., ServerProcess]:
    """Return how to start a server with so many workers: forked where one is enough."""
    start: Callable[..., ServerProcess] = request.getfixturevalue(
        "serve" if workers == 1 else "serve_command"
    )
    return lambda folder: start(folder, "--workers", str(workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_stopped_finishes_accepted_requests(
    tmp_path: Path, served_by: Callable[..., ServerProcess]
) -> None:
    simulator = Simulator(OpenAI())
    simulator.order(Fault(kind="slow", delay=SLOW))
    with running_thread(simulator) as url, ThreadPoolExecutor() as threads:
        settings = f'[providers.openai]\napi_key = "sk-test"\nbase_url = "{url}/v1"\n'
        folder = write_project(tmp_path / "project", settings, model=f"openai:{SMALL}")
        running = served_by(folder)
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


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_unknown_model_exits_with_2_and_the_reason(
    tmp_path: Path, served_by: Callable[..., ServerProcess]
) -> None:
    running = served_by(write_project(tmp_path / "project", model="nobody:knows"))
    assert running.process.wait(SECONDS) == 2
    assert "nobody:knows" in running.errors.read_text()
    assert "Traceback" not in running.errors.read_text()


def test_serve_killed_worker_is_replaced_until_none_can_start(
    tmp_path: Path, serve_command: Callable[..., ServerProcess]
) -> None:
    """Workers count together; a killed one is restarted, and if none can start, the server ends with the reason."""
    folder = write_project(tmp_path / "project")
    running = serve_command(folder, "--workers", "2")

    def answer() -> None:
        with running.client(retries=2) as client:
            assert len(client.embeddings.create(model=MODEL, input="text").data) == 1

    loading, _ = running.workers(2)
    loading.kill()
    serving, _ = running.workers(2, killed=loading.pid)
    for _ in range(5):
        answer()
    # Any worker reports the requests of both.
    line = 'flowbed_http_requests_total{method="POST",route="/v1/embeddings",status="200"} 5.0'
    for _ in range(4):
        with urllib.request.urlopen(f"{running.url}/metrics", timeout=SECONDS) as metrics:  # noqa: S310 - our own server
            assert line in metrics.read().decode()
    write_project(folder, model="nobody:knows")
    serving.kill()
    assert running.process.wait(SECONDS) == 2
    assert "nobody:knows" in running.errors.read_text()


def test_workers_one_killed_before_it_answers_is_replaced_at_once() -> None:
    """The supervisor waits for its answer, here for an hour."""
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    workers = Workers(
        uvicorn.Config("no:app", workers=1, timeout_worker_healthcheck=3600, log_config=None), []
    )
    watching = threading.Thread(target=workers.keep_subprocess_alive, daemon=True)
    try:
        workers.init_processes()
        (silent,) = workers.processes
        assert silent.pid is not None
        os.kill(silent.pid, signal.SIGSTOP)
        watching.start()
        watching.join(0.5)  # it asks
        os.kill(silent.pid, signal.SIGKILL)
        watching.join(SECONDS)
        assert workers.processes != [silent]
    finally:
        for worker in workers.processes:
            worker.kill()
            worker.join()
        for number, handler in kept.items():
            signal.signal(number, handler)
