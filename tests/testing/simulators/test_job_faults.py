"""Faults of jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import openai
import pytest

from flowbed.errors import Misconfigured
from flowbed.testing.simulators import Azure, Fault, OpenAI, Simulator, running, vector_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openai.types import Batch

    from flowbed.testing.simulators.faults import Kind

SMALL = "text-embedding-3-small"
TEXTS = [f"text {number}" for number in range(10)]


class Jobs:
    """A simulator, with helpers of the tests."""

    def __init__(self, simulator: Simulator, sdk: openai.AsyncOpenAI) -> None:
        self.simulator = simulator
        self.sdk = sdk

    async def run(self, *faults: Fault, texts: list[str] = TEXTS, model: str = SMALL) -> Batch:
        """Create a job with these faults, and return its state."""
        self.simulator.order(*faults, seed=1)
        job = await self.make(texts, model)
        return await self.sdk.batches.retrieve(job.id)

    async def make(self, texts: list[str] = TEXTS, model: str = SMALL) -> Batch:
        written = [
            {
                "custom_id": text,
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": model, "input": [text], "dimensions": 4},
            }
            for text in texts
        ]
        content = "\n".join(map(json.dumps, written)).encode()
        file = await self.sdk.files.create(file=("input.jsonl", content), purpose="batch")
        return await self.sdk.batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
        )

    async def read(self, file: str | None) -> list[dict[str, Any]]:
        assert file
        return [json.loads(each) for each in (await self.sdk.files.content(file)).text.splitlines()]

    def billed(self) -> int:
        return self.simulator.account.totals().billed_texts


def ids(answers: list[dict[str, Any]]) -> list[str]:
    return [each["custom_id"] for each in answers]


def vector(answer: dict[str, Any]) -> Any:
    return np.float32(answer["response"]["body"]["data"][0]["embedding"])


@pytest.fixture
async def jobs() -> AsyncIterator[Jobs]:
    simulator = Simulator(OpenAI())
    async with (
        running(simulator) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0) as sdk,
    ):
        yield Jobs(simulator, sdk)


async def test_validation_fault_fails_the_job_and_names_the_lines(jobs: Jobs) -> None:
    job = await jobs.run(Fault(kind="validation", text="text 3"))
    assert job.status == "failed"
    assert job.errors
    assert job.errors.data
    assert [each.line for each in job.errors.data] == [4]
    assert jobs.billed() == 0


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_failed_lines_get_an_error_and_are_not_billed(jobs: Jobs, status: int) -> None:
    """A share of the lines fails; the others are unaffected."""
    job = await jobs.run(Fault(kind="failed_lines", share=0.3, status=status))
    assert job.status == "completed"
    assert job.request_counts
    assert (job.request_counts.completed, job.request_counts.failed) == (7, 3)
    errors = await jobs.read(job.error_file_id)
    assert [each["response"]["status_code"] for each in errors] == [status] * 3
    assert all(set(each["response"]["body"]["error"]) >= {"message", "type"} for each in errors)
    answers = await jobs.read(job.output_file_id)
    assert sorted(ids(answers) + ids(errors)) == TEXTS
    assert jobs.billed() == 7


async def test_failed_lines_with_text_fail_each_time(jobs: Jobs) -> None:
    poison = Fault(kind="failed_lines", text="text 3", status=400)
    for _ in range(2):
        job = await jobs.run(poison)
        assert ids(await jobs.read(job.error_file_id)) == ["text 3"]
    assert jobs.simulator.account.times_billed(SMALL, "text 3") == 0


async def test_missing_lines_are_billed_and_in_neither_file(jobs: Jobs) -> None:
    job = await jobs.run(Fault(kind="missing_lines", share=0.2))
    assert job.request_counts
    assert job.request_counts.completed == 10
    assert len(await jobs.read(job.output_file_id)) == 8
    assert job.error_file_id is None
    assert jobs.billed() == 10


async def test_doubled_lines_are_billed_once(jobs: Jobs) -> None:
    """Conflicting lines have another vector the second time."""
    text = "text 3"
    for kind, same in (("doubled_lines", True), ("conflicting_lines", False)):
        job = await jobs.run(Fault(kind=kind, text=text))  # type: ignore[arg-type]
        answers = await jobs.read(job.output_file_id)
        assert sorted(ids(answers)) == sorted([*TEXTS, text])
        first, second = (vector(each) for each in answers if each["custom_id"] == text)
        assert np.array_equal(first, vector_of(SMALL, text, 4))
        assert np.array_equal(first, second) == same
    assert jobs.simulator.account.times_billed(SMALL, text) == 2


async def test_broken_lines_are_invalid_json_among_valid_lines(jobs: Jobs) -> None:
    job = await jobs.run(Fault(kind="broken_lines", share=0.2))
    written = (await jobs.sdk.files.content(str(job.output_file_id))).text.splitlines()
    assert [each.startswith("{") for each in written].count(False) == 2
    assert len({json.loads(each)["custom_id"] for each in written if each.startswith("{")}) == 8


async def test_shuffled_output_has_every_answer(jobs: Jobs) -> None:
    orders = []
    for _ in range(2):
        job = await jobs.run(Fault(kind="shuffled"))
        answers = await jobs.read(job.output_file_id)
        assert ids(answers) != TEXTS
        assert sorted(ids(answers)) == TEXTS
        assert all(np.array_equal(vector(each), vector_of(SMALL, each["custom_id"], 4)) for each in answers)
        orders.append(ids(answers))
    assert orders[0] == orders[1]


async def test_torn_output_ends_within_a_line(jobs: Jobs) -> None:
    job = await jobs.run(Fault(kind="torn"))
    written = (await jobs.sdk.files.content(str(job.output_file_id))).content
    assert (await jobs.sdk.files.retrieve(str(job.output_file_id))).bytes == len(written)
    *whole, last = written.split(b"\n")
    assert ids([json.loads(each) for each in whole]) == TEXTS[:-1]
    with pytest.raises(json.JSONDecodeError):
        json.loads(last)


@pytest.mark.parametrize("share", [0.4, 1.0])
async def test_expired_job_leaves_unbilled_lines(jobs: Jobs, share: float) -> None:
    job = await jobs.run(Fault(kind="expired", share=share))
    assert job.status == "expired"
    left = await jobs.read(job.error_file_id)
    assert len(left) == share * 10
    assert {each["error"]["code"] for each in left} == {"batch_expired"}
    assert (job.output_file_id is None) == (share == 1)
    done = await jobs.read(job.output_file_id) if job.output_file_id else []
    assert sorted(ids(done) + ids(left)) == TEXTS
    assert jobs.billed() == len(done)


async def test_stuck_job_ends_only_when_cancelled(jobs: Jobs) -> None:
    """Cancelling takes the delay of the fault."""
    job = await jobs.run(Fault(kind="stuck", delay=600))
    jobs.simulator.advance(200_000)
    assert (await jobs.sdk.batches.retrieve(job.id)).status == "in_progress"
    await jobs.sdk.batches.cancel(job.id)
    jobs.simulator.advance(599)
    assert (await jobs.sdk.batches.retrieve(job.id)).status == "cancelling"
    jobs.simulator.advance(1)
    job = await jobs.sdk.batches.retrieve(job.id)
    assert (job.status, job.output_file_id) == ("cancelled", None)
    assert len(await jobs.read(job.error_file_id)) == 10
    assert jobs.billed() == 0


async def test_lost_output_is_not_found_after_billing(jobs: Jobs) -> None:
    """The error file is found."""
    job = await jobs.run(Fault(kind="lost"), Fault(kind="failed_lines", text="text 3"))
    assert job.status == "completed"
    with pytest.raises(openai.NotFoundError):
        await jobs.sdk.files.content(str(job.output_file_id))
    assert ids(await jobs.read(job.error_file_id)) == ["text 3"]
    assert jobs.billed() == 9


async def test_forgotten_job_is_billed_and_neither_found_nor_listed(jobs: Jobs) -> None:
    jobs.simulator.order(Fault(kind="forgotten"))
    made = await jobs.make()
    with pytest.raises(openai.NotFoundError, match="No batch found"):
        await jobs.sdk.batches.retrieve(made.id)
    assert (await jobs.sdk.batches.list()).data == []
    assert jobs.billed() == 10


async def test_delay_of_a_job_fault_delays_its_end(jobs: Jobs) -> None:
    job = await jobs.run(Fault(kind="shuffled", delay=1000))
    assert job.status == "validating"
    jobs.simulator.advance(1000)
    assert (await jobs.sdk.batches.retrieve(job.id)).status == "completed"


async def test_job_faults_match_model_and_text(jobs: Jobs) -> None:
    """Only requests that create a job count."""
    jobs.simulator.order(
        Fault(kind="expired", calls=(2,)),
        Fault(kind="forgotten", model="*-large"),
        Fault(kind="lost", text="other"),
    )
    first, second = await jobs.make(), await jobs.make()
    large, other = await jobs.make(model="text-embedding-3-large"), await jobs.make(["other"])
    assert (await jobs.sdk.batches.retrieve(first.id)).status == "completed"
    assert (await jobs.sdk.batches.retrieve(second.id)).status == "expired"
    with pytest.raises(openai.NotFoundError):
        await jobs.sdk.batches.retrieve(large.id)
    assert jobs.simulator.account.totals().faults == {"expired": 1, "forgotten": 1, "lost": 1}
    assert (await jobs.sdk.batches.retrieve(other.id)).status == "completed"


async def test_request_faults_apply_to_uploads_and_jobs(jobs: Jobs) -> None:
    """Nothing is created then."""
    jobs.simulator.order(
        Fault(kind="rate_limited", path="/v1/batches", calls=(1,), retry_after=3),
        Fault(kind="error", path="/v1/batches/*", calls=(1,), status=503),
        Fault(kind="garbled", path="/v1/batches/*", calls=(2,)),
    )
    with pytest.raises(openai.RateLimitError) as caught:
        await jobs.make()
    assert caught.value.response.headers["retry-after"] == "3"
    job = await jobs.make()
    with pytest.raises(openai.InternalServerError):
        await jobs.sdk.batches.retrieve(job.id)
    raw = await jobs.sdk.batches.with_raw_response.retrieve(job.id)
    assert raw.http_response.content.startswith(b"upstream said")
    assert [each.id async for each in jobs.sdk.batches.list()] == [job.id]


async def test_download_faults_cut_garble_or_refuse_once(jobs: Jobs) -> None:
    path = "/v1/files/*/content"
    job = await jobs.run(
        Fault(kind="truncated", path=path, calls=(1,)),
        Fault(kind="garbled", path=path, calls=(2,)),
        Fault(kind="error", path=path, calls=(3,), status=404),
        texts=[f"text {number}" for number in range(3000)],
    )
    file = str(job.output_file_id)
    size = (await jobs.sdk.files.retrieve(file)).bytes
    async with (
        aiohttp.ClientSession(headers={"Authorization": "Bearer key"}) as session,
        session.get(f"{jobs.sdk.base_url}files/{file}/content") as answer,
    ):
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
        assert answer.content_length == size
    garbled = (await jobs.sdk.files.content(file)).content
    assert garbled.startswith(b"upstream said")
    assert len(garbled) < size
    with pytest.raises(openai.NotFoundError):
        await jobs.sdk.files.content(file)
    assert len(await jobs.read(file)) == 3000


async def test_vector_faults_corrupt_every_line(jobs: Jobs) -> None:
    found: dict[Kind, Any] = {}
    for kind in ("wrong_dimension", "missing", "not_finite"):
        job = await jobs.run(Fault(kind=kind, path="/v1/batches"))
        answers = await jobs.read(job.output_file_id)
        found[kind] = [each["response"]["body"]["data"] for each in answers]
    assert all(len(data[0]["embedding"]) == 3 for data in found["wrong_dimension"])
    assert found["missing"] == [[]] * 10
    assert found["not_finite"][0][0]["embedding"] == [None] * 4


def test_job_faults_without_jobs_are_refused() -> None:
    """An invalid share is refused too."""
    with pytest.raises(Misconfigured, match="no jobs"):
        Simulator(Azure(deployments={}), faults=[Fault(kind="expired")])
    with pytest.raises(ValueError, match="share lies between 0 and 1"):
        Fault(kind="expired", share=1.1)
