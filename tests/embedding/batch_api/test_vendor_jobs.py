"""Batch APIs of single vendors: their input lines, terms, states and errors."""

from __future__ import annotations

import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from flowbed.embedding import open_embedder
from flowbed.embedding.batch_api.job_client import NAME as REMOTE_NAME
from flowbed.embedding.batch_api.job_client import TEXT as REMOTE_TEXT
from flowbed.embedding.batch_api.job_files import read_job
from flowbed.embedding.dimensions import resized_space
from flowbed.embedding.local.onnx import open_onnx
from flowbed.embedding.vendors import open_jobs
from flowbed.embedding.wrappers.breaker import Breaker, CircuitBreaking
from flowbed.errors import Misconfigured, NotFound, QueueFull, Rejected, TooMany, Transient
from flowbed.testing.simulators import OpenAI, Simulator, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from flowbed.embedding.batch_api import BatchApi
    from flowbed.embedding.local.onnx import Onnx

NAME = "ab" * 32
BATCH = {"id": "batch_1", "object": "batch", "status": "validating"}
NOTHING: dict[str, Any] = {"object": "list", "data": [], "has_more": False}


def opened(model: str, folder: Path, url: str = "https://api.test/v1", **options: str) -> BatchApi | None:
    """Open the Batch API of a model."""
    said = {"api_key": "sk-1", "base_url": url, **options}
    return open_jobs(model, open_embedder(model, cache=folder, options=said), options=said)


async def texts() -> AsyncIterator[bytes]:
    """Read an input."""
    yield b"{}\n"


class Acting:
    """A server that returns the given answers in turn, repeating the last; it records its requests."""

    def __init__(self, **answers: list[tuple[int, Any]]) -> None:
        """Take answers by method and first word of the path, as `get_files`."""
        self.answers = {"get_files": [(200, NOTHING)], "post_files": [(200, {"id": "file-1"})], **answers}
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[Any] = []

    async def answer(self, request: web.Request) -> web.Response:
        """Answer anything."""
        body = await request.read()
        self.asked.append((request.method, request.path_qs.removeprefix("/v1")))
        self.bodies.append(
            orjson.loads(body) if body and request.content_type == "application/json" else body
        )
        given = self.answers[f"{request.method.lower()}_{request.path.split('/')[2]}"]
        status, said = given.pop(0) if len(given) > 1 else given[0]
        return web.json_response(said, status=status)


class Serving(Acting):
    """A server of a local model that deviates from it."""

    def __init__(self, model: Onnx) -> None:
        """Serve a model."""
        super().__init__(post_batches=[(200, BATCH)])
        self.model = model

    async def answer(self, request: web.Request) -> web.Response:
        """Answer embedding requests with the model's vectors."""
        if not request.path.endswith("/embeddings"):
            return await super().answer(request)
        body = await request.json()
        try:
            found = await self.model.embed(body["input"], purpose="document")
        except Rejected as error:
            return web.json_response({"error": {"message": str(error)}}, status=422)
        data = [{"index": index, "embedding": row.tolist()} for index, row in enumerate(found.vectors)]
        return web.json_response({"data": data, "usage": {"prompt_tokens": found.tokens}})


@asynccontextmanager
async def acting(
    server: Acting, folder: Path, model: str = "openai:text-embedding-3-small", **options: str
) -> AsyncIterator[BatchApi]:
    """Open the Batch API of such a server."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    jobs = opened(model, folder, f"{site.name}/v1", **options)
    assert jobs is not None
    try:
        yield jobs
    finally:
        await jobs.aclose()
        await runner.cleanup()


def test_openai_line_is_a_whole_request(tmp_path: Path) -> None:
    """A line has method, URL and body, and dimensions only if they differ from the model's."""
    jobs = opened("openai:text-embedding-3-large", tmp_path)
    assert jobs is not None
    assert orjson.loads(jobs.line(NAME, "a")) == {
        "custom_id": NAME,
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"input": ["a"], "model": "text-embedding-3-large", "encoding_format": "base64"},
    }
    jobs = opened("openai:text-embedding-3-large", tmp_path, dimensions="256")
    assert jobs is not None
    assert orjson.loads(jobs.line(NAME, "a"))["body"]["dimensions"] == 256


def test_line_document_prompt_precedes_the_text(tmp_path: Path) -> None:
    jobs = opened(
        "compatible:e5",
        tmp_path,
        batch="true",
        dimensions="8",
        document_prompt="passage: ",
        query_prompt="query: ",
        send_input_type="true",
        encoding="none",
    )
    assert jobs is not None
    body = orjson.loads(jobs.line(NAME, "a"))["body"]
    assert body == {"input": ["passage: a"], "model": "e5", "input_type": "document"}


@pytest.mark.parametrize(
    "text", ["", 'a "quoted" \\ one', "line\nbreak \u2028", "\0", "🌍 埋め込み", REMOTE_TEXT, REMOTE_NAME]
)
@pytest.mark.parametrize("prompt", ['say "it" ', f"{REMOTE_TEXT} and {REMOTE_NAME}: "])
def test_line_any_text_and_prompt_is_valid_json(prompt: str, text: str, tmp_path: Path) -> None:
    options = {"batch": "true", "dimensions": "8", "encoding": "none", "document_prompt": prompt}
    jobs = opened("compatible:e5", tmp_path, **options)
    assert jobs is not None
    line = jobs.line('a "name"', text)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    said = orjson.loads(line)
    assert (said["custom_id"], said["body"]["input"]) == ('a "name"', [prompt + text])


async def test_openai_job_names_file_endpoint_and_submission(tmp_path: Path) -> None:
    server = Acting(post_batches=[(200, BATCH)])
    async with acting(server, tmp_path) as jobs:
        job = await jobs.submit("s-1", texts, size=3)
    assert (job.id, job.state) == ("batch_1", "running")
    assert [each for each in server.asked if each[0] == "POST"] == [("POST", "/files"), ("POST", "/batches")]
    assert b'filename="flowbed-s-1.jsonl"' in server.bodies[1]
    assert server.bodies[2] == {
        "input_file_id": "file-1",
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
        "metadata": {"flowbed_submission": "s-1"},
    }


async def test_voyage_job_has_the_parameters_of_its_lines(tmp_path: Path) -> None:
    """Lines hold only texts; model, type, size and encoding are the job's."""
    server = Acting(post_batches=[(200, {**BATCH, "created_at": "2026-11-19T02:47:42.031781+00:00"})])
    async with acting(server, tmp_path, "voyage:voyage-4", dimensions="512") as jobs:
        assert orjson.loads(jobs.line(NAME, "a")) == {"custom_id": NAME, "body": {"input": ["a"]}}
        await jobs.submit("s-1", texts, size=3)
    assert server.bodies[2] == {
        "input_file_id": "file-1",
        "endpoint": "/v1/embeddings",
        "completion_window": "12h",
        "metadata": {"flowbed_submission": "s-1"},
        "request_params": {
            "model": "voyage-4",
            "input_type": "document",
            "truncation": False,
            "encoding_format": "base64",
            "output_dimension": 512,
        },
    }


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("openai:text-embedding-3-small", {"api_version": "2024-10-21"}),
        ("openai:text-embedding-3-small", {"base_url": "https://me.openai.azure.com/openai/v1"}),
        ("compatible:e5", {"dimensions": "8"}),
        ("compatible:e5", {"dimensions": "8", "batch": "false"}),
        ("voyage:voyage-law-2", {}),
        ("voyage:voyage-9", {"dimensions": "8", "price": "1"}),
        ("cohere:embed-v4.0", {}),
    ],
)
def test_open_jobs_without_a_batch_api_returns_none(
    tmp_path: Path, model: str, options: dict[str, str]
) -> None:
    """Azure, servers without the option, models that Voyage does not run in jobs, vendors without one."""
    assert opened(model, tmp_path, **options) is None


def test_open_jobs_embedder_of_another_space_returns_none(tmp_path: Path) -> None:
    """Vectors that a wrapper changes are not those that a job returns."""
    options = {"api_key": "sk-1"}
    embedder = open_embedder("openai:text-embedding-3-small", cache=tmp_path, options=options)
    changed = CircuitBreaking(embedder, Breaker("openai"))
    changed.space = resized_space(embedder.space, 8, "reduce", matryoshka=True)
    assert open_jobs("openai:text-embedding-3-small", changed, options=options) is None


@pytest.mark.parametrize(
    ("model", "options", "price", "tokens"),
    [
        ("openai:text-embedding-3-small", {}, 0.01, 3_000_000),
        ("openai:text-embedding-3-small", {"price": "0.018", "batch_tokens": "500"}, 0.009, 500),
        ("openai:text-embedding-9", {"price": "1", "dimensions": "8"}, 0.5, 3_000_000),
        ("voyage:voyage-4", {}, 0.0402, 1_000_000_000),
        ("compatible:e5", {"batch": "true", "dimensions": "8"}, 0.0, None),
        ("compatible:text-embedding-3-small", {"batch": "true"}, 0.02, None),
        ("compatible:text-embedding-3-small", {"batch": "true", "batch_price": "0.25"}, 0.005, None),
    ],
)
def test_terms_price_is_the_batch_share(
    tmp_path: Path, model: str, options: dict[str, str], price: float, tokens: int | None
) -> None:
    """Half at OpenAI, two thirds at Voyage, and elsewhere what the options say; so is the queue."""
    jobs = opened(model, tmp_path, **options)
    assert jobs is not None
    assert jobs.terms.price == pytest.approx(price)
    assert jobs.terms.tokens == tokens


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("openai:text-embedding-3-small", {"api_key": "sk-2"}),
        ("openai:text-embedding-3-small", {"project": "proj_1"}),
        ("openai:text-embedding-3-small", {"organization": "org-1"}),
        ("openai:text-embedding-3-small", {"base_url": "https://api.test/v2"}),
        ("compatible:e5", {"base_url": "https://api.test/v2"}),
        ("voyage:voyage-4", {"base_url": "https://api.test/v2"}),
    ],
)
def test_terms_account_depends_on_key_project_and_address(
    tmp_path: Path, model: str, options: dict[str, str]
) -> None:
    """Jobs of another key, project, organization or address are not visible with this one; limits do not matter."""
    more = {"batch": "true", "dimensions": "8"} if model.startswith("compatible") else {}
    one, same = opened(model, tmp_path, **more), opened(model, tmp_path, requests_per_minute="9", **more)
    other = opened(model, tmp_path, **more | options)
    assert one is not None
    assert same is not None
    assert other is not None
    assert one.terms.account == same.terms.account != other.terms.account
    assert "sk-" not in other.terms.account


@pytest.mark.parametrize(
    "options",
    [{"batch": "yes"}, {"batch": "true", "batch_tokens": "many"}, {"batch": "true", "batch_price": "-1"}],
)
def test_open_jobs_invalid_option_is_misconfigured(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(Misconfigured, match="option batch"):
        opened("compatible:e5", tmp_path, dimensions="8", **options)


async def test_retrieve_full_queue_is_not_an_input_error(tmp_path: Path) -> None:
    """An input that does not fit beside what is queued is not wrong, and is accepted later."""
    api = OpenAI(queue_tokens=10)
    async with running(Simulator(api)) as url:
        jobs = opened("openai:text-embedding-3-small", tmp_path, f"{url}/v1")
        assert jobs is not None
        line = jobs.line(NAME, "word " * 50)

        async def read() -> AsyncIterator[bytes]:
            yield line

        job = await jobs.submit("s-1", read, size=len(line))
        job = await jobs.retrieve(job.id)
        found = await jobs.find("s-1")
        await jobs.aclose()
    assert found is None  # so that the caller submits it again
    assert (job.state, job.queue_full, job.lines) == ("failed", True, {})
    assert "limit" in job.reason


@pytest.mark.parametrize(
    ("error", "full"),
    [
        ({"code": "token_limit_exceeded", "message": "no room"}, True),
        (
            {
                "code": "other",
                "message": "Enqueued request limit reached for x. Limit: 1,000,000.",
            },
            True,
        ),
        ({"code": "invalid_json_line", "message": "no JSON", "line": 4}, False),
    ],
)
async def test_retrieve_failed_job_has_its_reason(tmp_path: Path, error: dict[str, Any], full: bool) -> None:
    """A full queue is recognised by its code, or by its message if it is full of requests."""
    failed = {**BATCH, "status": "failed", "errors": {"object": "list", "data": [error, {"line": 7}]}}
    async with acting(Acting(get_batches=[(200, failed)]), tmp_path) as jobs:
        job = await jobs.retrieve("batch_1")
    assert (job.state, job.queue_full) == ("failed", full)
    assert job.lines == {
        **({4: "no JSON"} if "line" in error else {}),
        7: "the provider gives no reason",
    }
    assert job.reason == f"{error['message']} (and 1 more)"


@pytest.mark.parametrize("status", [400, 429])
async def test_submit_full_queue_raises_queue_full(status: int, tmp_path: Path) -> None:
    """Only if the creation of the job is refused for it; other refusals may be retried."""
    full = (status, {"error": {"message": "too much waits", "code": "token_limit_exceeded"}})
    async with acting(Acting(post_batches=[full]), tmp_path) as jobs:
        with pytest.raises(QueueFull):
            await jobs.submit("s-1", texts, size=3)
    async with acting(Acting(get_batches=[full]), tmp_path) as jobs:
        with pytest.raises(TooMany) as caught:
            await jobs.find("s-1")
        assert not isinstance(caught.value, QueueFull)


async def test_submit_refused_input_is_rejected(tmp_path: Path) -> None:
    """Neither time nor a setting would change it; the error has the vendor's reason."""
    wrong = (400, {"error": {"message": "Your input file is of no use."}})
    async with acting(Acting(post_batches=[wrong]), tmp_path) as jobs:
        with pytest.raises(Rejected, match="of no use"):
            await jobs.submit("s-1", texts, size=3)


@pytest.mark.parametrize("status", [400, 404])
async def test_submit_vanished_upload_is_sent_again(tmp_path: Path, status: int) -> None:
    """A file that is listed, but gone when the job is created, is uploaded again."""
    there = {"id": "file-0", "filename": "flowbed-s-1.jsonl", "bytes": 3, "status": "processed"}
    server = Acting(
        get_files=[(200, {**NOTHING, "data": [there]})],
        post_batches=[(status, {"error": {"message": "No such File object: file-0"}}), (200, BATCH)],
    )
    async with acting(server, tmp_path) as jobs:
        assert (await jobs.submit("s-1", texts, size=3)).id == "batch_1"
    made = [body["input_file_id"] for body in server.bodies if isinstance(body, dict)]
    assert made == ["file-0", "file-1"]


@pytest.mark.parametrize(
    "file",
    [
        {"filename": "flowbed-s-2.jsonl", "bytes": 3},
        {"filename": "flowbed-s-1.jsonl", "bytes": 2},
        {"filename": "flowbed-s-1.jsonl", "bytes": 3, "status": "error"},
    ],
)
async def test_submit_reuses_only_a_complete_file_of_its_own(tmp_path: Path, file: dict[str, Any]) -> None:
    """Another submission's, an incomplete or an unreadable file is ignored."""
    server = Acting(
        get_files=[(200, {**NOTHING, "data": [{"id": "file-0", **file}]})], post_batches=[(200, BATCH)]
    )
    async with acting(server, tmp_path) as jobs:
        await jobs.submit("s-1", texts, size=3)
    assert server.bodies[-1]["input_file_id"] == "file-1"


async def test_find_follows_all_pages(tmp_path: Path) -> None:
    """Each page is requested after the last item of the one before; a list that repeats itself ends."""
    pages = [{"data": [{**BATCH, "id": f"batch_{page}"}], "has_more": True} for page in (1, 2, 2)]
    server = Acting(get_batches=[(200, page) for page in pages])
    async with acting(server, tmp_path) as jobs:
        assert await jobs.find("s-1") is None
    assert [path for _, path in server.asked] == [
        "/batches?limit=100",
        "/batches?limit=100&after=batch_1",
        "/batches?limit=100&after=batch_2",
    ]


@pytest.mark.parametrize(
    "said", [{}, {"id": "batch_1"}, {"id": 7, "status": "completed"}, [], None, {"data": 7}]
)
async def test_unexpected_response_is_transient(tmp_path: Path, said: Any) -> None:
    server = Acting(get_batches=[(200, said)], post_batches=[(200, said)])
    async with acting(server, tmp_path) as jobs:
        with pytest.raises(Transient):
            await jobs.retrieve("batch_1")
        with pytest.raises(Transient):
            await jobs.find("s-1")
        with pytest.raises(Transient):
            await jobs.submit("s-1", texts, size=3)


async def test_retrieve_unknown_state_counts_as_running(tmp_path: Path) -> None:
    """A state that the vendor has added since does not end a job."""
    async with acting(Acting(get_batches=[(200, {**BATCH, "status": "warming_up"})]), tmp_path) as jobs:
        assert (await jobs.retrieve("batch_1")).state == "running"


@pytest.mark.parametrize("status", [400, 409, 422])
@pytest.mark.parametrize(
    ("state", "left"), [("completed", True), ("finalizing", True), ("in_progress", False)]
)
async def test_cancel_refused_depends_on_the_state(
    tmp_path: Path,
    state: str,
    left: bool,
    status: int,
) -> None:
    """For a job that ends by itself a refusal is fine; for one that continues it is retried."""
    server = Acting(
        post_batches=[(status, {"error": {"message": "cannot be cancelled"}})],
        get_batches=[(200, {**BATCH, "status": state})],
    )
    async with acting(server, tmp_path) as jobs:
        if left:
            await jobs.cancel("batch_1")
        else:
            with pytest.raises(Transient, match="cannot be cancelled"):
                await jobs.cancel("batch_1")


async def test_ids_are_escaped_in_paths(tmp_path: Path) -> None:
    server = Acting(get_batches=[(404, {})], get_files=[(404, {})])
    async with acting(server, tmp_path) as jobs:
        with pytest.raises(NotFound):
            await jobs.retrieve("../files?x=1#")
        with pytest.raises(NotFound):
            _ = [piece async for piece in jobs.download("a/b")]
    assert [path for _, path in server.asked] == ["/batches/..%2Ffiles%3Fx=1%23", "/files/a%2Fb/content"]


@pytest.mark.parametrize(
    ("line", "failure", "reason"),
    [
        (
            {"response": {"status_code": 500, "message": "Internal Server Error"}},
            "transient",
            "Internal Server Error",
        ),
        ({"response": {"status_code": 413, "body": {"detail": "too long"}}}, "rejected", "too long"),
        (
            {"response": {"status_code": 400, "body": {"error": {"message": "bad"}}}, "error": None},
            "rejected",
            "bad",
        ),
        ({"response": {"status_code": 404}}, "rejected", "the line has status 404"),
        ({"response": {"status_code": 409}}, "transient", "the line has status 409"),
        ({"response": None, "error": {"code": "batch_expired", "message": "late"}}, "expired", "late"),
        ({"response": None, "error": {"code": "batch_cancelled", "message": "off"}}, "expired", "off"),
        ({"response": None, "error": {"code": "server_error", "message": "oh"}}, "transient", "oh"),
        ({"response": None, "error": None}, "transient", "the line has status 0"),
        ({"response": {"status_code": 200, "body": {"data": "x"}}}, "transient", "the response has no list"),
        ({"response": {"status_code": 200}}, "transient", "the response has no list"),
    ],
)
def test_parse_result_failure_has_its_reason(
    tmp_path: Path, line: dict[str, Any], failure: str, reason: str
) -> None:
    """Whose fault it was decides whether the text is retried; a text that was never processed is neither."""
    jobs = opened("openai:text-embedding-3-small", tmp_path)
    assert jobs is not None
    answered = jobs.parse_result(orjson.dumps({"custom_id": NAME, **line}))
    assert (answered.name, answered.vector, answered.failure) == (NAME, None, failure)
    assert answered.reason.startswith(reason)


def test_parse_result_zero_vector_is_rejected_and_billed(tmp_path: Path) -> None:
    jobs = opened("openai:text-embedding-3-small", tmp_path, dimensions="2")
    assert jobs is not None
    body = {"data": [{"index": 0, "embedding": [0, 0]}], "usage": {"prompt_tokens": 3}}
    line = {"custom_id": NAME, "response": {"status_code": 200, "body": body}}
    answered = jobs.parse_result(orjson.dumps(line))
    assert (answered.failure, answered.tokens) == ("rejected", 3)
    body["data"] = [{"index": 0, "embedding": [3, 4]}]
    answered = jobs.parse_result(orjson.dumps(line))
    assert answered.vector is not None
    np.testing.assert_allclose(answered.vector, [0.6, 0.8], atol=1e-6)
    assert (
        jobs.parse_result(
            orjson.dumps({**line, "response": {"status_code": 200, "body": {"data": body["data"]}}})
        ).tokens
        is None
    )


@pytest.mark.parametrize(
    ("changes", "overflow", "message"),
    [({"seed": 1}, "", "same_as"), ({}, "truncate", "in a job"), ({}, "reject", ""), ({}, "", "")],
)
async def test_submit_same_as_server_is_verified_first(
    tiny: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], overflow: str, message: str
) -> None:
    """A server of another model gets no job, nor one that truncates long texts silently; one that refuses them does."""
    folder = tiny("other", **changes)
    model = open_onnx(str(folder), cache=tmp_path, options={"overflow": overflow} if overflow else {})
    server = Serving(model)
    async with acting(server, tmp_path, "compatible:tiny", batch="true", same_as=f"onnx:{tiny()}") as jobs:
        if message:
            with pytest.raises(Misconfigured, match=message):
                await jobs.submit("s-1", texts, size=3)
        else:
            assert (await jobs.submit("s-1", texts, size=3)).id == "batch_1"
    assert (("POST", "/batches") in server.asked) == (not message)


ODD = [-1, 0, 3.5, 1e300, 2**63, 10**30, 10**400, True, "7", None, [], {}, float("nan"), float("inf")]


@pytest.mark.parametrize("number", ODD, ids=repr)
def test_read_job_figures_that_cannot_be_meant_are_none(number: Any) -> None:
    """They would not fit the ledger, or end a poll."""
    payload = {
        "id": "j",
        "status": "failed",
        "request_counts": {"total": number, "completed": number, "failed": number},
        "usage": {"total_tokens": number},
        "errors": {"data": [{"line": number, "message": "why"}, {"line": 2, "message": "it"}]},
    }
    job = read_job(payload, mark="m", redacted=str).job
    assert (job.total, job.done, job.failed, job.tokens) == (0, 0, 0, None)
    assert job.lines == {2: "it"}
    payload["usage"] = {"total_tokens": 10**12}
    assert read_job(payload, mark="m", redacted=str).job.tokens == 10**12


@given(
    payload=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(("id", "status", "errors", "data", "usage", "metadata")), inner)
        ),
        max_leaves=12,
    )
)
def test_read_job_any_json_is_a_job_or_transient(payload: Any) -> None:
    with contextlib.suppress(Transient):
        read_job(payload, mark="m", redacted=str)
