"""The files of the page and the routes that it reads, without a browser."""

from __future__ import annotations

import gzip
import http.client
import threading
from typing import TYPE_CHECKING

import pytest
from tests.server.conftest import Running
from tests.server.page.conftest import write_indexed

from flowbed.server.page.assets import assets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What the page may weigh, compressed.
MOST_BYTES = 300_000
ADMIN = (
    ("GET", "flow"),
    ("GET", "flow/events"),
    ("GET", "checklist"),
    ("GET", "dead-letters"),
    ("POST", "dead-letters/retry"),
    ("GET", "submissions"),
    ("POST", "submissions/cancel"),
    ("GET", "batches"),
    ("GET", "spending"),
    ("GET", "keys"),
    ("POST", "keys"),
    ("POST", "keys/k/revoke"),
    ("POST", "rollback"),
)
READERS = (
    ("GET", "collections"),
    ("GET", "collections/docs/versions"),
    ("POST", "collections/docs/rows"),
    ("GET", "rows?id=x"),
    ("GET", "why?id=x"),
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run a server over three rows."""
    documents = [{"id": f"d{n}", "text": f"sentence {n}", "n": n} for n in range(3)]
    server = Running(write_indexed(tmp_path_factory.mktemp("routes") / "project", documents))
    yield server
    server.close()


def test_page_weighs_less_than_its_limit_and_names_only_files_that_exist() -> None:
    files = assets()
    assert sum(len(each.compressed) for each in files.values()) < MOST_BYTES
    index = files["index.html"].body.decode()
    named = {part.split('"')[0] for part in index.split('"/page/')[1:]}
    assert named == files.keys() - {"index.html"}


def test_page_is_served_compressed_with_a_strict_policy_and_once(running: Running) -> None:
    found = running.call("GET", "/", headers={"accept-encoding": "gzip, br"})
    assert b"<title>Flowbed</title>" in gzip.decompress(found.body)
    policy = found.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert found.headers["x-content-type-options"] == "nosniff"
    again = running.call("GET", "/", headers={"if-none-match": found.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    plain = running.call("GET", "/page/app.js")
    assert plain.headers["content-type"].startswith("text/javascript")
    assert "content-encoding" not in plain.headers


@pytest.mark.parametrize("path", ["/page/none.js", "/page/../assets.py", "/page/", "/page/%2e%2e/assets.py"])
def test_page_file_that_is_not_there_is_not_found(running: Running, path: str) -> None:
    assert running.call("GET", path).status == 404


def test_routes_need_their_scope(tmp_path: Path) -> None:
    """A key for another model reads no text; one without the admin scope operates nothing; without a key, neither."""
    settings = '[serve]\nmodels = ["seeded:16"]\n'
    server = Running(write_indexed(tmp_path / "project", [{"id": "a", "text": "one"}], settings))

    async def create(name: str, **options: list[str]) -> str:
        service = server.service
        return (await service.keys.create(name, secret=service.bed.secret, **options))[1]  # type: ignore[arg-type]

    reader, other = server.wait(create("reader")), server.wait(create("other", models=["seeded:16"]))
    for method, path in ADMIN:
        asked = server.call(method, f"/v1/admin/{path}", b"{}", {"authorization": f"Bearer {reader}"})
        assert (path, asked.status) == (path, 403)
        assert server.call(method, f"/v1/admin/{path}", b"{}").status == 401
    for method, path in READERS:
        bare, _, query = path.partition("?")
        refused = _ask(server, method, f"/v1/{bare}", query, other)
        assert (path, refused) == (path, 403)
        assert _ask(server, method, f"/v1/{bare}", query, reader) in (200, 404)
        assert _ask(server, method, f"/v1/{bare}", query, "") == 401
    server.close()


def _ask(server: Running, method: str, path: str, query: str, key: str) -> int:
    host = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"} if key else {}
    connection.request(method, f"{path}?{query}", b"{}" if method == "POST" else None, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_rows_are_read_by_position_and_filter(running: Running) -> None:
    path = "/v1/collections/docs/rows"
    found = running.call("POST", path, {"offset": 1, "limit": 1}).json
    assert (found["total"], [each["document"] for each in found["rows"]]) == (3, ["sentence 1"])
    assert running.call("POST", path, {"offset": 9}).json == {"rows": [], "total": 3}
    assert running.call("POST", path, {"where": {"n": {"$gt": 0}}}).json["total"] == 2
    assert running.call("POST", "/v1/collections/none/rows", {}).status == 404
    assert running.call("POST", "/v1/collections/.../rows", {}).status == 404


def test_stream_ends_when_the_server_does(tmp_path: Path) -> None:
    """An open stream of events does not keep a server from stopping."""
    server = Running(write_indexed(tmp_path / "project", [{"id": "a", "text": "one"}]))
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    connection.request("GET", "/v1/admin/flow/events")
    answer = connection.getresponse()
    assert str(answer.getheader("content-type")).startswith("text/event-stream")
    assert answer.readline().startswith(b'data: {"at":')
    closing = threading.Thread(target=server.close)
    closing.start()
    assert answer.read().count(b"data: ") < 5
    closing.join(30)
    assert not closing.is_alive()
    connection.close()


def test_streams_do_not_count_as_waiting_for_a_model(running: Running) -> None:
    """The batches of clients go on while a page is open."""
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=30)
    connection.request("GET", "/v1/admin/flow/events")
    answer = connection.getresponse()
    answer.readline()
    assert running.app.state.load.waiting == 0
    assert running.app.state.load.busy == 1
    connection.close()
