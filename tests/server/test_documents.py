"""/v1/collections/{collection}/documents and .../records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from tests.server.conftest import Running, create_key, write_project
from tests.server.processes import eventually

from flowbed.server.app import working
from flowbed.services.documents.service import AT_ONCE_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEA = "Tea is served at four."
KEYS = "We rotate the keys each month."


class Indexing(Running):
    """A server that executes index jobs, as a server's process does."""

    async def _start(self) -> str:
        url = await super()._start()
        await self._stack.enter_async_context(working(self.app, self.service))
        return url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Indexing]:
    running = Indexing(write_project(tmp_path_factory.mktemp("project")))
    yield running
    running.close()


def put(server: Running, document: str, text: str, collection: str = "notes", **more: Any) -> Any:
    reply = server.call("PUT", f"/v1/collections/{collection}/documents/{document}", {"text": text, **more})
    assert reply.status == 200, reply.json
    return reply.json


def ended(server: Running, job: str) -> Any:
    """Wait for a job to end."""

    def look() -> Any:
        found = server.call("GET", f"/v1/jobs/{job}").json
        return found if found["ended_at"] else None

    return eventually(look, "the job", seconds=60)


def search(server: Running, query: str, collection: str = "notes", **more: Any) -> list[str]:
    reply = server.call("POST", f"/v1/collections/{collection}/search", {"query": query, **more})
    assert reply.status == 200, reply.json
    return [hit["document"] for hit in reply.json["hits"]]


def test_document_small_is_written_at_once_replaced_and_deleted(server: Indexing) -> None:
    """A document can be searched when its request is answered, in its new form, and not when it was deleted."""
    written = put(server, "tea", TEA, "small", metadata={"topic": "tea"})
    assert (written["status"], written["chunks"], written["error"]) == ("completed", 1, None)
    assert written["metadata"]["topic"] == "tea"
    assert search(server, TEA, "small") == [TEA]
    put(server, "tea", KEYS, "small")
    assert search(server, TEA, "small") == [KEYS]
    path = "/v1/collections/small/documents/tea"
    assert server.call("GET", path).json["metadata"]["document"] == "tea"
    assert server.call("DELETE", path).json == {"id": "tea", "object": "document.deleted", "deleted": True}
    assert server.call("DELETE", path).status == 404
    assert server.call("GET", path).status == 404
    assert search(server, TEA, "small") == []


def test_document_with_a_slash_in_its_id_is_read_and_deleted(server: Indexing) -> None:
    """An id may be a path."""
    body = {"documents": [{"id": "a/b.txt", "text": TEA}]}
    assert server.call("POST", "/v1/collections/paths/documents", body).status == 200
    assert server.call("GET", "/v1/collections/paths/documents/a/b.txt").json["id"] == "a/b.txt"
    similar = server.call("POST", "/v1/collections/paths/documents/a/b.txt/similar", {})
    assert similar.json["hits"] == []
    assert server.call("DELETE", "/v1/collections/paths/documents/a/b.txt").status == 200


def test_document_large_is_written_by_a_job(server: Indexing) -> None:
    """A long text, and a file, are answered with the job that writes them."""
    reply = server.call("PUT", "/v1/collections/large/documents/long", {"text": "word " * AT_ONCE_CHARACTERS})
    assert (reply.status, reply.json["object"]) == (202, "job")
    assert reply.headers["location"] == f"/v1/jobs/{reply.json['id']}"
    boundary = {"content-type": "multipart/form-data; boundary=b"}
    form = (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.md"\r\n\r\n# Tea\n\nAt four.\r\n--b--\r\n'
    )
    file = server.call("POST", "/v1/files", form, boundary).json["id"]
    filed = server.call("PUT", "/v1/collections/large/documents/file", {"file_id": file})
    assert filed.status == 202
    for job in (reply.json["id"], filed.json["id"]):
        assert ended(server, job)["status"] == "completed"
    assert server.call("GET", "/v1/collections/large/documents/long").json["chunks"] > 100
    assert server.call("GET", "/v1/collections/large/documents/file").json["status"] == "completed"


def test_documents_1000_in_one_request_are_written_and_1001_refused(server: Indexing) -> None:
    path = "/v1/collections/crowd/documents"
    documents = [{"id": f"d{number}", "text": f"Note {number}"} for number in range(1_000)]
    reply = server.call("POST", path, {"documents": documents})
    assert reply.status == 200, reply.json
    assert {each["status"] for each in reply.json["data"]} == {"completed"}
    listed, after = set[str](), ""
    while more := server.call("GET", f"{path}?limit=100{after}").json["data"]:
        listed |= {each["id"] for each in more}
        after = f"&after={more[-1]['id']}"
    assert listed == {each["id"] for each in documents}
    one_more = {"documents": [*documents, {"id": "more", "text": "too many"}]}
    assert server.call("POST", path, one_more).status == 400
    assert server.call("GET", f"{path}/more").status == 404


def test_documents_are_listed_by_filter_and_deleted_by_it(server: Indexing) -> None:
    """Of many documents, those that match a filter are listed page by page, and deleted."""
    documents = [{"id": f"d{n}", "text": f"note {n}", "metadata": {"even": n % 2 == 0}} for n in range(6)]
    reply = server.call("POST", "/v1/collections/many/documents", {"documents": documents})
    assert [each["status"] for each in reply.json["data"]] == ["completed"] * 6
    path = "/v1/collections/many/documents"

    def listed(query: str = "") -> tuple[list[str], bool]:
        found = server.wait(_get(server, f"{path}{query}"))
        return [each["id"] for each in found["data"]], found["has_more"]

    assert listed() == ([f"d{n}" for n in range(6)], False)
    assert listed("?limit=2&after=d1") == (["d2", "d3"], True)
    where = quote('{"even": true}')
    assert listed(f"?where={where}") == (["d0", "d2", "d4"], False)
    deleted = server.call("POST", f"{path}/delete", {"where": {"even": True}})
    assert deleted.json["deleted"] == ["d0", "d2", "d4"]
    assert server.call("POST", f"{path}/delete", {"ids": ["d1", "unknown"]}).json["deleted"] == ["d1"]
    assert listed() == (["d3", "d5"], False)
    assert sorted(search(server, "note", "many")) == ["note 3", "note 5"]
    for body in ({}, {"ids": ["a"], "where": {}}):
        assert server.call("POST", f"{path}/delete", body).status == 400


async def _get(server: Running, path: str) -> Any:
    """Send a GET with a query string."""
    from tests.server.conftest import call

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bare, _, query = path.partition("?")
        await server.app({**scope, "path": bare, "query_string": query.encode()}, receive, send)

    return (await call(app, "GET", path)).json


def test_document_similar_ones_are_found_without_itself(server: Indexing) -> None:
    """The nearest documents are those of other ids, also without a call to the model."""
    for name, text in (("one", "alpha beta"), ("two", "alpha beta"), ("three", "gamma")):
        put(server, name, text, "near")
    reply = server.call("POST", "/v1/collections/near/documents/one/similar", {"limit": 1})
    (hit,) = reply.json["hits"]
    assert hit["metadata"]["document"] == "two"
    assert server.call("POST", "/v1/collections/near/documents/unknown/similar", {}).status == 404


def test_reembed_is_a_job(server: Indexing) -> None:
    """All rows are embedded again by a job."""
    put(server, "tea", TEA, "again")
    reply = server.call("POST", "/v1/collections/again/reembed")
    assert (reply.status, reply.json["kind"]) == (202, "reembed")
    assert ended(server, reply.json["id"])["status"] == "completed"
    assert server.call("POST", "/v1/collections/nothing/reembed").status == 404


def test_records_with_vectors_are_written_read_searched_and_deleted(server: Indexing) -> None:
    """Rows come with their vectors; a vector of another size, or a row twice as another, writes nothing."""
    vectors = {name: [float(n == place) for n in range(64)] for place, name in enumerate("abc")}
    records = [
        {"id": name, "vector": vector, "text": name, "metadata": {"n": 1}} for name, vector in vectors.items()
    ]
    path = "/v1/collections/vectors/records"
    assert server.call("POST", path, {"records": records}).json["written"] == 3
    assert server.call("POST", path, {"records": records}).json["unchanged"] == 3
    read = server.call("GET", f"{path}/b").json
    assert (read["vector"], read["text"], read["metadata"]["n"]) == (vectors["b"], "b", 1)
    found = server.call("POST", "/v1/collections/vectors/search", {"query": vectors["b"], "limit": 1}).json
    assert found["hits"][0]["id"] == "b"
    wrong = server.call("POST", path, {"records": [{"id": "d", "vector": [1.0]}]})
    assert (wrong.status, wrong.refused()["param"]) == (400, "records")
    assert server.call("DELETE", f"{path}/b").json["deleted"]
    assert server.call("DELETE", f"{path}/b").status == 404
    assert server.call("GET", f"{path}/b").status == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "a", "file_id": "b"},
        {"text": ""},
        {"text": "a", "metadata": {"k": [1]}},
        {"text": "a", "kind": "film"},
        {"text": "a", "chunking": {"capacity": 1}},
    ],
)
def test_document_invalid_request_is_refused(server: Indexing, body: dict[str, Any]) -> None:
    assert server.call("PUT", "/v1/collections/notes/documents/x", body).status == 400


@pytest.mark.parametrize("collection", ["Notes", "files", f"vs_{'0' * 32}"])
def test_collection_that_cannot_be_is_not_found(server: Indexing, collection: str) -> None:
    for method, place, body in (
        ("PUT", "documents/x", {"text": "a"}),
        ("GET", "documents/x", b""),
        ("POST", "search", {"query": "a"}),
        ("POST", "records", {"records": [{"id": "a", "vector": [1.0]}]}),
    ):
        assert server.call(method, f"/v1/collections/{collection}/{place}", body).status == 404


def test_documents_need_a_key_that_may_write(tmp_path: Path) -> None:
    """A key of a tier without `write` reads documents, and writes none; the day's tokens are counted."""
    settings = (
        "[serve.tiers.default]\nwrite = false\n[serve.tiers.writer]\nwrite = true\n"
        "tokens_per_day = 30\nembeddings_per_day = 2\n"
    )
    folder = write_project(tmp_path / "project", settings)
    reader, writer = create_key(folder), create_key(folder, "writer", tier="writer")
    running = Running(folder)
    try:
        path = "/v1/collections/notes/documents/tea"
        may, may_not = ({"authorization": f"Bearer {key}"} for key in (writer, reader))
        assert running.call("PUT", path, {"text": TEA}, may_not).status == 403
        assert running.call("PUT", path, {"text": TEA}, may).status == 200
        assert running.call("GET", path, headers=may_not).json["status"] == "completed"
        assert running.call("DELETE", path, headers=may_not).status == 403
        records = {"records": [{"id": "a", "vector": [1.0]}]}
        assert running.call("POST", "/v1/collections/notes/records", records, may_not).status == 403
        refused = running.call("PUT", path, {"text": TEA * 10}, may)
        assert (refused.status, refused.refused()["code"]) == (429, "insufficient_quota")
        documents = [{"id": each, "text": each} for each in "ab"]
        several = running.call("POST", "/v1/collections/notes/documents", {"documents": documents}, may)
        assert (several.status, several.refused()["code"]) == (429, "insufficient_quota")
        assert "embeddings a day" in several.refused()["message"]
    finally:
        running.close()
