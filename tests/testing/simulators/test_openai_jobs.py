"""The simulated Files and Batch APIs of OpenAI, compared with OpenAI's own client."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import openai
import pytest

from flowbed.testing.simulators import Fault, OpenAI, Simulator, running, vector_of
from flowbed.testing.simulators.batch_api import openai_jobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from openai.types import Batch
    from tests.testing.simulators.conftest import Post

SMALL = "text-embedding-3-small"
DAY = 86_400


def line(custom_id: str, text: Any, **more: Any) -> dict[str, Any]:
    body = {"model": SMALL, "input": text, "dimensions": 4, "encoding_format": "base64", **more}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body}


def lines(*texts: str) -> list[dict[str, Any]]:
    return [line(f"id-{text}", text) for text in texts]


def jsonl(written: Iterable[object]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in written)


class Client:
    """OpenAI's client, with helpers of the tests."""

    def __init__(self, simulator: Simulator, sdk: openai.AsyncOpenAI) -> None:
        self.simulator = simulator
        self.sdk = sdk

    async def upload(self, written: bytes, name: str = "input.jsonl") -> str:
        return (await self.sdk.files.create(file=(name, written), purpose="batch")).id

    async def create(self, file: str, **more: Any) -> Batch:
        return await self.sdk.batches.create(
            input_file_id=file, endpoint="/v1/embeddings", completion_window="24h", **more
        )

    async def run(self, *texts: str) -> Batch:
        """Create a job of these texts, and return its state."""
        job = await self.create(await self.upload(jsonl(lines(*texts))))
        return await self.sdk.batches.retrieve(job.id)

    async def refused(self, written: bytes) -> list[tuple[str | None, int | None, str | None]]:
        """Return the problems that validation finds."""
        job = await self.create(await self.upload(written))
        job = await self.sdk.batches.retrieve(job.id)
        assert (job.status, job.output_file_id) == ("failed", None)
        assert job.failed_at
        assert job.errors
        assert job.errors.data
        return [(each.code, each.line, each.param) for each in job.errors.data]

    async def read(self, file: str | None) -> list[dict[str, Any]]:
        assert file
        text = (await self.sdk.files.content(file)).text
        assert text.endswith("\n")
        return [json.loads(each) for each in text.splitlines()]

    async def ids(self, file: str | None) -> list[str]:
        return [each["custom_id"] for each in await self.read(file)] if file else []


def vector(answer: dict[str, Any]) -> Any:
    return np.frombuffer(base64.b64decode(answer["response"]["body"]["data"][0]["embedding"]), "<f4")


@asynccontextmanager
async def simulating(api: OpenAI) -> AsyncIterator[Client]:
    simulator = Simulator(api, now=lambda: 1_700_000_000.0)
    async with (
        running(simulator) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0) as sdk,
    ):
        yield Client(simulator, sdk)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with simulating(OpenAI()) as client:
        yield client


@pytest.fixture
async def slow_client() -> AsyncIterator[Client]:
    async with simulating(OpenAI(batch_seconds=100, cancel_seconds=10)) as client:
        yield client


async def test_job_completed_has_vector_and_tokens_of_every_line(client: Client) -> None:
    made = await client.create(await client.upload(jsonl(lines("a", "b c"))), metadata={"mine": "1"})
    assert (made.status, made.output_file_id) == ("validating", None)
    job = await client.sdk.batches.retrieve(made.id)
    assert (job.status, job.metadata, job.model, job.errors) == ("completed", {"mine": "1"}, SMALL, None)
    assert job.request_counts
    assert (job.request_counts.total, job.request_counts.completed, job.request_counts.failed) == (2, 2, 0)
    assert job.usage
    assert (job.usage.input_tokens, job.usage.total_tokens) == (3, 3)
    assert (job.created_at, job.completed_at, job.expires_at) == (1_700_000_000, 1_700_000_000, 1_700_086_400)
    assert job.error_file_id is None
    answers = await client.read(job.output_file_id)
    assert [each["custom_id"] for each in answers] == ["id-a", "id-b c"]
    for text, answer in zip(("a", "b c"), answers, strict=True):
        assert set(answer) == {"id", "custom_id", "response", "error"}
        assert answer["response"]["status_code"] == 200
        assert np.array_equal(vector(answer), vector_of(SMALL, text, 4))
    assert answers[1]["response"]["body"]["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    assert client.simulator.account.totals().billed == 3


async def test_file_uploaded_can_be_retrieved_read_listed_and_deleted(client: Client) -> None:
    file = await client.sdk.files.create(
        file=("input.jsonl", b'{"a": 1}\r\n'),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (file.bytes, file.filename, file.purpose, file.status) == (10, "input.jsonl", "batch", "processed")
    assert (file.created_at, file.expires_at) == (1_700_000_000, 1_700_003_600)
    assert await client.sdk.files.retrieve(file.id) == file
    assert await client.sdk.files.wait_for_processing(file.id) == file
    assert (await client.sdk.files.content(file.id)).content == b'{"a": 1}\r\n'
    assert [each.id async for each in client.sdk.files.list()] == [file.id]
    assert [each async for each in client.sdk.files.list(purpose="vision")] == []
    assert (await client.sdk.files.delete(file.id)).deleted
    for again in (client.sdk.files.retrieve, client.sdk.files.content, client.sdk.files.delete):
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            await again(file.id)


async def test_file_of_a_job_expires_after_30_days(client: Client) -> None:
    """Other files are kept until they are deleted."""
    file = await client.upload(b"{}\n")
    other = await client.sdk.files.create(file=("any.txt", b""), purpose="user_data")
    client.simulator.advance(30 * DAY - 1)
    assert [each.id async for each in client.sdk.files.list(order="asc")] == [file, other.id]
    client.simulator.advance(1)
    assert [each.id async for each in client.sdk.files.list()] == [other.id]


async def test_upload_any_bytes_and_name_are_returned(client: Client) -> None:
    for content in (b"", b"\r\n", b"\r\n--\r\n--x--\r\n\r\n", bytes(range(256)) * 5000):
        file = await client.sdk.files.create(file=('a "name".bin', content), purpose="user_data")
        assert (await client.sdk.files.content(file.id)).content == content
        assert file.bytes == len(content)


async def test_lists_are_paginated_newest_first(client: Client) -> None:
    files = [await client.upload(b"{}\n") for _ in range(3)]
    listed = await client.sdk.files.list(limit=2)
    assert ([each.id for each in listed.data], listed.has_more) == ([files[2], files[1]], True)
    rest = await client.sdk.files.list(limit=2, after=files[1])
    assert ([each.id for each in rest.data], rest.has_more) == ([files[0]], False)
    jobs = [(await client.create(files[0])).id for _ in range(25)]
    first = await client.sdk.batches.list()
    assert ([each.id for each in first.data], first.has_more) == (jobs[:4:-1], True)
    assert [each.id async for each in client.sdk.batches.list(limit=7)] == jobs[::-1]
    for wrong in (client.sdk.batches.list(limit=101), client.sdk.files.list(limit=0)):
        with pytest.raises(openai.BadRequestError, match="limit"):
            await wrong
    with pytest.raises(openai.NotFoundError):
        await client.sdk.batches.list(after="batch_none")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"purpose": "batch"}, "'file' is a required property"),
        ({"file": ("a.jsonl", b"{}")}, "'purpose' is a required property"),
        ({"purpose": "other", "file": ("a.jsonl", b"{}")}, "'other' is not one of"),
        ({"purpose": "batch", "file": ("a.txt", b"{}")}, "Must be .jsonl"),
        ({"purpose": "batch", "file": ("a.jsonl", b"")}, "Must be .jsonl"),
        ({"purpose": "batch", "file": ("a.jsonl", b"{")}, "Must be .jsonl"),
        ({"purpose": "batch", "file": ("a.jsonl", b"{}"), "expires_after[seconds]": "3600"}, "anchor"),
        (
            {
                "purpose": "batch",
                "file": ("a.jsonl", b"{}"),
                "expires_after[anchor]": "created_at",
                "expires_after[seconds]": "3599",
            },
            "between 3600 and 2592000",
        ),
    ],
    ids=str,
)
async def test_upload_incomplete_or_unusable_is_refused(
    client: Client, fields: dict[str, Any], why: str
) -> None:
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        if isinstance(value, tuple):
            form.add_field(name, value[1], filename=value[0])
        else:
            form.add_field(name, value)
    async with (
        aiohttp.ClientSession(headers={"Authorization": "Bearer key"}) as session,
        session.post(f"{client.sdk.base_url}files", data=form) as answer,
    ):
        response = (await answer.json())["error"]
    assert answer.status == 400
    assert why in response["message"]
    assert set(response) == {"message", "type", "param", "code"}


async def test_upload_broken_form_is_refused(client: Client, post: Post) -> None:
    url = f"{client.sdk.base_url}files"
    assert (await post(url, b"{}")).status == 400
    whole = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'
    headers = {"Authorization": "Bearer key", "Content-Type": "multipart/form-data; boundary=b"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for body in (
            b"",
            b"--c\r\n",
            whole[:-20],
            whole.replace(b"--b--", b"--b"),
            whole.replace(b"name", b"mane"),
        ):
            async with session.post(url, data=body) as answer:
                assert (answer.status, "could not be read" in await answer.text()) == (400, True)


async def test_job_invalid_lines_fail_it_and_are_named(client: Client) -> None:
    wrong = [
        line("right", "a"),
        {},
        line("right", "b"),
        {**line("url", "a"), "url": "/v1/responses"},
        {**line("method", "a"), "method": "GET"},
        {**line("body", "a"), "body": []},
        line("model", "a", model="gpt-2"),
        line("mixed", "a", model="text-embedding-3-large"),
        line("none", "a", model=None),
        {**line("input", "a"), "body": {"model": SMALL}},
        line(7, "a"),  # type: ignore[arg-type]
    ]
    assert await client.refused(jsonl(wrong) + b"{not JSON") == [
        ("missing_required_parameter", 2, "custom_id"),
        ("missing_required_parameter", 2, "method"),
        ("missing_required_parameter", 2, "url"),
        ("missing_required_parameter", 2, "body"),
        ("duplicate_custom_id", 3, "custom_id"),
        ("invalid_url", 4, "url"),
        ("invalid_value", 5, "method"),
        ("invalid_type", 6, "body"),
        ("model_not_found", 7, "body.model"),
        ("model_mismatch", 8, "body.model"),
        ("invalid_request", 9, "body.model"),
        ("invalid_request", 10, "body.input"),
        ("invalid_type", 11, "custom_id"),
        ("invalid_json_line", 12, None),
    ]
    assert client.simulator.account.totals().billed == 0


async def test_job_input_too_large_or_missing_fails_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_jobs, "LINES", 3)
    monkeypatch.setattr(openai_jobs, "INPUTS", 4)
    assert await client.refused(jsonl(lines("a", "b", "c", "d"))) == [("too_many_tasks", None, None)]
    assert await client.refused(jsonl([line("a", ["a"] * 5)])) == [("too_many_tasks", None, None)]
    assert (await client.run("a", "b", "c")).status == "completed"
    monkeypatch.setattr(openai_jobs, "BYTES", 10)
    assert await client.refused(jsonl(lines("a"))) == [("file_too_large", None, None)]
    job = await client.create("file-none")
    job = await client.sdk.batches.retrieve(job.id)
    assert job.status == "failed"
    assert job.errors
    assert job.errors.data
    assert "Cannot find file file-none" in str(job.errors.data[0].message)


async def test_job_refused_line_is_in_the_error_file(client: Client) -> None:
    """The job completes."""
    written = [
        line("good", "a"),
        line("empty", ""),
        line("long", "a " * 8193),
        line("width", "a", dimensions=0),
    ]
    job = await client.create(await client.upload(jsonl(written)))
    job = await client.sdk.batches.retrieve(job.id)
    assert job.status == "completed"
    assert job.request_counts
    assert (job.request_counts.completed, job.request_counts.failed) == (1, 3)
    assert await client.ids(job.output_file_id) == ["good"]
    errors = await client.read(job.error_file_id)
    assert [each["custom_id"] for each in errors] == ["empty", "long", "width"]
    for each in errors:
        assert (each["error"], each["response"]["status_code"]) == (None, 400)
        assert set(each["response"]["body"]["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input_file_id": None}, "input_file_id"),
        ({"endpoint": None}, "endpoint"),
        ({"endpoint": "/v1/responses"}, "endpoint"),
        ({"completion_window": "12h"}, "completion_window"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a" * 65: ""}}, f"metadata.{'a' * 65}"),
        ({"metadata": {"a": "a" * 513}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
    ],
    ids=str,
)
async def test_job_invalid_request_is_refused(
    client: Client, post: Post, more: dict[str, Any], param: str
) -> None:
    payload = {"input_file_id": "file-a", "endpoint": "/v1/embeddings", "completion_window": "24h", **more}
    response = await post(f"{client.sdk.base_url}batches", payload)
    assert (response.status, response.json["error"]["param"]) == (400, param)
    assert (await client.sdk.batches.list()).data == []


async def test_job_longest_metadata_is_returned_unchanged(client: Client) -> None:
    metadata = {f"{number:064}": "é" * 512 for number in range(16)}
    job = await client.create(await client.upload(b"{}\n"), metadata=metadata)
    assert (await client.sdk.batches.retrieve(job.id)).metadata == metadata


async def test_files_and_jobs_of_another_key_are_not_found(client: Client) -> None:
    job = await client.run("a")
    other = Client(client.simulator, client.sdk.with_options(api_key="other"))
    assert (await other.sdk.files.list()).data == []
    assert (await other.sdk.batches.list()).data == []
    for found in (
        other.sdk.batches.retrieve(job.id),
        other.sdk.batches.cancel(job.id),
        other.sdk.files.content(str(job.output_file_id)),
    ):
        with pytest.raises(openai.NotFoundError):
            await found
    stolen = await other.create(job.input_file_id)
    assert (await other.sdk.batches.retrieve(stolen.id)).status == "failed"


async def test_job_passes_through_its_states_by_the_clock(slow_client: Client) -> None:
    client = slow_client
    job = await client.run(*map(str, range(90)))
    seen = []
    for seconds in (0, 5, 45, 44, 1, 4, 1):
        client.simulator.advance(seconds)
        job = await client.sdk.batches.retrieve(job.id)
        assert job.request_counts
        seen.append((job.status, job.request_counts.total, job.request_counts.completed))
        assert (job.output_file_id is None) == (job.status != "completed")
    assert seen == [
        ("validating", 0, 0),
        ("in_progress", 90, 0),
        ("in_progress", 90, 45),
        ("in_progress", 90, 89),
        ("finalizing", 90, 90),
        ("finalizing", 90, 90),
        ("completed", 90, 90),
    ]
    stamps = job.in_progress_at, job.finalizing_at, job.completed_at
    assert [each - job.created_at for each in stamps if each] == [5, 95, 100]
    assert job.failed_at is job.expired_at is job.cancelling_at is job.cancelled_at is None


async def test_job_cancelled_keeps_and_bills_what_is_done(slow_client: Client) -> None:
    """It names the lines that are left."""
    client = slow_client
    job = await client.run(*map(str, range(10)))
    client.simulator.advance(50)
    job = await client.sdk.batches.cancel(job.id)
    assert (job.status, job.output_file_id) == ("cancelling", None)
    client.simulator.advance(9)
    assert (await client.sdk.batches.cancel(job.id)).status == "cancelling"
    assert client.simulator.account.totals().billed == 0
    client.simulator.advance(1)
    job = await client.sdk.batches.retrieve(job.id)
    assert job.status == "cancelled"
    assert [each and each - job.created_at for each in (job.cancelling_at, job.cancelled_at)] == [50, 60]
    assert await client.ids(job.output_file_id) == [f"id-{number}" for number in range(5)]
    errors = await client.read(job.error_file_id)
    assert [each["custom_id"] for each in errors] == [f"id-{number}" for number in range(5, 10)]
    assert {(each["response"], each["error"]["code"]) for each in errors} == {(None, "batch_cancelled")}
    assert client.simulator.account.totals().billed == 5
    assert (await client.sdk.batches.cancel(job.id)).status == "cancelled"


async def test_job_ended_cannot_be_cancelled(client: Client) -> None:
    done = await client.run("a")
    failed = await client.create(await client.upload(b"{}\n"))
    for job, status in ((done, "completed"), (failed, "failed")):
        with pytest.raises(openai.ConflictError, match=f"Cannot cancel a batch with status '{status}'"):
            await client.sdk.batches.cancel(job.id)
        assert (await client.sdk.batches.retrieve(job.id)).status == status


async def test_job_longer_than_24_hours_expires() -> None:
    async with simulating(OpenAI(batch_seconds=2 * DAY)) as client:
        job = await client.run("a", "b", "c", "d")
        client.simulator.advance(DAY + 1)
        job = await client.sdk.batches.retrieve(job.id)
        assert (job.status, job.expired_at) == ("expired", job.expires_at)
        assert await client.ids(job.output_file_id) == ["id-a", "id-b"]
        errors = await client.read(job.error_file_id)
    assert {(each["response"], each["error"]["code"]) for each in errors} == {(None, "batch_expired")}
    assert client.simulator.account.totals().billed == 2


async def test_job_beyond_the_queue_limit_fails_until_others_end() -> None:
    async with simulating(OpenAI(batch_seconds=100, queue_tokens=5)) as client:
        sdk, simulator = client.sdk, client.simulator
        first = await client.run("a a a")
        other_key = await Client(simulator, sdk.with_options(api_key="other")).run("a a a")
        file = await client.upload(jsonl(lines("b b b")))
        refused = await client.create(file)
        simulator.advance(50)
        refused = await sdk.batches.retrieve(refused.id)
        assert (refused.status, other_key.status) == ("failed", "validating")
        assert refused.errors
        assert refused.errors.data
        assert (refused.errors.data[0].code, refused.errors.data[0].line) == ("token_limit_exceeded", None)
        assert "Enqueued token limit reached" in str(refused.errors.data[0].message)
        simulator.advance(50)
        again = await client.create(file)
        simulator.advance(100)
        assert (await sdk.batches.retrieve(first.id)).status == "completed"
        assert (await sdk.batches.retrieve(again.id)).status == "completed"


async def test_account_counts_repeated_billing_of_requests_and_jobs(client: Client) -> None:
    await client.sdk.embeddings.create(model=SMALL, input=["a", "b"])
    account = client.simulator.account
    assert (account.times_billed(SMALL, "a"), account.times_billed(SMALL, "c")) == (1, 0)
    assert not account.billed_again
    await client.run("b", "c")
    account = client.simulator.account
    assert [account.times_billed(SMALL, text) for text in "abc"] == [1, 2, 1]
    assert account.billed_again == {"b": 1}
    totals = account.totals()
    assert (totals.billed, totals.billed_texts, totals.billed_again, totals.texts) == (4, 3, 1, 4)


async def test_job_is_billed_without_being_polled(client: Client) -> None:
    client.simulator.order(Fault(kind="cut", path="/v1/batches"))
    file = await client.upload(jsonl(lines("a", "b")))
    with pytest.raises(openai.APIConnectionError):
        await client.create(file, metadata={"mine": "1"})
    assert client.simulator.account.totals().billed == 2
    client.simulator.order()
    (job,) = [each async for each in client.sdk.batches.list()]
    assert (job.status, job.metadata) == ("completed", {"mine": "1"})


async def test_jobs_created_concurrently_have_their_own_answers(client: Client) -> None:
    files = await asyncio.gather(*(client.upload(jsonl(lines(f"{number}", "same"))) for number in range(8)))
    made = await asyncio.gather(*map(client.create, files))
    jobs = await asyncio.gather(*(client.sdk.batches.retrieve(job.id) for job in made))
    found = await asyncio.gather(*(client.ids(job.output_file_id) for job in jobs))
    assert found == [[f"id-{number}", "id-same"] for number in range(8)]
    assert client.simulator.account.billed_again == {"same": 7}


async def test_job_output_expires_as_requested(client: Client) -> None:
    file = await client.upload(jsonl(lines("a")))
    made = await client.create(file, output_expires_after={"anchor": "created_at", "seconds": 3600})
    job = await client.sdk.batches.retrieve(made.id)
    stored = await client.sdk.files.retrieve(str(job.output_file_id))
    assert (stored.purpose, stored.expires_at) == ("batch_output", 1_700_003_600)
    client.simulator.advance(3600)
    with pytest.raises(openai.NotFoundError):
        await client.sdk.files.content(stored.id)
