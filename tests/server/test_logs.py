"""Request logs: what they contain, and what never."""

from __future__ import annotations

import asyncio
import io
import logging
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from tests.server.conftest import MODEL, call, with_embeddings

from flowbed.errors import Misconfigured, Unavailable
from flowbed.server import logs
from flowbed.server.app import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbed.records.serving import Caller, EmbeddingsRequest, EmbeddingsResult
    from flowbed.services.service import Service

TEXT = "a text that nobody but its author may read"


class Raising:
    """An embedding service that raises a given exception."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def answer(self, requested: EmbeddingsRequest, caller: Caller) -> EmbeddingsResult:
        raise self._error


async def logged(
    service: Service, requested: Any = None, *, every: bool = True, headers: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """Request embeddings, and return the log lines."""
    stream = io.BytesIO()
    log = logs.Log(stream, now=service.bed.clock, every=every)
    app = create_app(service, watchers=[log])
    body = orjson.dumps(requested or {"model": MODEL, "input": TEXT})
    await call(app, "POST", "/v1/embeddings", body, {"content-type": "application/json", **(headers or {})})
    log.flush()
    assert TEXT not in stream.getvalue().decode()
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


async def test_log_request_line_has_id_route_status_time_and_usage(service: Service) -> None:
    (line,) = await logged(service, headers={"x-request-id": "mine"})
    assert line.pop("timestamp")
    assert line.pop("seconds") >= 0
    assert line.pop("tokens") > 0
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": "mine",
        "method": "POST",
        "route": "/v1/embeddings",
        "status": 200,
        "model": MODEL,
        "provider": "seeded",
        "space": service.models.listed()[0].space[:8],
        "inputs": 1,
        "cached": 0,
    }


async def test_log_names_a_key_by_id_without_its_secret(service: Service) -> None:
    row, secret = await service.keys.create("mine", secret=service.bed.secret)
    (line,) = await logged(service, headers={"authorization": f"Bearer {secret}"})
    assert line["key"] == row.id
    assert secret[:12] not in str(line)


@pytest.mark.parametrize(
    "requested",
    [
        {"model": TEXT * 3, "input": "a"},
        {"model": MODEL, "input": TEXT, TEXT: 1},
        {"model": MODEL, "input": [TEXT, 5]},
        {"model": MODEL, "input": TEXT, "encoding_format": TEXT},
        {"model": MODEL, "input": TEXT, "user": [TEXT]},
    ],
)
async def test_log_refused_request_has_the_code_only(service: Service, requested: dict[str, Any]) -> None:
    """The message may quote what was sent."""
    model = requested["model"]
    requested["model"] = model if model == MODEL else f"x{TEXT}"
    stream = io.BytesIO()
    log = logs.Log(stream, now=service.bed.clock)
    app = create_app(service, watchers=[log])
    reply = await call(
        app, "POST", "/v1/embeddings", orjson.dumps(requested), {"content-type": "application/json"}
    )
    assert reply.status in {400, 404}
    log.flush()
    line = orjson.loads(stream.getvalue())
    assert (line["level"], line["status"]) == ("info", reply.status)
    assert len(line.get("model", "")) <= logs.NAME
    assert "reason" not in line


@pytest.mark.parametrize("error", [Misconfigured("set the key of openai"), Unavailable("openai is down")])
async def test_log_server_error_has_its_reason(service: Service, error: Exception) -> None:
    (line,) = await logged(with_embeddings(service, Raising(error)), every=False)
    assert line["level"] == "error"
    assert line["reason"] == str(error)


async def test_log_unexpected_exception_has_type_and_place_only(service: Service) -> None:
    """The message may quote a text."""
    (line,) = await logged(with_embeddings(service, Raising(ValueError(f"cannot use {TEXT}"))))
    assert (line["level"], line["status"], line["fault"]) == ("error", 500, "ValueError")
    assert "test_logs.py" in line["at"][-1]


async def test_log_lines_are_flushed_a_moment_later(service: Service) -> None:
    stream = io.BytesIO()
    app = create_app(service, watchers=[logs.Log(stream, now=service.bed.clock)])
    for _ in range(3):
        await call(app, "GET", "/health/live")
    async with asyncio.timeout(60):
        while len(stream.getvalue().splitlines()) < 3:  # noqa: ASYNC110 - a stream tells nobody that it was written to
            await asyncio.sleep(logs.GATHERED / 10)


async def test_log_without_request_lines_skips_successes_and_refusals(service: Service) -> None:
    assert await logged(service, every=False) == []
    assert await logged(service, {"model": MODEL}, every=False) == []


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Restore Python's logging."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("flowbed", "uvicorn")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, each in levels.items():
        logging.getLogger(name).setLevel(each)


def test_log_of_other_packages_is_json(logging_as_before: None) -> None:
    stream = io.StringIO()
    logs.configure(stream, verbose=False)
    logging.getLogger("flowbed").warning("the %s is full", "disk")
    logging.getLogger("flowbed").info("not now")
    logging.getLogger("someone").warning("not now")
    try:
        sum([1, None])  # type: ignore[list-item]
    except TypeError:
        logging.getLogger("someone").exception("went wrong")
    disk, wrong = map(orjson.loads, stream.getvalue().splitlines())
    assert (disk["event"], disk["level"], disk["logger"]) == ("the disk is full", "warning", "flowbed")
    assert "TypeError" in wrong["exception"]
