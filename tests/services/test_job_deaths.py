"""Jobs that kill the processes that execute them: they fail, say so, and take no other job with them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson
import pytest
from tests.services.conftest import Provider
from tests.services.test_jobs import SECONDS, begin, finished, line, outcomes, until, working

from flowbed.ledger.workers import BATCH_DEATHS, HoldsWorkers, Workers
from flowbed.server.api.batch_lines import HttpLineCodec
from flowbed.services.batches import answering, execution
from flowbed.services.batches.deaths import DEATHS_MOST, SUSPECT, note_death
from flowbed.services.batches.output import LineOutcome, OutputParts
from flowbed.services.batches.stage import PROBATION, BatchJobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from tests.services.conftest import Project

    from flowbed.ledger import JobRow
    from flowbed.records import Embedded, Purpose
    from flowbed.services.service import Service

    Open = Callable[..., AbstractAsyncContextManager[Service]]


class Gated(Provider):
    """A model that answers texts of POISON only when its gate is open."""

    def __init__(self, dimensions: int, *, model: str = "") -> None:
        super().__init__(dimensions, model=model)
        self.gate = asyncio.Event()

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        self.sent += texts
        if any("POISON" in text for text in texts):
            await self.gate.wait()
        return await super().embed(texts, purpose=purpose)


@pytest.fixture
def gated(project: Project, monkeypatch: pytest.MonkeyPatch) -> Gated:
    """Serve a model that takes one line per call, in parts of one line."""
    monkeypatch.setattr(answering, "LOCAL_INPUTS", 1)
    monkeypatch.setattr(execution, "PART_BYTES", 1)
    model = Gated(64, model="small")
    project.providers["first:small"] = model
    return model


def marks(project: Project) -> Workers:
    assert isinstance(project.ledger, HoldsWorkers)
    return project.ledger.workers


async def die_at(job: JobRow, project: Project) -> None:
    """Let a process of this machine take a job, and die."""
    name = f"process {project.secret()}"
    now = project.clock()
    assert await project.ledger.jobs.hold(job.id, worker=name, now=now, until=now + 10**9)
    project.ended.add(name)


async def interrupted_at(number: int, job: JobRow, service: Service, project: Project) -> None:
    """Execute a job until so many lines are answered, and the next one is not."""
    stage = BatchJobs(service, HttpLineCodec(), monotonic=project.seconds)
    task = asyncio.create_task(stage.run(job.id))
    await until(service, job, lambda row: row.line == number)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_job_at_which_processes_die_again_and_again_fails_with_its_answers(
    opened: Open, project: Project, gated: Gated
) -> None:
    """Its owner is told, instead of waiting for ever, and the job beside it is executed."""
    async with opened() as service:
        job = await begin(service, [line("a"), line("b", "more"), line("c", "POISON"), line("d")])
        other = await begin(service, [line("e")])
        await interrupted_at(2, job, service, project)
        for _ in range(DEATHS_MOST - 1):
            await note_death(service.bed.ledger, job.id)
        await die_at(job, project)
        async with working(service), asyncio.timeout(SECONDS):
            failed = await until(service, job, lambda row: row.ended)
            gated.gate.set()  # the model takes one call at a time, and still has that of the first worker
            beside = await until(service, other, lambda row: row.ended)
            while await project.store.folders("jobs"):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.005)
        assert beside.state == "completed"
        assert (failed.state, failed.completed, failed.line, failed.queued) == ("failed", 2, 2, 0)
        (fault,) = orjson.loads(failed.faults)
        assert fault["code"] == "server_error"
        assert fault["message"].startswith(
            f"{DEATHS_MOST} processes of the server died, one after the other, while they answered line 3 of 4 and"
            " those after it,"
        )
        assert set(await outcomes(service, failed)) == {"a", "b"}
        assert await marks(project).marks(BATCH_DEATHS) == [{}]


async def test_job_that_gets_on_between_deaths_is_completed(
    opened: Open, project: Project, gated: Gated
) -> None:
    """Also where the dead process had written answers, and not counted them."""
    async with opened() as service:
        job = await begin(service, [line("a"), line("b", "POISON"), line("c")])
        for _ in range(DEATHS_MOST - 1):
            await note_death(service.bed.ledger, job.id)
        await interrupted_at(1, job, service, project)
        assert await marks(project).marks(BATCH_DEATHS) == [{}]
        for _ in range(DEATHS_MOST - 1):
            await note_death(service.bed.ledger, job.id)
        answer = LineOutcome(text=b'{"custom_id": "b"}\n', failed=False)
        await OutputParts(project.store, job.id).write(1, [answer])
        await die_at(job, project)
        job = await finished(service, job)
        assert (job.state, job.completed) == ("completed", 3)


async def test_job_beside_suspect_is_begun_once_that_gets_on(
    opened: Open, project: Project, gated: Gated
) -> None:
    """A process that dies takes all its jobs with it: which of them killed it is found out one by one."""
    async with opened() as service:
        jobs = [await begin(service, [line("a"), line("b", f"POISON {number}")]) for number in range(3)]
        for job in jobs:
            await interrupted_at(1, job, service, project)
        for _ in range(SUSPECT):
            for job in jobs[:2]:
                await note_death(service.bed.ledger, job.id)
        stage = BatchJobs(service, HttpLineCodec(), monotonic=project.seconds)
        tasks = [asyncio.create_task(stage.run(jobs[0].id))]
        await until(service, jobs[0], lambda row: row.worker)
        await stage.run(jobs[1].id)
        assert (await service.jobs.get("", jobs[1].id)).worker == ""
        tasks.append(asyncio.create_task(stage.run(jobs[2].id)))  # at which nobody has died
        await until(service, jobs[2], lambda row: row.worker)
        project.now.advance(seconds=PROBATION + 1)
        tasks.append(asyncio.create_task(stage.run(jobs[1].id)))
        await until(service, jobs[1], lambda row: row.worker)
        gated.gate.set()
        await asyncio.gather(*tasks)
        assert [(await service.jobs.get("", job.id)).state for job in jobs] == ["completed"] * 3
        assert await marks(project).marks(BATCH_DEATHS) == [{}]
