"""Fair scheduling between owners of jobs, and precedence of interactive requests."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from tests.services.conftest import Provider
from tests.services.test_jobs import ANYONE, begin, finished, line, outcomes, until, working

from flowbed.errors import Unavailable
from flowbed.ledger import JobRow
from flowbed.records.serving import Caller, EmbeddingsRequest
from flowbed.services.batches import answering, execution, stage
from flowbed.services.batches.answering import PAUSE
from flowbed.services.batches.fair_scheduling import jobs_to_yield, next_job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from tests.services.conftest import Project

    from flowbed.records import Embedded, Purpose
    from flowbed.services.service import Service

    Open = Callable[..., AbstractAsyncContextManager[Service]]


def row(id: str) -> JobRow:
    """Create a job whose owner is the first letter of its id."""
    return JobRow(id=id, owner=id[0], tier="", input="", endpoint="", window="", created=0, expires=0)


def rows(ids: str) -> list[JobRow]:
    return [row(id_) for id_ in ids.split()]


async def key(service: Service, name: str) -> Caller:
    made, _ = await service.keys.create(name, secret=lambda: name * 43)
    return Caller(key=made.id, name=name)


class Slow(Provider):
    """A model whose calls take some `seconds`, which is down for texts of A while `down` is set."""

    seconds = 0.002
    down = False

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        await asyncio.sleep(self.seconds)
        if self.down and texts[0].startswith("A"):
            raise Unavailable("down", retry_after=0.01)
        return await super().embed(texts, purpose=purpose)


@pytest.fixture
def slow(project: Project, monkeypatch: pytest.MonkeyPatch) -> Slow:
    """Serve a model that takes one line per call, in parts of a few calls."""
    monkeypatch.setattr(answering, "LOCAL_INPUTS", 1)
    monkeypatch.setattr(execution, "PART_SECONDS", 0.02)
    model = Slow(64, model="small")
    project.providers["first:small"] = model
    return model


@pytest.mark.parametrize(
    ("waiting", "running", "found"),
    [
        ("A1 A2 B1", "", "A1"),
        ("A2 B1 B2", "A1", "B1"),
        ("A3 B2 C1", "A1 A2 B1", "C1"),
        ("A3 B2", "A1 A2 B1", "B2"),
        ("A2 B2", "A1 B1", "A2"),
    ],
)
def test_next_job_chooses_the_owner_with_fewest_running_jobs(waiting: str, running: str, found: str) -> None:
    owners = {owner: running.count(owner) for owner in "ABC"}
    assert next_job(rows(waiting), owners).id == found


@pytest.mark.parametrize(
    ("waiting", "staying", "places", "found"),
    [
        ("", "A1 A2 A3", 3, []),
        ("A4", "A1 A2 A3", 3, []),  # nobody else waits
        ("A4 B1", "A1 A2 A3", 3, ["A3"]),
        ("B1", "A1 A2", 3, []),  # a place is or will be free
        ("B1 B2", "A1 A2", 3, []),
        ("B1 C1", "A1 A2 A3", 3, ["A3", "A2"]),
        ("B1 B2 B3 B4", "A1 A2 A3 A4", 4, ["A4", "A3"]),
        ("B1 B2 B3", "A1 A2 A3", 3, ["A3"]),
        ("C1", "A1 B1 A2", 3, ["A2"]),
        ("C1 D1", "A1 B1 A2 B2", 4, ["A2", "B2"]),
        ("D1", "A1 B1 C1", 3, []),  # each has one
    ],
)
def test_jobs_to_yield_names_newest_jobs_of_owners_with_most_places(
    waiting: str, staying: str, places: int, found: list[str]
) -> None:
    owners = {each.id: each.owner for each in rows(staying)}
    named = jobs_to_yield(rows(waiting), owners, places=places)
    assert named == found


async def test_worker_all_places_taken_by_one_key_runs_the_job_of_another_first(
    opened: Open, project: Project, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No text is sent twice."""
    monkeypatch.setattr(stage, "AT_ONCE", 3)
    slow.seconds = 0.03  # the machine has time to see the short job while long ones run
    async with opened() as service:
        many, few = await key(service, "A"), await key(service, "B")
        texts = [[f"A{job} {n}" for n in range(60)] for job in range(stage.AT_ONCE + 1)]
        long = [await begin(service, [line(text, text) for text in each], many) for each in texts]
        async with working(service):
            await until(service, long[stage.AT_ONCE - 1], lambda job: job.completed)
            short = await until(service, await begin(service, [line("b", "B")], few), lambda job: job.ended)
            states = [(await service.jobs.get(job.owner, job.id)).state for job in long]
            slow.seconds = 0.002
            ended = [await until(service, job, lambda job: job.ended) for job in long]
        assert (short.state, short.completed) == ("completed", 1)
        assert "completed" not in states
        assert [(job.state, job.completed) for job in ended] == [("completed", 60)] * len(long)
        assert set(await outcomes(service, ended[-1])) == set(texts[-1])
    assert sorted(slow.sent) == sorted(["B", *(text for each in texts for text in each)])


async def test_worker_job_waiting_for_a_provider_yields(
    opened: Open, project: Project, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "AT_ONCE", 2)
    slow.down = True
    async with opened() as service, working(service):
        many, few = await key(service, "A"), await key(service, "B")
        long = [await begin(service, [line("a", f"A{n}")], many) for n in range(3)]
        for job in long[:2]:
            await until(service, job, lambda job: job.worker and job.state == "in_progress")
        short = await until(service, await begin(service, [line("b", "B")], few), lambda job: job.ended)
        assert short.state == "completed"
        slow.down = False
        for job in long:
            assert (await until(service, job, lambda job: job.ended)).completed == 1


async def test_job_pauses_three_times_its_calls_while_requests_come(
    opened: Open, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = 0.125  # s of a call; binary fractions add up exactly
    seconds, calls = 0.0, ""

    class Timed(Provider):
        async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
            nonlocal seconds, calls
            seconds += length
            calls += "j" if texts[0].startswith("job") else "r"
            return await super().embed(texts, purpose=purpose)

    monkeypatch.setattr(answering, "LOCAL_INPUTS", 1)
    project.providers["first:small"] = Timed(64, model="small")

    async def ask(service: Service, job: JobRow) -> None:
        number = 0
        while not (await service.jobs.get("", job.id)).ended:
            number += 1
            await service.embeddings.answer(
                EmbeddingsRequest(model="small", input=f"request {number}"), ANYONE
            )

    async with opened(coalescing="off") as service:
        job = await begin(service, [line(f"c{n}", f"job {n}") for n in range(8)])
        asking = asyncio.create_task(ask(service, job))
        done = await finished(service, job, busy=lambda: True, monotonic=lambda: seconds)
        await asking
    assert done.completed == calls.count("j") == 8
    places = [place for place, call in enumerate(calls) if call == "j"]
    between = [after - before - 1 for before, after in pairwise(places)]
    assert min(between) >= PAUSE, calls


async def test_job_without_requests_does_not_pause(opened: Open, project: Project, slow: Slow) -> None:
    async with opened() as service:
        how: dict[str, Any] = {"busy": lambda: False, "monotonic": lambda: 0.0}
        job = await finished(service, await begin(service, [line(f"c{n}") for n in range(8)]), **how)
    assert job.completed == 8
