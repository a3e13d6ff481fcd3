"""Execution of jobs: each line is answered once, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import base64
import codecs
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from flowbed.errors import Conflict, Misconfigured, NotFound, Rejected, Unavailable
from flowbed.records.serving import Caller, TierLimits
from flowbed.server.api.batch_lines import HttpLineCodec
from flowbed.services.batches import input_lines
from flowbed.services.batches.output import LineOutcome, OutputParts
from flowbed.services.batches.stage import BatchJobs, FileRetention
from flowbed.services.files import FileDescription
from flowbed.testing.embedder import seeded
from flowbed.workers.membership import Timing
from flowbed.workers.opening import BESIDE_REQUESTS, worker_beside_requests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from tests.services.conftest import Project

    from flowbed.ledger import JobRow
    from flowbed.services.service import Service
    from flowbed.workers.worker import Worker

    Open = Callable[..., AbstractAsyncContextManager[Service]]

ANYONE = Caller()
DAY = 86_400
SECONDS = 60


def line(name: str, given: Any = "text", **fields: Any) -> dict[str, Any]:
    """Write a line that requests an input."""
    body = {"model": "small", "input": given, **fields}
    return {"custom_id": name, "method": "POST", "url": "/v1/embeddings", "body": body}


async def begin(service: Service, lines: list[Any], caller: Caller = ANYONE, **how: Any) -> JobRow:
    """Upload lines, as JSON unless they are bytes, and create a job."""
    raw = [each if isinstance(each, bytes) else orjson.dumps(each) for each in lines]

    async def pieces() -> AsyncIterator[bytes]:
        yield b"\n".join(raw)

    message = FileDescription(purpose="batch", filename="in.jsonl")
    file = await service.files.create(caller.key or "", pieces(), described=lambda: message)
    return await service.jobs.create(caller, **{"file": file.id, "metadata": None, "keep": None, **how})


async def until(service: Service, job: JobRow, reached: Callable[[JobRow], object]) -> JobRow:
    """Wait until a job has reached a condition."""
    async with asyncio.timeout(SECONDS):
        while not reached(row := await service.jobs.get(job.owner, job.id)):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)
    return row


def working(service: Service, *, timing: Timing = BESIDE_REQUESTS, **how: Any) -> Worker:
    """Make the worker of a server."""
    return worker_beside_requests(
        service, [BatchJobs(service, HttpLineCodec(), **how), FileRetention(service)], timing=timing
    )


async def finished(service: Service, job: JobRow, **how: Any) -> JobRow:
    """Run a worker until a job has ended and its parts are deleted."""
    async with working(service, **how), asyncio.timeout(SECONDS):
        row = await until(service, job, lambda row: row.ended)
        while job.id in await service.bed.store.folders("jobs"):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)
        return row


async def file(service: Service, job: JobRow, id: str) -> list[dict[str, Any]]:
    """Read one of a job's result files."""
    if not id:
        return []
    row = await service.files.get(job.owner, id)
    text = b"".join([piece async for piece in service.files.content(row)])
    assert row.bytes == len(text)
    return [orjson.loads(each) for each in text.splitlines()]


async def outcomes(service: Service, job: JobRow) -> dict[str, Any]:
    """Return the outcome of each line: the body, the status of an error, or the code without a response."""
    found: dict[str, Any] = {}
    for each in await file(service, job, job.output):
        assert each["error"] is None
        assert each["response"]["status_code"] == 200
        assert found.setdefault(each["custom_id"], each["response"]["body"]) is each["response"]["body"]
    for each in await file(service, job, job.errors):
        assert each["custom_id"] not in found
        response = each["response"]
        found[each["custom_id"]] = each["error"]["code"] if response is None else response["status_code"]
    return found


def vectors(body: Any) -> Any:
    rows = [each["embedding"] for each in body["data"]]
    return [np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else row for row in rows]


async def key_of(service: Service, tier: str = "default", **fields: Any) -> Caller:
    row, _ = await service.keys.create("mine", secret=lambda: "k" * 43, tier=tier, **{"models": (), **fields})
    return Caller(key=row.id, name=row.name, tier=row.tier, models=frozenset(row.models))


def faults(job: JobRow) -> list[tuple[str, int | None]]:
    return [(fault["code"], fault["line"]) for fault in orjson.loads(job.faults)]


async def test_job_lines_of_every_form_are_answered_under_their_ids(opened: Open, project: Project) -> None:
    """Nothing is left of the work."""
    lines = [
        line("one", "one text"),
        line("some", ["two", "three short words"], encoding_format="base64"),
        line("ids", [1820, 382], input_type="query"),
        line("arrays", [[1820], [382, 1820]]),
        line("last", "one text", dimensions=64),
    ]
    async with opened() as service:
        job = await finished(service, await begin(service, [*lines, b"", b"  "], metadata={"a": "b"}))
        assert (job.state, job.total, job.completed, job.failed) == ("completed", 5, 5, 0)
        found = await outcomes(service, job)
        assert list(found) == ["one", "some", "ids", "arrays", "last"]
        assert np.allclose(vectors(found["one"]), seeded(["one text"], 64))
        assert np.allclose(vectors(found["some"]), seeded(["two", "three short words"], 64))
        assert found["some"]["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
        assert len(found["arrays"]["data"]) == 2
        assert found["last"]["data"] == found["one"]["data"]
        assert job.tokens == sum(body["usage"]["total_tokens"] for body in found.values())
        assert orjson.loads(job.metadata) == {"a": "b"}
        assert job.queued == 0
        assert await project.ledger.jobs.queued("") == 0


async def test_job_file_as_windows_writes_it_is_read_or_its_encoding_is_named(
    opened: Open, project: Project
) -> None:
    text = b"\r\n".join(orjson.dumps(line(name)) for name in ("a", "b"))
    async with opened() as service:
        job = await finished(service, await begin(service, [codecs.BOM_UTF8 + text]))
        assert (job.state, list(await outcomes(service, job))) == ("completed", ["a", "b"])
        job = await finished(service, await begin(service, [text.decode().encode("utf-16")]))
        assert job.state == "failed"
        assert "save the file as UTF-8" in orjson.loads(job.faults)[0]["message"]


async def test_job_rejected_lines_fail_alone(opened: Open, project: Project) -> None:
    texts = [f"POISON {n}" if n % 7 == 3 else f"text {n}" for n in range(40)]
    async with opened() as service:
        lines = [line(f"c{n}", text) for n, text in enumerate(texts)]
        job = await finished(service, await begin(service, [*lines, line("empty", ["a", ""])]))
        found = await outcomes(service, job)
    assert (job.state, job.completed, job.failed) == ("completed", 34, 7)
    assert found.pop("empty") == 400
    for n, text in enumerate(texts):
        body = found[f"c{n}"]
        assert body == 400 if "POISON" in text else np.allclose(vectors(body), seeded([text], 64))


async def test_job_transient_failures_are_retried(
    opened: Open, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowbed.services.batches.answering.WAIT", 0.01)
    provider = next(iter(project.providers.values()))
    provider.failure = Unavailable("down", retry_after=0.01)
    async with opened() as service, working(service):
        job = await begin(service, [line("a"), line("b", "FLAKY")])
        await until(service, job, lambda row: len(provider.sent) > 10)
        assert (await service.jobs.get("", job.id)).line == 0
        provider.failure = None
        job = await until(service, job, lambda row: row.ended)
        assert (job.completed, job.failed) == (2, 0)


async def test_job_misconfigured_model_fails_the_lines_with_500(opened: Open, project: Project) -> None:
    next(iter(project.providers.values())).failure = Misconfigured("no key")
    async with opened() as service:
        job = await finished(service, await begin(service, [line("a"), line("b")]))
        assert await outcomes(service, job) == {"a": 500, "b": 500}
        assert (job.state, job.output) == ("completed", "")


async def test_job_lines_over_the_daily_quota_fail_with_429(opened: Open, project: Project) -> None:
    """Requests per minute do not apply."""
    async with opened(tiers={"small": TierLimits(tokens=10, requests=1)}) as service:
        caller = await key_of(service, "small")
        lines = [line(f"c{n}", "three short words") for n in range(5)]
        job = await finished(service, await begin(service, lines, caller))
        found = await outcomes(service, job)
        refused = [name for name, body in found.items() if body == 429]
        assert (job.completed, len(refused)) == (3, 2)
        assert service.quotas.left(caller) == 1


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], [("empty_file", None)]),
        ([b" ", b"\t"], [("empty_file", None)]),
        ([line("a"), b"{", b"[]", b'"x"'], [("invalid_json_line", n) for n in (2, 3, 4)]),
        ([line("a"), b"", line("a")], [("duplicate_custom_id", 3)]),
        ([{**line("a"), "custom_id": None}], [("missing_required_parameter", 1)]),
        ([{**line("a"), "custom_id": 7}, line("x" * 513)], [("invalid_value", 1), ("invalid_value", 2)]),
        ([{**line("a"), "method": "GET"}], [("invalid_method", 1)]),
        ([{**line("a"), "url": "/v1/chat/completions"}], [("url_mismatch", 1)]),
        ([{**line("a"), "body": []}], [("invalid_request", 1)]),
        ([line("a", model="nobody")], [("model_not_found", 1)]),
        ([line("a"), line("b", model="other")], [("model_mismatch", 2)]),
        ([line("a"), line("b", model="first:small")], []),
        ([line("a", dimensions="x"), line("b", colour="red")], [("invalid_type", 1), ("invalid_request", 2)]),
    ],
)
async def test_job_invalid_input_fails_as_a_whole_and_names_each_line(
    opened: Open, project: Project, lines: list[Any], found: list[Any]
) -> None:
    from tests.services.conftest import Provider

    project.providers["second:other"] = Provider(64, model="other")
    async with opened(models=("first:small", "second:other")) as service:
        job = await finished(service, await begin(service, lines))
    assert faults(job) == found
    assert job.state == ("failed" if found else "completed")
    if found:
        assert (job.output, job.errors, project.providers["first:small"].sent) == ("", "", [])


async def test_job_invalid_input_lists_100_faults_at_most(opened: Open) -> None:
    async with opened() as service:
        job = await finished(service, await begin(service, [b"{"] * 300))
    assert faults(job) == [("invalid_json_line", n) for n in range(1, 101)]


@pytest.mark.parametrize(
    ("limit", "code"), [("LINES_MOST", "too_many_tasks"), ("INPUTS_MOST", "too_many_inputs")]
)
async def test_job_too_many_lines_or_inputs_fails(
    opened: Open, monkeypatch: pytest.MonkeyPatch, limit: str, code: str
) -> None:
    monkeypatch.setattr(input_lines, limit, 3)
    async with opened() as service:
        exact = await finished(service, await begin(service, [line("a"), line("b", ["x", "y"])]))
        more = await finished(service, await begin(service, [line(f"c{n}", ["x"]) for n in range(4)]))
    assert exact.state == "completed"
    assert faults(more) == [(code, None)]


async def test_job_line_longer_than_a_request_fails_the_file(opened: Open, project: Project) -> None:
    async with opened(body_bytes=1_000) as service:
        for lines in ([line("a"), line("b", "x" * 1_000)], [line("a", "x" * 3_000_000)]):
            job = await finished(service, await begin(service, lines))
            assert faults(job) == [("request_too_large", len(lines))]


@pytest.mark.parametrize("size", [1_000, 3_000_000])  # in one piece of the file, or in several
async def test_job_too_long_line_is_named_by_its_number(opened: Open, size: int) -> None:
    long = "x" * size
    async with opened(body_bytes=1_000) as service:
        for lines, at in (
            ([line("a", long), b"", line("b")], [1]),
            ([line("a"), b"", line("b", long), line("c")], [3]),
            ([line("a"), line("b", long)], [2]),
        ):
            job = await finished(service, await begin(service, lines))
            assert faults(job) == [("request_too_large", number) for number in at]
        job = await finished(service, await begin(service, [line("a", "x" * 1_000), line("b"), b"{"]))
        assert faults(job) == [("request_too_large", 1), ("invalid_json_line", 3)]


async def test_job_too_long_lines_lists_100_at_most(opened: Open) -> None:
    async with opened(body_bytes=100) as service:
        job = await finished(service, await begin(service, [line(f"c{n}", "x" * 100) for n in range(150)]))
    assert faults(job) == [("request_too_large", n) for n in range(1, 101)]


async def test_job_limit_lowered_later_skips_no_line(opened: Open, project: Project) -> None:
    lines = [line("a", "long " * 200), line("b"), line("c", "last")]
    next(iter(project.providers.values())).failure = Unavailable("down", retry_after=0.01)
    async with opened() as service:
        job = await begin(service, lines)
        async with working(service):
            await until(service, job, lambda row: row.state == "in_progress")
    next(iter(project.providers.values())).failure = None
    async with opened(body_bytes=500) as service:
        job = await finished(service, job)
        found = await outcomes(service, job)
    assert (job.state, list(found)) == ("completed", ["a", "b", "c"])
    assert np.allclose(vectors(found["c"]), seeded(["last"], 64))


async def test_job_of_a_key_without_the_model_fails(opened: Open, project: Project) -> None:
    from tests.services.conftest import Provider

    project.providers["second:other"] = Provider(64, model="other")
    async with opened(models=("first:small", "second:other")) as service:
        caller = await key_of(service, models=("other",))
        job = await finished(service, await begin(service, [line("a")], caller))
        assert faults(job) == [("model_not_found", 1)]
        job = await finished(service, await begin(service, [line("a", model="other")], caller))
        assert job.state == "completed"


async def test_job_and_file_of_another_owner_are_not_found(opened: Open) -> None:
    async with opened() as service:
        mine = await key_of(service)
        job = await begin(service, [line("a")], mine)
        for other in ("", "other"):
            with pytest.raises(NotFound):
                await service.jobs.get(other, job.id)
            with pytest.raises(NotFound):
                await service.jobs.cancel(other, job.id)
            with pytest.raises(NotFound):
                await service.jobs.list(other, after=job.id, limit=10)
            assert await service.jobs.list(other, limit=10) == ([], False)
        with pytest.raises(NotFound):
            await service.jobs.create(ANYONE, file=job.input, metadata=None, keep=None)
        job = await finished(service, job)
        assert (await service.files.get(job.owner, job.output)).owner == mine.key


async def test_job_beyond_the_tiers_queued_tokens_fails_with_its_code(opened: Open) -> None:
    async with opened(tiers={"small": TierLimits(queued=100)}) as service:
        caller = await key_of(service, "small")
        waiting = [line(f"c{n}", "x" * 80) for n in range(4)]
        first = await begin(service, waiting, caller)
        second = await begin(service, waiting, caller)
        async with working(service):
            ended = await until(service, second, lambda row: row.ended)
            first = await until(service, first, lambda row: row.ended)
        again = await finished(service, await begin(service, waiting, caller))
    states = sorted((first.state, ended.state))
    assert states in (["completed", "completed"], ["completed", "failed"])
    for job in (first, ended):
        assert faults(job) == ([("token_limit_exceeded", None)] if job.state == "failed" else [])
    assert again.state == "completed"


async def test_job_larger_than_the_queue_fails_and_leaves_it_empty(opened: Open) -> None:
    async with opened(tiers={"small": TierLimits(queued=5)}) as service:
        caller = await key_of(service, "small")
        job = await finished(service, await begin(service, [line("a", "x" * 80)], caller))
        assert faults(job) == [("token_limit_exceeded", None)]
        assert await service.bed.ledger.jobs.queued(caller.key or "") == 0
        assert (await finished(service, await begin(service, [line("a")], caller))).state == "completed"


async def test_cancelled_job_keeps_answers_and_lists_the_rest(opened: Open, project: Project) -> None:
    async with opened() as service:
        job = await begin(service, [line(f"c{n}") for n in range(5)])
        answered = [LineOutcome(text=_line(f"c{n}"), failed=False, tokens=1) for n in range(2)]
        await OutputParts(project.store, job.id).write(0, answered)
        await service.jobs.cancel("", job.id)
        job = await finished(service, job)
        found = await outcomes(service, job)
    assert (job.state, job.completed, job.failed) == ("cancelled", 2, 0)
    assert {name: body if isinstance(body, str) else "answered" for name, body in found.items()} == {
        "c0": "answered",
        "c1": "answered",
        **{f"c{n}": "batch_cancelled" for n in range(2, 5)},
    }
    assert set(orjson.loads(job.stamps)) == {"in_progress", "cancelling", "cancelled"}


async def test_cancel_ended_job_is_a_conflict(opened: Open) -> None:
    """Cancelling twice is not."""
    async with opened() as service:
        job = await begin(service, [line("a")])
        await service.jobs.cancel("", job.id)
        await service.jobs.cancel("", job.id)
        await finished(service, job)
        with pytest.raises(Conflict, match="'cancelled'"):
            await service.jobs.cancel("", job.id)


async def test_job_expires_after_its_window_and_lists_unanswered_lines(
    opened: Open, project: Project
) -> None:
    next(iter(project.providers.values())).failure = Unavailable("down", retry_after=0.01)
    async with opened() as service, working(service):
        job = await begin(service, [line("a"), line("b")])
        await until(service, job, lambda row: row.state == "in_progress")
        project.now.advance(seconds=DAY)
        job = await until(service, job, lambda row: row.ended)
        assert job.state == "expired"
        assert await outcomes(service, job) == {"a": "batch_expired", "b": "batch_expired"}
        assert set(orjson.loads(job.stamps)) == {"in_progress", "finalizing", "expired"}


async def test_job_of_a_revoked_key_is_cancelled(opened: Open) -> None:
    async with opened() as service:
        caller = await key_of(service)
        job = await begin(service, [line("a")], caller)
        await service.keys.revoke(caller.key or "")
        job = await finished(service, job)
        assert job.state == "cancelled"


async def test_running_job_of_a_revoked_key_keeps_answers_and_lists_the_rest(
    opened: Open, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = project.providers["first:small"]
    async with opened() as service:
        caller = await key_of(service)
        job = await begin(service, [line(f"c{n}", f"text {n}") for n in range(9)], caller)
        answer = service.embeddings.answer

        async def revoke_at(requested: Any, caller: Caller) -> Any:
            answered = await answer(requested, caller)
            if len(provider.sent) == 3:
                await service.keys.revoke(caller.key or "")
            return answered

        monkeypatch.setattr("flowbed.services.batches.answering.LOCAL_INPUTS", 1)
        monkeypatch.setattr("flowbed.services.batches.execution.PART_BYTES", 1)
        monkeypatch.setattr(service.embeddings, "answer", revoke_at)
        job = await finished(service, job)
        found = await outcomes(service, job)
        errors = await file(service, job, job.errors)
    assert (job.state, job.completed, job.queued) == ("cancelled", 3, 0)
    assert provider.sent == ["text 0", "text 1", "text 2"]
    assert [name for name, body in found.items() if body == "batch_cancelled"] == [
        f"c{n}" for n in range(3, 9)
    ]
    assert all("the API key" in each["error"]["message"] for each in errors)
    assert set(orjson.loads(job.stamps)) == {"in_progress", "cancelling", "cancelled"}


async def test_waiting_job_of_a_revoked_key_is_cancelled(opened: Open, project: Project) -> None:
    provider = project.providers["first:small"]
    provider.failure = Unavailable("down", retry_after=0.01)
    async with opened() as service, working(service):
        caller = await key_of(service)
        job = await begin(service, [line("a")], caller)
        await until(service, job, lambda row: row.state == "in_progress")
        await service.keys.revoke(caller.key or "")
        job = await until(service, job, lambda row: row.ended)
        assert (job.state, await outcomes(service, job)) == ("cancelled", {"a": "batch_cancelled"})


async def test_job_with_deleted_input_fails(opened: Open) -> None:
    async with opened() as service:
        job = await begin(service, [line("a")])
        await service.files.delete("", job.input)
        job = await finished(service, job)
    assert (job.state, faults(job)) == ("failed", [("input_file_not_found", None)])


async def test_create_job_from_a_file_of_another_purpose_is_refused(opened: Open) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b""

    message = FileDescription(purpose="user_data", filename="x")
    async with opened() as service:
        sent = await service.files.create("", pieces(), described=lambda: message)
        with pytest.raises(Rejected, match="user_data") as refused:
            await service.jobs.create(ANYONE, file=sent.id, metadata=None, keep=None)
        assert refused.value.param == "input_file_id"


def _line(name: str) -> bytes:
    body = {"custom_id": name, "response": {"status_code": 200, "body": {"mark": name}}, "error": None}
    return orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)


async def test_job_parts_written_before_a_kill_are_not_sent_again(opened: Open, project: Project) -> None:
    async with opened() as service:
        job = await begin(service, [line(f"c{n}", f"text {n}") for n in range(6)])
        parts = OutputParts(project.store, job.id)
        await parts.write(
            0, [LineOutcome(text=_line("c0"), failed=False), LineOutcome(text=_line("c1"), failed=True)]
        )
        await parts.write(2, [LineOutcome(text=_line("c2"), failed=False)])
        job = await finished(service, job)
        output = await file(service, job, job.output)
    assert [each["custom_id"] for each in output] == ["c0", "c2", "c3", "c4", "c5"]
    assert (job.completed, job.failed) == (5, 1)
    assert project.providers["first:small"].sent == ["text 3", "text 4", "text 5"]


async def test_job_many_workers_send_each_text_once(opened: Open, project: Project) -> None:
    texts = [f"text {n}" for n in range(300)]
    async with opened() as service:
        jobs = [
            await begin(service, [line(f"c{n}", text) for n, text in enumerate(texts[at::3])])
            for at in range(3)
        ]
        async with (
            working(service),
            working(service),
            working(service),
        ):
            ended = [await until(service, job, lambda row: row.ended) for job in jobs]
        for job in ended:
            assert (job.state, job.completed) == ("completed", 100)
            assert len(await outcomes(service, job)) == 100
    assert sorted(project.providers["first:small"].sent) == sorted(texts)


async def test_job_of_a_dead_process_is_taken_over_at_once(opened: Open, project: Project) -> None:
    """Otherwise its lease has to expire."""
    async with opened() as service:
        job, other = await begin(service, [line("a")]), await begin(service, [line("b")])
        now = project.clock()
        for each in (job, other):
            await project.ledger.jobs.hold(each.id, worker="before", now=now, until=now + 30_000_000)
        async with working(service) as worker:
            await worker.sweep()
            assert (await service.jobs.get("", job.id)).worker == "before"
            project.ended.add("before")
            await worker.sweep()
            assert (await until(service, job, lambda row: row.ended)).state == "completed"
        project.ended.clear()
        late = await begin(service, [line("c")])
        now = project.clock()
        await project.ledger.jobs.hold(late.id, worker="elsewhere", now=now, until=now + 30_000_000)
        project.now.advance(seconds=31)
        assert (await finished(service, late)).state == "completed"


async def test_job_interrupted_anywhere_answers_each_line_once(opened: Open, project: Project) -> None:
    """In between, nobody holds its lease."""
    texts = [f"text {n}" for n in range(2_000)]
    async with opened() as service:
        job = await begin(service, [line(f"c{n}", text) for n, text in enumerate(texts)])
        for _ in range(8):
            async with working(service):
                await asyncio.sleep(0.02)
            row = await service.jobs.get("", job.id)
            assert row.ended or row.worker == ""
        job = await finished(service, job)
        found = await outcomes(service, job)
        assert len(found) == job.completed == 2_000
        for n, text in enumerate(texts):
            assert np.allclose(vectors(found[f"c{n}"]), seeded([text], 64))


async def test_job_gets_turns_on_a_busy_server(opened: Open) -> None:
    async with opened() as service:
        job = await begin(service, [line(f"c{n}", f"some more words {n}") for n in range(200)])
        job = await finished(service, job, busy=lambda: True)
    assert (job.state, job.completed) == ("completed", 200)


async def test_failing_job_blocks_no_other_and_is_retried(
    opened: Open, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowbed.services.batches import execution
    from flowbed.workers import worker

    monkeypatch.setattr(worker, "RETRY", 0.01)
    done = execution.JobExecution.run
    broken = 3

    async def run(self: Any) -> None:
        nonlocal broken
        if self._row.id == job.id and broken:
            broken -= 1
            raise ZeroDivisionError
        await done(self)

    monkeypatch.setattr(execution.JobExecution, "run", run)
    async with opened() as service:
        job, other = await begin(service, [line("a")]), await begin(service, [line("b")])
        async with working(service, timing=Timing(sweep=0.01, grace=0)):
            assert (await until(service, other, lambda row: row.ended)).state == "completed"
            assert (await until(service, job, lambda row: row.ended)).state == "completed"
    assert broken == 0


async def test_sweep_deletes_parts_of_ended_jobs_only(opened: Open, project: Project) -> None:
    """Whatever else is in the folder is left alone."""
    async with opened() as service:
        ended, waiting = await begin(service, [line("a")]), await begin(service, [line("b")])
        await service.jobs.cancel("", ended.id)
        async with working(service):
            await until(service, waiting, lambda row: row.ended)
            await until(service, ended, lambda row: row.ended)
        late = await begin(service, [line("c")])
        for job in (ended, late):
            await OutputParts(project.store, job.id).write(0, [LineOutcome(text=_line("c"), failed=False)])
        await project.store.create("jobs/delta/a/delta.arrow", b"")
        await FileRetention(service).run("")
        assert await project.store.folders("jobs") == [late.id, "delta"]
