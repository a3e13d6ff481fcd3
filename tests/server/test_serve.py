"""`flowbed serve`: a process that begins, answers, and ends as it should."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import openai
import psutil
import pytest
from tests.server.conftest import MODEL, write_project

from flowbed.testing.simulators import Fault, OpenAI, Simulator, running_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SMALL = "text-embedding-3-small"
# Seconds that a slow provider takes: enough for a signal to come in between.
SLOW = 1.5
SECONDS = 60


class Process:
    """A server in a process of its own."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        command = [sys.executable, "-m", "flowbed", "serve", "--config", str(folder), "--port", "0", "--json"]
        self.errors = folder / "errors.txt"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, *options], stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **environment}
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.started: dict[str, Any] = json.loads(line) if line else {}
        self.url = self.started.get("url", "")

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@pytest.fixture
def serve() -> Iterator[Callable[..., Process]]:
    """Give the way to start servers, which are gone after the test."""
    with contextlib.ExitStack() as stack:

        def start(folder: Path, *options: str, **environment: str) -> Process:
            running = Process(folder, *options, **environment)
            stack.callback(running.process.wait, SECONDS)
            stack.callback(running.process.kill)
            assert running.process.stdout is not None
            stack.callback(running.process.stdout.close)
            return running

        yield start


def create_key(folder: Path) -> str:
    """Make a key as an operator does."""
    command = [sys.executable, "-m", "flowbed", "keys", "create", "mine", "--config", str(folder), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    secret: str = json.loads(ran.stdout)["secret"]
    return secret


def test_a_server_answers_until_it_is_stopped(tmp_path: Path, serve: Callable[..., Process]) -> None:
    """The command says where it serves what, answers the SDK, logs a line for each request, and ends in order."""
    running = serve(write_project(tmp_path / "project"))
    assert running.started == {"url": running.url, "models": [MODEL]}
    with running.client() as client:
        assert len(client.embeddings.create(model=MODEL, input="a secret text").data) == 1
    assert running.end() == 0
    (line,) = map(json.loads, running.errors.read_text().splitlines())
    assert (line["event"], line["status"], line["model"]) == ("request", 200, MODEL)
    assert "a secret text" not in running.errors.read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_stops_it(tmp_path: Path, serve: Callable[..., Process], workers: str) -> None:
    """Ctrl-C ends the server, with the status that says so."""
    running = serve(write_project(tmp_path / "project"), "--no-log-requests", "--workers", workers)
    assert running.end(signal.SIGINT) == 130
    assert "Traceback" not in running.errors.read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_accepted_is_finished(tmp_path: Path, serve: Callable[..., Process], workers: int) -> None:
    """A server that is told to stop answers the requests it is at, and takes no others."""
    simulator = Simulator(OpenAI())
    simulator.order(Fault(kind="slow", delay=SLOW))
    with running_thread(simulator) as url, ThreadPoolExecutor() as threads:
        settings = f'[providers.openai]\napi_key = "sk-test"\nbase_url = "{url}/v1"\n'
        folder = write_project(tmp_path / "project", settings, model=f"openai:{SMALL}")
        running = serve(folder, "--workers", str(workers))
        clients = [running.client() for _ in range(4)]
        asked = [
            threads.submit(client.embeddings.create, model=SMALL, input=f"text {n}")
            for n, client in enumerate(clients)
        ]
        while simulator.script._matched != [4]:
            time.sleep(0.02)
        assert running.end() == 0
        assert [len(each.result().data) for each in asked] == [1] * 4
        for client in clients:
            client.close()
    host, port = running.url.removeprefix("http://").split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


def test_others_are_not_served_without_a_key(tmp_path: Path, serve: Callable[..., Process]) -> None:
    """An address that other machines reach is refused while there is no key, and served with one."""
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


def test_what_a_key_has_used_survives_a_restart(tmp_path: Path, serve: Callable[..., Process]) -> None:
    """Tokens that were counted before the server was stopped are counted after it was started again."""
    folder = write_project(tmp_path / "project", "[serve]\ntiers.default = { tokens_per_day = 1000 }")
    secret = create_key(folder)
    left = []
    for _ in range(2):
        running = serve(folder)
        with running.client(secret) as client:
            raw = client.embeddings.with_raw_response.create(model=MODEL, input="text")
            left.append(int(raw.headers["x-ratelimit-remaining-tokens"]))
        assert running.end() == 0
    assert left[0] > left[1] > 0


def test_an_address_that_is_taken_is_named(tmp_path: Path, serve: Callable[..., Process]) -> None:
    """A port that someone else has is a setting to change, and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        running = serve(write_project(tmp_path / "project"), "--port", port)
        assert running.process.wait(SECONDS) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in running.errors.read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_project_that_cannot_be_served_says_why(
    tmp_path: Path, serve: Callable[..., Process], workers: str
) -> None:
    """A model that cannot be opened ends the command with the reason, before anything is served."""
    folder = write_project(tmp_path / "project", model="nobody:knows")
    running = serve(folder, "--workers", workers)
    assert running.process.wait(SECONDS) == 2
    assert "nobody:knows" in running.errors.read_text()
    assert "Traceback" not in running.errors.read_text()


def test_a_worker_that_dies_is_replaced(tmp_path: Path, serve: Callable[..., Process]) -> None:
    """Of several workers, which count together, one that is killed is started again."""
    running = serve(write_project(tmp_path / "project"), "--workers", "2")

    def answer() -> None:
        with running.client() as client:
            assert len(client.embeddings.create(model=MODEL, input="text").data) == 1

    def workers() -> set[int]:
        children = psutil.Process(running.process.pid).children()
        alive = [each for each in children if each.status() != psutil.STATUS_ZOMBIE]
        return {each.pid for each in alive if "spawn_main" in " ".join(each.cmdline())}

    answer()
    before = workers()
    assert len(before) == 2
    for _ in range(4):
        answer()
    # Whichever worker is asked, it tells of the requests of both.
    line = 'flowbed_http_requests_total{method="POST",route="/v1/embeddings",status="200"} 5.0'
    for _ in range(4):
        with urllib.request.urlopen(f"{running.url}/metrics") as metrics:  # noqa: S310 - our own server
            assert line in metrics.read().decode()
    psutil.Process(min(before)).kill()
    for _ in range(SECONDS * 10):
        if len(now := workers() - {min(before)}) == 2:
            break
        time.sleep(0.1)
    assert len(now) == 2
    answer()
    assert running.end() == 0


def test_a_worker_that_cannot_be_replaced_ends_the_server(
    tmp_path: Path, serve: Callable[..., Process]
) -> None:
    """Where a worker dies and no other can start, the server ends as one that failed, and says why."""
    folder = write_project(tmp_path / "project")
    running = serve(folder, "--workers", "2")
    with running.client() as client:
        client.embeddings.create(model=MODEL, input="text")
    write_project(folder, model="nobody:knows")
    children = psutil.Process(running.process.pid).children()
    next(each for each in children if "spawn_main" in " ".join(each.cmdline())).kill()
    assert running.process.wait(SECONDS) == 2
    assert "nobody:knows" in running.errors.read_text()


def test_spans_are_sent_where_the_variables_say(tmp_path: Path, serve: Callable[..., Process]) -> None:
    """With OTEL_EXPORTER_OTLP_ENDPOINT the spans of requests arrive there."""
    arrived = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        running = serve(write_project(tmp_path / "project"), OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        with running.client() as client:
            client.embeddings.create(model=MODEL, input="a secret text")
        assert running.end() == 0
        collector.shutdown()
        thread.join()
    sent = b"".join(body for path, body in arrived if path == "/v1/traces")
    assert b"POST /v1/embeddings" in sent
    assert b"a secret text" not in sent
