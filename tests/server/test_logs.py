"""What is logged of a request, and what never is."""

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
    """Embeddings that raise what they are told to."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def answer(self, asked: EmbeddingsRequest, caller: Caller) -> EmbeddingsResult:
        raise self._error


async def logged(
    service: Service, asked: Any = None, *, every: bool = True, headers: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """Ask for embeddings, and read what was logged of it."""
    stream = io.BytesIO()
    log = logs.Log(stream, now=service.bed.clock, every=every)
    app = create_app(service, watchers=[log])
    body = orjson.dumps(asked or {"model": MODEL, "input": TEXT})
    await call(app, "POST", "/v1/embeddings", body, {"content-type": "application/json", **(headers or {})})
    log.flush()
    assert TEXT not in stream.getvalue().decode()
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


async def test_each_request_has_a_line(service: Service) -> None:
    """A line has the id, the route, the status, the time, who answered and how much it was."""
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


async def test_a_key_is_logged_by_its_id(service: Service) -> None:
    """The line names the key by the id that `flowbed keys list` shows, and holds nothing of the secret."""
    row, secret = await service.keys.create("mine", secret=service.bed.secret)
    (line,) = await logged(service, headers={"authorization": f"Bearer {secret}"})
    assert line["key"] == row.id
    assert secret[:12] not in str(line)


@pytest.mark.parametrize(
    "asked",
    [
        {"model": TEXT * 3, "input": "a"},
        {"model": MODEL, "input": TEXT, TEXT: 1},
        {"model": MODEL, "input": [TEXT, 5]},
        {"model": MODEL, "input": TEXT, "encoding_format": TEXT},
        {"model": MODEL, "input": TEXT, "user": [TEXT]},
    ],
)
async def test_refusals_are_logged_without_what_was_sent(service: Service, asked: dict[str, Any]) -> None:
    """Of a refused request only the code is logged; the message may quote what was sent."""
    model = asked["model"]
    asked["model"] = model if model == MODEL else f"x{TEXT}"
    stream = io.BytesIO()
    log = logs.Log(stream, now=service.bed.clock)
    app = create_app(service, watchers=[log])
    reply = await call(
        app, "POST", "/v1/embeddings", orjson.dumps(asked), {"content-type": "application/json"}
    )
    assert reply.status in {400, 404}
    log.flush()
    line = orjson.loads(stream.getvalue())
    assert (line["level"], line["status"]) == ("info", reply.status)
    assert len(line.get("model", "")) <= logs.NAME
    assert "reason" not in line


@pytest.mark.parametrize("error", [Misconfigured("set the key of openai"), Unavailable("openai is down")])
async def test_the_operator_reads_why_the_server_failed(service: Service, error: Exception) -> None:
    """What is the server's own fault is logged as an error, with its reason."""
    (line,) = await logged(with_embeddings(service, Raising(error)), every=False)
    assert line["level"] == "error"
    assert line["reason"] == str(error)


async def test_what_nobody_expected_is_logged_by_kind_and_place(service: Service) -> None:
    """Of an unexpected error the kind and the lines of code are logged, and not its words, which may quote a text."""
    (line,) = await logged(with_embeddings(service, Raising(ValueError(f"cannot use {TEXT}"))))
    assert (line["level"], line["status"], line["fault"]) == ("error", 500, "ValueError")
    assert "test_logs.py" in line["at"][-1]


async def test_lines_are_written_without_being_asked_for(service: Service) -> None:
    """A line is written a moment after its request, together with those of the same moment."""
    stream = io.BytesIO()
    app = create_app(service, watchers=[logs.Log(stream, now=service.bed.clock)])
    for _ in range(3):
        await call(app, "GET", "/health/live")
    async with asyncio.timeout(60):
        while len(stream.getvalue().splitlines()) < 3:  # noqa: ASYNC110 - a stream tells nobody that it was written to
            await asyncio.sleep(logs.GATHERED / 10)


async def test_what_went_well_need_not_be_logged(service: Service) -> None:
    """Without a line for each request, those that went well and those that were refused have none."""
    assert await logged(service, every=False) == []
    assert await logged(service, {"model": MODEL}, every=False) == []


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Leave Python's logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("flowbed", "uvicorn")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, each in levels.items():
        logging.getLogger(name).setLevel(each)


def test_other_loggers_write_json_too(logging_as_before: None) -> None:
    """Warnings of Flowbed and errors of other packages are JSON lines as well, with the trace of an exception."""
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
