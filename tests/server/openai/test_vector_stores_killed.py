"""A vector store that is filled while its server and workers are killed and started again."""

from __future__ import annotations

import random
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import openai
import pytest
from tests.server.conftest import write_project
from tests.server.processes import ServerProcess, eventually
from tests.support.processes.running import start

from flowbed.services.vector_stores.stage import QUEUE
from flowbed.testing.servers import free_port
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.processes.running import Forked
    from tests.support.servers.postgres import PostgresServer

SMALL = "text-embedding-3-small"
POLL = 50  # ms
FEW = 100  # files
WORKERS = """\
[serve]
execute_jobs = false
[workers]
beat_seconds = 0.2
dead_seconds = 60
sweep_seconds = 0.5
poll_seconds = 0.1
grace_seconds = 5
"""


class Workers:
    """`flowbed worker` processes over a ledger on Postgres."""

    def __init__(self, ledger: str, postgres: PostgresServer) -> None:
        self.ledger = ledger
        self._postgres = postgres
        self._living: list[Forked] = []
        self._number = 0

    def start(self, folder: Path) -> None:
        self._number += 1
        log = folder.parent / f"worker{self._number}"
        variables = {"FLOWBED_LEDGER": self.ledger}
        # Of these only: requests to the provider are then for the files of the store.
        command = ("worker", "--json", "--queues", QUEUE)
        self._living.append(start(*command, folder=folder, variables=variables, log=log))

    def kill_the_one_at_work(self) -> None:
        """Kill the one that holds the store, once a living one does."""
        killed = eventually(self._at_work, "a worker that holds the store", pause=0.1)
        self._living.remove(killed)
        killed.kill()
        assert killed.wait().returncode == -signal.SIGKILL

    def _at_work(self) -> Forked | None:
        holder = self._postgres.query(self.ledger, "SELECT worker FROM vector_stores")
        return next((each for each in self._living if f"/{each.process.pid}/" in holder), None)

    def close(self) -> None:
        for each in self._living:
            each.kill()
            each.wait()


@pytest.fixture
def workers(ledger_url: str, postgres: PostgresServer) -> Iterator[Workers]:
    """Give workers, which are killed after the test."""
    opened = Workers(ledger_url, postgres)
    yield opened
    opened.close()


class Filling:
    """A store that one call of the SDK fills with `number` files, in a thread: it uploads, attaches and waits."""

    def __init__(self, client: openai.OpenAI, number: int) -> None:
        self.texts = {f"{n}.txt": f"The word of file {n} is w{n * 7919}.\n" for n in range(number)}
        self._client = client
        self._batches: list[openai.types.vector_stores.VectorStoreFileBatch] = []
        self.store = client.vector_stores.create().id
        self._thread = threading.Thread(target=self._fill)
        self._thread.start()

    def _fill(self) -> None:
        files = [(name, text.encode()) for name, text in self.texts.items()]
        self._batches.append(
            self._client.vector_stores.file_batches.upload_and_poll(
                self.store, files=files, max_concurrency=5, poll_interval_ms=POLL
            )
        )

    def assert_completed(self) -> None:
        """Wait for the end of the call; the counts are right."""
        number = len(self.texts)
        self._thread.join(timeout=120 + number / 2)
        (batch,) = self._batches
        counts = batch.file_counts
        assert (batch.status, counts.completed, counts.total) == ("completed", number, number)
        assert (counts.in_progress, counts.failed, counts.cancelled) == (0, 0, 0)

    def assert_found(self) -> None:
        """Assert that a search finds each file."""
        for name, text in self.texts.items():
            (hit,) = self._client.vector_stores.search(self.store, query=text.strip(), max_num_results=1).data
            assert hit.filename == name

    def assert_sent(self, simulator: Simulator, *, kills: int) -> None:
        """Assert that only requests that a kill interrupted were sent again."""
        assert (
            max(simulator.account.times_billed(SMALL, text.strip()) for text in self.texts.values())
            <= 1 + kills
        )


class Counted:
    """An application that counts the requests that have begun, whether they end or not."""

    def __init__(self, app: Any) -> None:
        self._app, self.begun = app, 0

    def more_than(self, number: int) -> bool:
        return self.begun > number

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += scope["type"] == "http"
        await self._app(scope, receive, send)


def project(folder: Path, url: str, settings: str = "") -> Path:
    """Write a project whose model is the simulated provider's."""
    provider = f'[providers.openai]\napi_key = "sk-test"\nbase_url = "{url}/v1"\n'
    return write_project(folder, provider + settings, model=f"openai:{SMALL}")


@pytest.mark.parametrize(
    ("number", "kills"), [(40, 1), pytest.param(1_000, 6, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_file_batch_server_killed_meanwhile_completes_and_finds_each_file(
    tmp_path: Path, serve: Callable[..., ServerProcess], number: int, kills: int
) -> None:
    """One call of the SDK uploads, attaches and waits; the counts are right, and no text is paid for twice."""
    chance = random.Random(5)
    simulator = Simulator(OpenAI(), faults=[Fault(kind="slow", delay=0.3)])
    port = str(free_port())
    with running_thread(simulator) as url:
        folder = project(tmp_path / "project", url)
        running = serve(folder, "--no-log-requests", "--port", port)
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=60) as client:
            filling = Filling(client, number)
            for kill in range(kills):
                if kill:
                    time.sleep(chance.uniform(0.1, 1.0))
                else:  # in the middle of the work, for certain: after the uploads
                    await_requests(simulator, 1, seconds=60 + number / 2)
                running.end(signal.SIGKILL)
                running = serve(folder, "--no-log-requests", "--port", port)
            filling.assert_completed()
            filling.assert_sent(simulator, kills=kills)
            simulator.order()
            filling.assert_found()
        assert running.end() == 0


def await_requests(simulator: Simulator, number: int, *, seconds: float) -> None:
    """Wait until the provider has had so many requests."""
    eventually(
        lambda: simulator.account.totals().requests >= number, "a request for vectors", seconds=seconds
    )


@pytest.mark.parametrize(
    ("number", "victims"),
    [
        (10, ["worker", "server"]),
        pytest.param(
            1_000, ["worker", "worker", "server", "worker", "worker", "server"], marks=pytest.mark.long
        ),
    ],
    ids=["short", "long"],
)
def test_file_batch_after_kills_of_workers_and_server_finds_each_file(
    tmp_path: Path,
    serve: Callable[..., ServerProcess],
    workers: Workers,
    number: int,
    victims: list[str],
) -> None:
    """Over Postgres, workers of their own do the work; each that is killed is in the middle of it."""
    # Requests are in flight for so long that what is killed after one began is in the middle of it.
    simulator = Simulator(OpenAI(), faults=[Fault(kind="slow", delay=4.0)])
    port = str(free_port())
    counted = Counted(simulator)
    with running_thread(counted) as url:
        folder = project(tmp_path / "project", url, WORKERS)

        def serving() -> ServerProcess:
            return serve(folder, "--no-log-requests", "--port", port, FLOWBED_LEDGER=workers.ledger)

        running = serving()
        for _ in range(2):
            workers.start(folder)
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=60) as client:
            filling = Filling(client, number)
            begun = 0
            for victim in victims:
                eventually(partial(counted.more_than, begun), "a request", seconds=60 + number / 2)
                begun = counted.begun
                if victim == "server":
                    running.end(signal.SIGKILL)
                    running = serving()
                    continue
                workers.kill_the_one_at_work()
                if number > FEW:  # else the other one is enough
                    workers.start(folder)
            simulator.order()
            filling.assert_completed()
            filling.assert_sent(simulator, kills=victims.count("worker"))
            filling.assert_found()
        assert running.end() == 0
