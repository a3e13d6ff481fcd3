"""The simulated Files and Batch APIs of Voyage, as documented."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import pytest

from flowbed.testing.simulators import Fault, Simulator, Voyage, running, vector_of
from flowbed.testing.simulators.batch_api import voyage_jobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.testing.simulators.conftest import Post, Response

MODEL = "voyage-4"


class Client:
    """A client of the simulator."""

    def __init__(self, simulator: Simulator, url: str, post: Post) -> None:
        self.simulator = simulator
        self.url = url
        self._post = post

    async def ask(
        self, path: str, payload: Any = None, *, method: str = "POST", key: str = "key"
    ) -> Response:
        return await self._post(f"{self.url}/v1/{path}", payload, method=method, key=key)

    async def get(self, path: str) -> Any:
        response = await self.ask(path, method="GET")
        assert response.status == 200, response
        return response.json

    async def upload(self, written: bytes, **more: str) -> dict[str, Any]:
        form = aiohttp.FormData({"purpose": "batch", **more}, default_to_multipart=True)
        form.add_field("file", written, filename="input.jsonl")
        async with (
            aiohttp.ClientSession(headers={"Authorization": "Bearer key"}) as session,
            session.post(f"{self.url}/v1/files", data=form) as answer,
        ):
            response: dict[str, Any] = {"status": answer.status, **await answer.json()}
            return response

    async def create(self, file: str, **more: Any) -> Response:
        payload = {
            "endpoint": "/v1/embeddings",
            "completion_window": "12h",
            "request_params": {"model": MODEL, "input_type": "document", "output_dimension": 256},
            "input_file_id": file,
            "metadata": {"mine": "1"},
        }
        return await self.ask("batches", {**payload, **more})

    async def run(self, **bodies: Any) -> Any:
        """Create a job of these lines, and return its state."""
        file = await self.upload(jsonl(**bodies))
        response = await self.create(file["id"])
        assert response.status == 200, response
        return await self.get(f"batches/{response.json['id']}")

    async def read(self, file: str) -> list[dict[str, Any]]:
        headers = {"Authorization": "Bearer key"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{self.url}/v1/files/{file}/content") as answer,
        ):
            assert answer.status == 200
            return [json.loads(each) for each in (await answer.text()).splitlines()]


def jsonl(**bodies: Any) -> bytes:
    lines = ({"custom_id": custom_id, "body": body} for custom_id, body in bodies.items())
    return "\n".join(map(json.dumps, lines)).encode()


@asynccontextmanager
async def simulating(api: Voyage, post: Post) -> AsyncIterator[Client]:
    simulator = Simulator(api, now=lambda: 1_700_000_000.0)
    async with running(simulator) as url:
        yield Client(simulator, url, post)


@pytest.fixture
async def client(post: Post) -> AsyncIterator[Client]:
    async with simulating(Voyage(), post) as client:
        yield client


async def test_voyage_job_completed_answers_every_line(client: Client) -> None:
    job = await client.run(one={"input": ["a", "b"]}, two={"input": "c"})
    assert (job["object"], job["status"], job["model"], job["errors"]) == ("batch", "completed", MODEL, None)
    assert job["metadata"] == {"mine": "1"}
    assert job["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert job["created_at"] == job["completed_at"] == "2023-11-14T22:13:20.000000+00:00"
    assert job["expected_completion_at"] == "2023-11-15T10:13:20.000000+00:00"
    assert job["cancelling_at"] is job["failed_at"] is None
    one, two = await client.read(job["output_file_id"])
    assert (one["batch_id"], one["custom_id"], one["error"]) == (job["id"], "one", None)
    body = one["response"]["body"]
    assert (one["response"]["status_code"], body["model"], body["usage"]) == (200, MODEL, {"total_tokens": 2})
    for text, each in zip("ab", body["data"], strict=True):
        assert np.array_equal(np.float32(each["embedding"]), vector_of(MODEL, text, 256, "document"))
    assert two["custom_id"] == "two"
    assert client.simulator.account.times_billed(MODEL, "c", "document") == 1


async def test_voyage_file_can_be_retrieved_listed_and_deleted(client: Client) -> None:
    """Its dates are texts."""
    file = await client.upload(b'{"a": 1}')
    assert (file["bytes"], file["filename"], file["purpose"]) == (8, "input.jsonl", "batch")
    assert file["expires_at"] == "2023-12-14T22:13:20.000000+00:00"
    listed = await client.get("files")
    assert ([each["id"] for each in listed["data"]], listed["has_more"]) == ([file["id"]], False)
    assert (await client.get(f"files/{file['id']}"))["id"] == file["id"]
    assert (await client.ask(f"files/{file['id']}", method="DELETE")).json["deleted"]
    assert (await client.ask(f"files/{file['id']}", method="GET")).status == 404
    assert (await client.upload(b"{}", purpose="vision"))["status"] == 400
    assert (await client.ask("files", {})).status == 400
    assert (await client.ask("files", method="GET", key="")).status == 401


async def test_voyage_jobs_are_paginated_newest_first(client: Client) -> None:
    made = [(await client.run(a={"input": "a"}))["id"] for _ in range(3)]
    first = await client.get("batches?limit=2")
    assert ([each["id"] for each in first["data"]], first["has_more"]) == ([made[2], made[1]], True)
    rest = await client.get(f"batches?limit=2&after={first['last_id']}")
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == ([made[0]], False)
    assert (await client.ask("batches?limit=none", method="GET")).status == 400
    assert (await client.ask("batches?after=none", method="GET")).status == 404
    assert (await client.ask("batches", method="GET", key="other")).json["data"] == []


@pytest.mark.parametrize(
    "more",
    [
        {"endpoint": "/v1/rerank"},
        {"completion_window": "24h"},
        {"request_params": None},
        {"request_params": {"model": "voyage-2"}},
        {"request_params": {"model": MODEL, "output_dimension": 7}},
        {"input_file_id": None},
        {"metadata": {str(number): "" for number in range(17)}},
    ],
    ids=str,
)
async def test_voyage_job_invalid_request_is_refused(client: Client, more: dict[str, Any]) -> None:
    file = await client.upload(jsonl(a={"input": "a"}))
    response = await client.create(file["id"], **more)
    assert (response.status, set(response.json)) == (400, {"detail"})
    assert (await client.get("batches"))["data"] == []


async def test_voyage_job_of_a_missing_file_is_not_created(client: Client) -> None:
    assert (await client.create("file-none")).status == 404
    assert (await client.ask("batches/none", method="GET")).status == 404
    assert (await client.ask("batches/none/cancel")).status == 404


async def test_voyage_job_invalid_lines_fail_it(client: Client) -> None:
    wrong = b'{"custom_id": "a"}\n{"body": {"input": "a"}}\n{"custom_id": "a", "body": {"input": "a"}}\n'
    wrong += b'{"custom_id": "b", "body": {"input": "a", "model": "voyage-4"}}'
    response = await client.create((await client.upload(wrong))["id"])
    job = await client.get(f"batches/{response.json['id']}")
    assert (response.json["status"], job["status"], job["output_file_id"]) == ("validating", "failed", None)
    assert [(each["code"], each["line"]) for each in job["errors"]["data"]] == [
        ("missing_required_parameter", 1),
        ("missing_required_parameter", 2),
        ("duplicate_custom_id", 3),
        ("invalid_request", 4),
    ]


async def test_voyage_job_refused_line_is_in_the_error_file(client: Client) -> None:
    """It has a message instead of a body."""
    job = await client.run(good={"input": "a"}, empty={"input": ""})
    assert job["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    (error,) = await client.read(job["error_file_id"])
    assert (error["custom_id"], error["response"]["status_code"]) == ("empty", 400)
    assert "empty strings" in error["response"]["message"]


async def test_voyage_job_beyond_the_accounts_limits_is_refused(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many unfinished jobs or tokens are refused with 429, too many inputs fail the job."""
    monkeypatch.setattr(voyage_jobs, "UNFINISHED", 2)
    monkeypatch.setattr(voyage_jobs, "INPUTS", 3)
    async with simulating(Voyage(batch_seconds=100, queue_tokens=6), post) as client:
        file = (await client.upload(jsonl(a={"input": "a a"})))["id"]
        large = (await client.upload(jsonl(a={"input": "a a a a a"})))["id"]
        assert (await client.create(file)).status == 200
        assert (await client.create(large)).status == 429
        assert (await client.create(file)).status == 200
        assert (await client.create(file)).status == 429
        client.simulator.advance(100)
        assert (await client.create(large)).status == 200
        client.simulator.advance(100)
        many = await client.run(a={"input": ["a"] * 4})
        client.simulator.advance(100)
        assert (await client.get(f"batches/{many['id']}"))["errors"]["data"][0]["code"] == "too_many_inputs"


async def test_voyage_job_cancelled_keeps_what_is_done(post: Post) -> None:
    """Lines that are left are not reported; an ended job cannot be cancelled."""
    async with simulating(Voyage(batch_seconds=100, cancel_seconds=10), post) as client:
        job = await client.run(a={"input": "a"}, b={"input": "b"})
        client.simulator.advance(50)
        assert (await client.ask(f"batches/{job['id']}/cancel")).json["status"] == "cancelling"
        client.simulator.advance(10)
        job = await client.get(f"batches/{job['id']}")
        assert (job["status"], job["error_file_id"]) == ("cancelled", None)
        assert [each["custom_id"] for each in await client.read(job["output_file_id"])] == ["a"]
        assert (await client.ask(f"batches/{job['id']}/cancel")).json["status"] == "cancelled"
        done = await client.run(a={"input": "a"})
        client.simulator.advance(100)
        assert (await client.ask(f"batches/{done['id']}/cancel")).status == 400


async def test_voyage_job_after_12_hours_completes_with_errors_for_the_rest(post: Post) -> None:
    async with simulating(Voyage(batch_seconds=86_400), post) as client:
        job = await client.run(a={"input": "a"}, b={"input": "b"})
        client.simulator.advance(43_200)
        job = await client.get(f"batches/{job['id']}")
        assert (job["status"], job["completed_at"]) == ("completed", job["expected_completion_at"])
        (left,) = await client.read(job["error_file_id"])
        assert (left["custom_id"], left["response"], left["error"]["code"]) == ("b", None, "batch_expired")
        assert client.simulator.account.totals().billed == 1


async def test_voyage_job_faults_have_voyages_shape(client: Client) -> None:
    client.simulator.order(
        Fault(kind="failed_lines", text="b", status=500), Fault(kind="doubled_lines", text="a")
    )
    job = await client.run(a={"input": "a"}, b={"input": "b"})
    assert [each["custom_id"] for each in await client.read(job["output_file_id"])] == ["a", "a"]
    (error,) = await client.read(job["error_file_id"])
    assert error["response"] == {"status_code": 500, "message": "A fault to order."}
