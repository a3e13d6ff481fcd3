"""POST /v1/events: what a notification tells of is queued before the answer, and embedded after it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest
from tests.server.conftest import Running, create_key, write_project

from flowbed.cli.app import run
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.server.processes import ServerProcess

    from flowbed.records import SearchResults


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    server = Running(write_project(tmp_path / "project"))
    yield server
    server.close()


def put(server: Running, text: str) -> dict[str, Any]:
    """Write a batch file of another program, and return MinIO's notification of it."""
    path = server.folder / ".flowbed/store/partner/chunked/batch_1.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"chunks": [{"text": text}]}))
    return {"EventName": "s3:ObjectCreated:Put", "Key": "b/partner/chunked/batch_1.json"}


def test_event_told_file_is_found_by_a_search_without_a_command(running: Running) -> None:
    reply = running.call("POST", "/v1/events", put(running, "told by a webhook"))
    assert (reply.status, reply.json["batches"], reply.json["read"]) == (202, 1, 1)

    async def indexed() -> SearchResults:
        counts = running.service.bed.ledger.chunks.counts
        while not (await counts()).get(("partner", Status.SUCCESS)):  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.02)
        return await running.service.bed.find("told by a webhook", collection="partner", limit=1)

    (hit,) = running.wait(asyncio.wait_for(indexed(), 30)).hits
    assert hit.document == "told by a webhook"
    again = running.call("POST", "/v1/events", put(running, "told by a webhook"))
    assert (again.status, again.json["batches"], again.json["already"]) == (202, 0, 1)


def test_event_of_sns_in_text_plain_is_taken(running: Running) -> None:
    body = json.dumps({"Type": "Notification", "Message": json.dumps({"Event": "s3:TestEvent"})}).encode()
    reply = running.call("POST", "/v1/events", body, {"content-type": "text/plain; charset=UTF-8"})
    assert (reply.status, reply.json["ignored"]) == (202, {"a test event": 1})


def test_event_of_unknown_shape_or_size_is_refused(running: Running) -> None:
    refused = running.call("POST", "/v1/events", {"hello": 1})
    assert refused.status == 400
    assert "its shape is unknown" in refused.refused()["message"]
    assert running.call("POST", "/v1/events", b"x").status == 400
    assert running.call("POST", "/v1/events", b" " * (6 * 2**20 + 1)).status == 413


def test_event_key_without_the_admin_scope_is_forbidden(running: Running) -> None:
    secret = create_key(running.folder)
    headers = {"authorization": f"Bearer {secret}"}
    assert running.call("POST", "/v1/events", {}, headers).status == 403
    assert running.call("POST", "/v1/events", {}).status == 401


def test_reprocess_replays_what_failed_and_refuses_what_has_not(running: Running) -> None:
    path = running.folder / ".flowbed/store/partner/chunked/year=2026/month=01/day=06/batch_2.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"chunks": [{"text": " "}, {"text": "whole"}]}))
    key = str(path.relative_to(running.folder / ".flowbed/store"))
    told = running.call("POST", "/v1/events", {"EventName": "s3:ObjectCreated:Put", "Key": f"b/{key}"})
    assert [each["reason"] for each in told.json["failures"]] == ["it has no text"]
    path.write_text(json.dumps({"chunks": [{"text": "other"}, {"text": "whole"}]}))
    for which in ({"day": "2026-01-06"}, {"batch": key}, {"source": "partner"}):
        done = running.call("POST", "/v1/admin/reprocess", which)
        if which.get("day"):
            assert (done.status, done.json) == (202, {"waiting": 1, "read": 1, "failures": []})
        else:
            assert done.status == 404
    assert running.call("POST", "/v1/admin/reprocess", {}).status == 400
    assert running.call("POST", "/v1/admin/reprocess", {"day": "2026-13-40"}).status == 400


def test_serve_watch_indexes_sources_without_a_command(
    tmp_path: Path, serve: Callable[..., ServerProcess]
) -> None:
    folder = write_project(tmp_path / "project")
    server = serve(folder, "--watch")

    def found() -> bool:
        connection = HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=30)
        with contextlib.closing(connection):
            body = json.dumps({"query": "sentence 7", "limit": 1})
            connection.request("POST", "/v1/search", body, {"content-type": "application/json"})
            hits = json.load(connection.getresponse()).get("hits")  # none before anything is indexed
            return bool(hits and hits[0]["document"] == "sentence 7")

    for _ in range(600):
        if found():
            break
        time.sleep(0.05)
    assert found()
    assert server.end() == 0
    assert "Traceback" not in server.errors.read_text()


# A watch that reads the ledger once more while it ends, as one does that is cancelled between two transactions.
READS_AT_ITS_END = """
import asyncio, sys
from pathlib import Path
from flowbed import Flowbed
from flowbed.server.running import ServeConfig, opened

async def watch(bed, **_):
    try:
        await asyncio.Event().wait()
    finally:
        print("read", await bed.ledger.chunks.counts())

async def main():
    Flowbed.watch = watch
    async with opened(ServeConfig(folder=Path(sys.argv[1]), loopback=True, watch=True)):
        pass

asyncio.run(main())
"""


def test_serve_watch_ends_before_the_project_is_closed(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project")
    done = subprocess.run(
        [sys.executable, "-c", READS_AT_ITS_END, folder],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "read {}\n", "")


def test_serve_watch_with_several_workers_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_project(tmp_path / "project")
    assert run(["serve", "--watch", "--workers", "2", "--port", "0", "--config", str(folder)]) == 2
    assert "--watch takes one process" in capsys.readouterr().err
