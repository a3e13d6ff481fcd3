"""Workers of one process carry out what waits in a ledger in DynamoDB; those of many processes need another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured
from flowbed.services.stages import Hints
from flowbed.telemetry import RUN_COMMITTED, listen
from flowbed.workers.opening import open_worker
from flowbed.workers.pipeline import COMMIT, EMBED

if TYPE_CHECKING:
    from tests.aws.conftest import Deployment

    from flowbed.bed import Flowbed

WAIT = 120.0  # s


@pytest.fixture
def ledger() -> str:
    """The ledger of a deployment."""
    return "dynamodb://flowbed"


def test_worker_embeds_and_commits_what_functions_fetched(deployment: Deployment) -> None:
    deployment.call("data_fetcher")

    async def work(bed: Flowbed) -> None:
        committed, loop = asyncio.Semaphore(0), asyncio.get_running_loop()

        def reached(point: str, _: object) -> None:
            if point == RUN_COMMITTED:
                loop.call_soon_threadsafe(committed.release)

        stop = listen(reached)
        try:
            async with asyncio.timeout(WAIT), open_worker(bed, [], Hints(), queues=[EMBED, COMMIT]):
                for _ in ("lines", "words"):
                    await committed.acquire()
        finally:
            stop()

    deployment.use(work)
    assert deployment.contents().total == 10


def test_durable_engine_on_a_ledger_in_dynamodb_says_which_ledgers_it_needs(deployment: Deployment) -> None:
    settings = deployment.package / "flowbed.toml"
    settings.write_text(f'{settings.read_text()}[workers]\nengine = "durable"\n')

    async def open_it(bed: Flowbed) -> None:
        with pytest.raises(Misconfigured, match="needs a ledger in SQLite or Postgres: set engine in"):
            open_worker(bed, [], Hints())

    deployment.use(open_it)
