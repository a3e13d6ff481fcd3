"""A vector store that is filled while its server is killed and started again."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import openai
import pytest
from tests.server.conftest import write_project
from tests.server.processes import ServerProcess, eventually

from flowbed.testing.simulators import Fault, OpenAI, Simulator, running_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = "text-embedding-3-small"
POLL = 50  # ms


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("number", "kills"), [(40, 1), pytest.param(1_000, 6, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_file_batch_server_killed_meanwhile_completes_and_finds_each_file(
    tmp_path: Path, serve: Callable[..., ServerProcess], number: int, kills: int
) -> None:
    """One call of the SDK uploads, attaches and waits; the counts are right, and no text is paid for twice."""
    chance = random.Random(5)
    simulator = Simulator(OpenAI(), faults=[Fault(kind="slow", delay=0.3)])
    texts = {f"{n}.txt": f"The word of file {n} is w{n * 7919}.\n" for n in range(number)}
    port = free_port()
    with running_thread(simulator) as url:
        settings = f'[providers.openai]\napi_key = "sk-test"\nbase_url = "{url}/v1"\n'
        folder = write_project(tmp_path / "project", settings, model=f"openai:{SMALL}")

        def start() -> ServerProcess:
            return serve(folder, "--no-log-requests", "--port", str(port))

        running = start()
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=60) as client:
            store = client.vector_stores.create().id
            batches: list[openai.types.vector_stores.VectorStoreFileBatch] = []

            def fill() -> None:
                files = [(name, text.encode()) for name, text in texts.items()]
                batches.append(
                    client.vector_stores.file_batches.upload_and_poll(
                        store, files=files, max_concurrency=5, poll_interval_ms=POLL
                    )
                )

            filling = threading.Thread(target=fill)
            filling.start()
            for kill in range(kills):
                if kill:
                    time.sleep(chance.uniform(0.1, 1.0))
                else:  # in the middle of the work, for certain
                    eventually(lambda: simulator.account.totals().requests, "the first request for vectors")
                running.end(signal.SIGKILL)
                running = start()
            filling.join(timeout=20 + number / 2)
            (batch,) = batches
            counts = batch.file_counts
            assert (batch.status, counts.completed, counts.total) == ("completed", number, number)
            assert (counts.in_progress, counts.failed, counts.cancelled) == (0, 0, 0)
            # Only requests that a kill interrupted are sent again.
            assert (
                max(simulator.account.times_billed(SMALL, text.strip()) for text in texts.values())
                <= 1 + kills
            )
            simulator.order()
            for name, text in texts.items():
                (hit,) = client.vector_stores.search(store, query=text.strip(), max_num_results=1).data
                assert hit.filename == name
        assert running.end() == 0
