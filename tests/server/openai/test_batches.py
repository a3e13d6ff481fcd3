"""/v1/batches over HTTP, on server processes that are killed and restarted."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import orjson
import pytest
from pybase64 import b64decode
from tests.server.conftest import MODEL, Running, create_key, write_project
from tests.server.processes import ServerProcess, eventually

from flowbed.server.app import working
from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LINES = 12_000  # two seconds of work, in several parts
ENDED = {"completed", "failed", "expired", "cancelled"}
OBJECT = {
    "id",
    "object",
    "endpoint",
    "model",
    "errors",
    "input_file_id",
    "completion_window",
    "status",
    "output_file_id",
    "error_file_id",
    "created_at",
    "expires_at",
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
    "request_counts",
    "usage",
    "metadata",
}


def written(texts: list[str], **fields: Any) -> bytes:
    """Write an input file with one line for each text, named by its position."""
    lines = (
        {
            "custom_id": f"c{n}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": MODEL, "input": text, **fields},
        }
        for n, text in enumerate(texts)
    )
    return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)


def begin(client: openai.OpenAI, body: bytes, **how: Any) -> openai.types.Batch:
    file = client.files.create(file=("in.jsonl", body), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", **how
    )


def ended(client: openai.OpenAI, batch: str) -> openai.types.Batch:
    def look() -> openai.types.Batch | None:
        found = client.batches.retrieve(batch)
        return found if found.status in ENDED else None

    return eventually(look, f"the end of {batch}")


def in_progress(client: openai.OpenAI, batch: str, *others: openai.OpenAI) -> openai.types.Batch:
    """Wait until some lines of a batch are answered; requests to every server slow it down, so that it does not end."""

    def look() -> openai.types.Batch | None:
        for each in (client, *others):
            each.embeddings.create(model=MODEL, input="interactive")
        found = client.batches.retrieve(batch)
        assert found.status in {"validating", "in_progress"}, (
            "the batch has ended already: it needs more lines"
        )
        return found if found.request_counts and found.request_counts.completed else None

    return eventually(look, f"answered lines of {batch}")


def lines(client: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    return [] if file is None else [json.loads(line) for line in client.files.content(file).text.splitlines()]


def require_answers(found: list[dict[str, Any]], texts: list[str]) -> None:
    """Check that each text has exactly one answer: its own vector."""
    assert sorted(each["custom_id"] for each in found) == sorted(f"c{n}" for n in range(len(texts)))
    answers = {each["custom_id"]: each["response"]["body"]["data"][0]["embedding"] for each in found}
    vectors = [
        np.frombuffer(b64decode(answer), "<f4") if isinstance(answer, str) else np.array(answer)
        for answer in (answers[f"c{n}"] for n in range(len(texts)))
    ]
    assert np.allclose(vectors, seeded(texts, 64), atol=1e-6)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run a server that executes batches."""
    server = Running(write_project(tmp_path_factory.mktemp("project")))
    stack = contextlib.AsyncExitStack()
    server.wait(stack.enter_async_context(working(server.app, server.service)))
    yield server
    server.wait(stack.aclose())
    server.close()


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def test_batch_through_the_sdk_completes_with_openais_fields(client: openai.OpenAI, running: Running) -> None:
    texts = [f"text {n}" for n in range(50)]
    begun = begin(client, written(texts, encoding_format="base64"), metadata={"a": "b"})
    assert (begun.object, begun.status, begun.expires_at) == (
        "batch",
        "validating",
        begun.created_at + 86_400,
    )
    batch = ended(client, begun.id)
    assert batch.status == "completed", batch
    assert set(running.call("GET", f"/v1/batches/{batch.id}").json) == OBJECT
    assert batch.metadata == {"a": "b"}
    assert batch.errors is None
    assert batch.error_file_id is None
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 50, "completed": 50, "failed": 0}
    assert batch.usage is not None
    assert batch.usage.input_tokens == batch.usage.total_tokens == 100
    stamps = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert None not in stamps
    assert stamps == sorted(stamp or 0 for stamp in stamps)
    assert (batch.cancelled_at, batch.expired_at, batch.failed_at) == (None, None, None)
    found = lines(client, batch.output_file_id)
    require_answers(found, texts)
    for each in found:
        assert set(each) == {"id", "custom_id", "response", "error"}
        assert set(each["response"]) == {"status_code", "request_id", "body"}
        assert each["response"]["body"]["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    made = client.files.retrieve(batch.output_file_id or "")
    assert (made.purpose, made.filename) == ("batch_output", f"{batch.id}_output.jsonl")


def test_batch_line_gets_the_same_response_as_a_request(client: openai.OpenAI, running: Running) -> None:
    bodies = [
        {"model": MODEL, "input": ["a", "b c"]},
        {"model": MODEL, "input": [1820, 382], "encoding_format": "base64"},
        {"model": MODEL, "input": "POISON"},
        {"model": MODEL, "input": ["x", ""]},
        {"model": MODEL, "input": "x", "dimensions": 7},
    ]
    text = b"".join(
        orjson.dumps(
            {"custom_id": f"c{n}", "method": "POST", "url": "/v1/embeddings", "body": body},
            option=orjson.OPT_APPEND_NEWLINE,
        )
        for n, body in enumerate(bodies)
    )
    batch = ended(client, begin(client, text).id)
    found = [*lines(client, batch.output_file_id), *lines(client, batch.error_file_id)]
    assert sorted(each["custom_id"] for each in found) == [f"c{n}" for n in range(5)]
    for each in found:
        reply = running.call("POST", "/v1/embeddings", bodies[int(each["custom_id"][1:])])
        assert (each["response"]["status_code"], each["response"]["body"]) == (reply.status, reply.json)


def test_batch_invalid_lines_fails_and_names_each(client: openai.OpenAI) -> None:
    text = written(["a"]) + b"{\n" + written(["b"])
    batch = ended(client, begin(client, text).id)
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert [(each.code, each.line, each.param) for each in batch.errors.data or []] == [
        ("invalid_json_line", 2, None),
        ("duplicate_custom_id", 3, "custom_id"),
    ]
    assert (batch.output_file_id, batch.usage) == (None, None)


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"input_file_id": "file-unknown"}, 404, "input_file_id"),
        ({"input_file_id": None}, 400, "input_file_id"),
        ({"endpoint": "/v1/chat/completions"}, 400, "endpoint"),
        ({"completion_window": "1h"}, 400, "completion_window"),
        ({"metadata": {str(n): "" for n in range(17)}}, 400, "metadata"),
        ({"metadata": {"a": "x" * 513}}, 400, "metadata"),
        ({"metadata": {"x" * 65: ""}}, 400, "metadata"),
        ({"metadata": {"a": 1}}, 400, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, 400, "output_expires_after"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_create_batch_invalid_field_is_refused_by_name(
    running: Running, client: openai.OpenAI, change: dict[str, Any], status: int, param: str
) -> None:
    file = client.files.create(file=("in.jsonl", b""), purpose="batch")
    requested = {"input_file_id": file.id, "endpoint": "/v1/embeddings", "completion_window": "24h", **change}
    reply = running.call("POST", "/v1/batches", requested)
    assert (reply.status, reply.refused()["param"]) == (status, param)


def test_list_batches_gives_pages_newest_first(client: openai.OpenAI, running: Running) -> None:
    made = [begin(client, written(["x"])).id for _ in range(3)]
    page = running.call("GET", "/v1/batches").json
    assert [each["id"] for each in page["data"][:3]] == made[::-1]
    assert (page["first_id"], page["has_more"]) == (made[2], False)
    assert [batch.id for batch, _ in zip(client.batches.list(limit=1), range(3), strict=False)] == made[::-1]
    for batch in made:
        ended(client, batch)


def test_cancel_batch_keeps_results_and_lists_the_rest_as_cancelled(client: openai.OpenAI) -> None:
    """A batch that has ended cannot be cancelled."""
    begun = begin(client, written([f"some text {n}" for n in range(20_000)]))
    assert client.batches.cancel(begun.id).status in {"cancelling", "finalizing"}
    batch = ended(client, begun.id)
    assert batch.status == "cancelled"
    found, errors = lines(client, batch.output_file_id), lines(client, batch.error_file_id)
    assert len(found) + len(errors) == 20_000
    assert all(each["response"] is None and each["error"]["code"] == "batch_cancelled" for each in errors)
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(begun.id)


def test_batch_result_files_expire_after_the_requested_time(client: openai.OpenAI) -> None:
    """The time counts from the end of the work; the default is 30 days."""
    message = {"anchor": "created_at", "seconds": 3600}
    for how, seconds in (({"output_expires_after": message}, 3600), ({}, 30 * 86_400)):
        batch = ended(client, begin(client, written(["x"]), **how).id)
        file = client.files.retrieve(batch.output_file_id or "")
        assert file.expires_at == (batch.finalizing_at or 0) + seconds


def test_metrics_count_batch_lines_by_outcome(client: openai.OpenAI, running: Running) -> None:
    def counted(outcome: str) -> float:
        with urllib.request.urlopen(f"{running.url}/metrics") as metrics:  # noqa: S310 - our own server
            text = metrics.read().decode()
        name = f'flowbed_batch_lines_total{{outcome="{outcome}"}} '
        return float(next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name))

    before = counted("completed"), counted("failed")
    ended(client, begin(client, written(["a", "POISON", "b"])).id)
    assert (counted("completed"), counted("failed")) == (before[0] + 2, before[1] + 1)

    with urllib.request.urlopen(f"{running.url}/metrics") as metrics:  # noqa: S310 - our own server
        assert b"# TYPE flowbed_batches gauge" in metrics.read()


def test_batches_of_another_key_are_not_found(tmp_path: Path, serve: Callable[..., ServerProcess]) -> None:
    folder = write_project(tmp_path / "project")
    mine, yours = create_key(folder), create_key(folder)
    running = serve(folder)
    with running.client(mine) as owner, running.client(yours) as stranger:
        batch = ended(owner, begin(owner, written(["a"])).id)
        for ask in (stranger.batches.retrieve, stranger.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                ask(batch.id)
        with pytest.raises(openai.NotFoundError):
            stranger.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/embeddings", completion_window="24h"
            )
        with pytest.raises(openai.NotFoundError):
            stranger.files.content(batch.output_file_id or "")
        assert stranger.batches.list().data == []
        require_answers(lines(owner, batch.output_file_id), ["a"])


@pytest.mark.parametrize(
    ("number", "kills"), [(LINES, 3), pytest.param(40_000, 8, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_batch_server_killed_repeatedly_answers_each_line_once(
    tmp_path: Path, serve: Callable[..., ServerProcess], number: int, kills: int
) -> None:
    chance = random.Random(7)
    folder = write_project(tmp_path / "project")
    texts = [f"text {n}" for n in range(number)]
    running = serve(folder, "--no-log-requests")
    with running.client() as client:
        batch = begin(client, written(texts, encoding_format="base64")).id
    for kill in range(kills):
        if kill:
            time.sleep(chance.uniform(0.0, 0.5))
        else:  # in the middle of the work, for certain
            with running.client() as client:
                in_progress(client, batch)
        running.end(signal.SIGKILL)
        running = serve(folder, "--no-log-requests")
    with running.client() as client:
        found = ended(client, batch)
        assert found.status == "completed"
        require_answers(lines(client, found.output_file_id), texts)
        assert found.error_file_id is None
        assert found.request_counts is not None
        assert found.request_counts.completed == number
    assert running.end() == 0


def test_batch_worker_killed_is_continued_by_another(
    tmp_path: Path, serve_command: Callable[..., ServerProcess]
) -> None:
    """Other workers continue long before the lease of the killed one expires."""
    folder = write_project(tmp_path / "project")
    texts = [f"text {n}" for n in range(LINES)]
    running = serve_command(folder, "--no-log-requests", "--workers", "2")
    with running.client() as client:
        batch = begin(client, written(texts, encoding_format="base64")).id
    for worker in running.workers(2):  # one of them holds the lease
        time.sleep(0.3)
        worker.kill()
    with running.client(retries=5) as client:
        require_answers(lines(client, ended(client, batch).output_file_id), texts)
    assert running.end() == 0


def test_batch_server_stopped_continues_after_restart(
    tmp_path: Path, serve: Callable[..., ServerProcess]
) -> None:
    """A server that is told to stop releases its batch without reporting an error."""
    folder = write_project(tmp_path / "project")
    texts = [f"text {n}" for n in range(LINES)]
    running = serve(folder, "--no-log-requests")
    with running.client() as client:
        batch = begin(client, written(texts, encoding_format="base64")).id
        eventually(lambda: client.batches.retrieve(batch).status != "validating", "the start of the batch")
    assert running.end() == 0
    assert running.errors.read_text() == ""
    running = serve(folder, "--no-log-requests")
    with running.client() as client:
        require_answers(lines(client, ended(client, batch).output_file_id), texts)
