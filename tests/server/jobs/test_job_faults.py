"""Jobs over a provider that is down, refuses a text, and bills."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.server.conftest import Running, write_project
from tests.server.processes import eventually

from flowbed.server.app import working
from flowbed.services.jobs import lease
from flowbed.services.jobs.following import LAST
from flowbed.services.jobs.stage import finish_jobs
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLOW = 1.0  # seconds of each request to the provider
TEXTS = [f"a sentence that is paid for, number {n}" for n in range(40)]


@pytest.fixture
def simulator() -> Simulator:
    return Simulator(OpenAI())


@pytest.fixture
def remote(simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(lease, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr("flowbed.services.jobs.execution.RETRY_SECONDS", 0.05)
    for name in ("WAIT_FIRST", "WAIT_MOST"):
        monkeypatch.setattr(f"flowbed.lanes.retries.{name}", 0.02)
    with running_thread(simulator) as url:
        settings = f'[providers.openai]\napi_key = "sk-test"\nbase_url = "{url}/v1"\n'
        folder = write_project(tmp_path / "project", settings, model="openai:text-embedding-3-small")
        running = Running(folder)
        yield running
        running.close()


def created(running: Running, texts: list[str]) -> str:
    reply = running.call("POST", "/v1/jobs", {"collection": "notes", "texts": texts})
    assert reply.status == 202, reply.body
    return str(reply.json["id"])


def job_of(running: Running, job: str) -> dict[str, Any]:
    found: dict[str, Any] = running.call("GET", f"/v1/jobs/{job}").json
    return found


def test_job_waits_while_its_provider_is_down_and_pays_once(remote: Running, simulator: Simulator) -> None:
    """The worker of the server tries it again; once the provider answers, each text is billed once."""
    simulator.order(Fault(kind="error", status=503, retry_after=0.1))
    worker = working(remote.app, remote.service)
    remote.wait(worker.__aenter__())
    try:
        job = created(remote, TEXTS)
        waiting = eventually(
            lambda: row if (row := job_of(remote, job))["queue"] and row["queue"]["reason"] else None,
            "the wait",
        )
        assert (waiting["status"], waiting["stage"], waiting["error"]) == ("running", "embedding", None)
        simulator.order()
        done = eventually(lambda: row if (row := job_of(remote, job))["ended_at"] else None, "the end")
    finally:
        remote.wait(worker.__aexit__(None, None, None))
    assert (done["status"], done["counts"]["stored"]) == ("completed", len(TEXTS)), done
    assert done["cost"]["billed_usd"] > 0
    assert done["cost"]["estimated_usd"] == pytest.approx(done["cost"]["billed_usd"], rel=0.2)
    totals = simulator.account.totals()
    assert (totals.billed_texts, totals.billed_again) == (len(TEXTS), 0)
    types = [each["type"] for each in remote.call("GET", f"/v1/jobs/{job}/events").json["data"]]
    assert "job.warning" in types


def test_job_with_a_refused_text_stores_the_others(remote: Running, simulator: Simulator) -> None:
    simulator.order(Fault(kind="error", status=400, text="refuse me"))
    job = created(remote, [*TEXTS[:5], "refuse me, please"])
    remote.wait(finish_jobs(remote.service.index_jobs))
    done = job_of(remote, job)
    assert (done["status"], done["counts"]["stored"], done["counts"]["failed"]) == ("completed", 5, 1), done
    (error,) = done["errors"]
    assert error["document"] == f"{job}-00005"
    assert error["message"]


def test_job_of_another_model_than_the_collection_fails_with_the_reason(tmp_path: Path) -> None:
    first = Running(write_project(tmp_path))
    created(first, ["in one space"])
    first.wait(finish_jobs(first.service.index_jobs))
    first.close()
    second = Running(write_project(tmp_path, model="seeded:32"))
    try:
        job = created(second, ["in another space"])
        second.wait(finish_jobs(second.service.index_jobs))
        failed = job_of(second, job)
    finally:
        second.close()
    assert failed["status"] == "failed"
    assert "notes" in failed["error"]["message"]


@pytest.mark.long
async def test_events_of_a_client_that_is_cut_every_second_come_once_and_in_order(
    remote: Running, simulator: Simulator
) -> None:
    """The job takes longer than several connections, since its provider does; each goes on after the last event."""
    simulator.order(Fault(kind="slow", delay=SLOW))
    worker = working(remote.app, remote.service)
    remote.wait(worker.__aenter__())
    seen: list[tuple[int, str]] = []
    cuts = 0
    try:
        job = created(remote, [f"a sentence that is slow, number {n}" for n in range(2_000)])
        while not (seen and seen[-1][1] in LAST):
            assert cuts < 120
            found, whole = await events_for(1.0, remote.url, job, after=seen[-1][0] if seen else 0)
            seen += found
            cuts += not whole
    finally:
        remote.wait(worker.__aexit__(None, None, None))
    assert seen[-1][1] == "job.completed"
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    # In fewer seconds the provider has not answered all requests.
    assert cuts >= 5
    assert simulator.account.totals().billed_again == 0


async def events_for(seconds: float, url: str, job: str, *, after: int) -> tuple[list[tuple[int, str]], bool]:
    """Follow a job for so many seconds; return the numbers and types of its events, and whether the stream ended."""
    found: list[tuple[int, str]] = []
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    try:
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(base_url=url) as client,
            client.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer,
        ):
            assert answer.status_code == 200
            number, kind = 0, ""
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    number = int(value)
                elif name == "event":
                    kind = value
                elif not line and kind:  # what is cut before this line is no event
                    found.append((number, kind))
                    kind = ""
    except TimeoutError:
        return found, False
    return found, True
