"""/v1/vector_stores through the official SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import openai
import pytest
from tests.server.conftest import Running, create_key, write_project

from flowbed.server.app import working

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLL = 20  # ms

FOX = "The quick brown fox jumps over the lazy dog."
KEYS = "# Keys\n\nWe rotate the keys each month.\n\n# Tea\n\nTea is served at four.\n"


class Working(Running):
    """A server whose vector stores are worked on, as a server's process does."""

    async def _start(self) -> str:
        url = await super()._start()
        await self._stack.enter_async_context(working(self.app, self.service))
        return url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Working]:
    running = Working(write_project(tmp_path_factory.mktemp("project")))
    yield running
    running.close()


@pytest.fixture
def client(server: Working) -> Iterator[openai.OpenAI]:
    with sdk(server) as opened:
        yield opened


def sdk(server: Working, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def ask(server: Working, method: str, place: str, key: str) -> int:
    """Send a request over the network, and return its status."""
    body = b"{}" if method == "POST" else None
    request = Request(f"{server.url}{place}", body, method=method)  # noqa: S310 - our own server
    request.add_header("authorization", f"Bearer {key}")
    request.add_header("content-type", "application/json")
    try:
        with urlopen(request) as answer:  # noqa: S310
            return int(answer.status)
    except HTTPError as error:
        return error.code


def upload(client: openai.OpenAI, text: str | bytes, name: str = "a.txt") -> str:
    return client.files.create(
        file=(name, text if isinstance(text, bytes) else text.encode()), purpose="assistants"
    ).id


def test_store_of_one_file_is_searched_and_deleted(client: openai.OpenAI) -> None:
    """A file is uploaded, attached, waited for, found, taken out, and the store is deleted."""
    store = client.vector_stores.create(name="handbook", metadata={"team": "ops"})
    assert (store.status, store.file_counts.total, store.usage_bytes) == ("completed", 0, 0)
    attached = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id,
        file=("keys.md", KEYS.encode()),
        attributes={"author": "Ada", "year": 2024, "draft": False},
        poll_interval_ms=POLL,
    )
    assert (attached.status, attached.last_error) == ("completed", None)
    assert attached.usage_bytes == 64 * 4 + len(KEYS.strip())
    store = client.vector_stores.retrieve(store.id)
    assert (store.file_counts.completed, store.usage_bytes) == (1, attached.usage_bytes)
    (hit,) = client.vector_stores.search(store.id, query="Tea is served at four.", max_num_results=1).data
    assert (hit.file_id, hit.filename) == (attached.id, "keys.md")
    assert hit.attributes == {"author": "Ada", "year": 2024, "draft": False}
    assert "Tea is served" in hit.content[0].text
    assert 0 <= hit.score <= 1
    content = client.vector_stores.files.content(attached.id, vector_store_id=store.id).data
    assert "We rotate the keys" in "".join(part.text or "" for part in content)
    assert client.vector_stores.files.delete(attached.id, vector_store_id=store.id).deleted
    assert client.vector_stores.search(store.id, query="Tea").data == []
    assert client.files.retrieve(attached.id).id == attached.id
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.retrieve(store.id)


def test_file_batch_with_a_bad_file_counts_each(client: openai.OpenAI) -> None:
    """Of a batch with a file that is no text, the others are completed, and each is found."""
    store = client.vector_stores.create()
    files = [(f"{n}.txt", f"The word of file {n} is w{n * 7919}.".encode()) for n in range(5)]
    batch = client.vector_stores.file_batches.upload_and_poll(
        store.id, files=[*files, ("bad.bin", b"\0\1\2")], poll_interval_ms=POLL
    )
    counts = batch.file_counts
    assert (batch.status, counts.completed, counts.failed, counts.in_progress, counts.total) == (
        "completed",
        5,
        1,
        0,
        6,
    )
    (failed,) = client.vector_stores.file_batches.list_files(
        batch.id, vector_store_id=store.id, filter="failed"
    ).data
    assert failed.last_error is not None
    assert failed.last_error.code == "unsupported_file"
    assert "bad.bin" in failed.last_error.message
    for number, (name, text) in enumerate(files):
        (hit,) = client.vector_stores.search(store.id, query=text.decode(), max_num_results=1).data
        assert hit.filename == name, number


def test_store_is_hidden_from_other_keys_and_other_apis(tmp_path: Path) -> None:
    """Another key sees neither the store nor its files; no search of collections, and no client of Chroma, its rows."""
    folder = write_project(tmp_path / "project", '[serve]\nchroma_writes = "committed"\n')
    mine, other = create_key(folder), create_key(folder, "other")
    running = Working(folder)
    try:
        with sdk(running, mine) as client, sdk(running, other) as stranger:
            store = client.vector_stores.create()
            file = client.vector_stores.files.upload_and_poll(
                vector_store_id=store.id, file=("fox.txt", FOX.encode()), poll_interval_ms=POLL
            ).id
            assert [each.id for each in client.vector_stores.list()] == [store.id]
            assert list(stranger.vector_stores.list()) == []
            foreign = stranger.vector_stores.create().id
            for refused in (
                lambda: stranger.vector_stores.retrieve(store.id),
                lambda: stranger.vector_stores.search(store.id, query="fox"),
                lambda: stranger.vector_stores.update(store.id, name="mine"),
                lambda: stranger.vector_stores.delete(store.id),
                lambda: stranger.vector_stores.files.list(store.id),
                lambda: stranger.vector_stores.files.create(foreign, file_id=file),
                lambda: stranger.vector_stores.files.retrieve(file, vector_store_id=store.id),
                lambda: stranger.vector_stores.files.content(file, vector_store_id=store.id),
            ):
                with pytest.raises(openai.NotFoundError):
                    refused()
        headers = {"authorization": f"Bearer {other}"}
        named = running.call("POST", "/v1/search", {"query": "fox", "collection": store.id}, headers)
        assert named.status == 404
        unknown = running.call("POST", "/v1/search", {"query": "fox", "collection": "none"}, headers)
        assert "'none'" in unknown.json["error"]["message"]
        assert "vs_" not in unknown.json["error"]["message"]
        everywhere = running.call("POST", "/v1/search", {"query": FOX}, headers)
        assert everywhere.status == 404, "nothing else is indexed"
        path = "/api/v2/tenants/default_tenant/databases/default_database/collections"
        assert running.call("GET", path, headers=headers).json == []
        assert running.call("GET", f"{path}/{store.id}", headers=headers).status == 404
        assert running.call("POST", path, {"name": store.id}, headers).status == 400
        listed = running.call("GET", "/v1/collections", headers=headers).json["collections"]
        assert [each["name"] for each in listed] == []
        chunk = f"{store.id}.documents%23{file}%2300000"
        for method, place in (
            ("GET", f"/v1/collections/{store.id}/versions"),
            ("GET", f"/v1/collections/{store.id}/fields"),
            ("POST", f"/v1/collections/{store.id}/rows"),
            ("GET", f"/v1/rows?id={chunk}"),
            ("GET", f"/v1/why?id={chunk}"),
            ("GET", f"/v1/why?id={file}"),
        ):
            assert ask(running, method, place, other) == 404, place
        owned = {"authorization": f"Bearer {mine}"}
        assert (
            running.call("POST", "/v1/search", {"query": "fox", "collection": store.id}, owned).status == 200
        )
    finally:
        running.close()


@pytest.fixture(scope="module")
def library(server: Working) -> str:
    """A store of five files with attributes, one without."""
    with sdk(server) as client:
        store = client.vector_stores.create(name="library").id
        attributes: list[dict[str, str | float | bool]] = [
            {"author": "Ada", "year": 1843, "draft": False},
            {"author": "Grace", "year": 1952, "draft": True},
            {"author": "Ada", "year": 1837.5},
            {"author": "7", "year": 7},
            {},
        ]
        files = [
            {"file_id": upload(client, f"book {n} of the shelf", f"{n}.txt"), "attributes": each}
            for n, each in enumerate(attributes)
        ]
        client.vector_stores.file_batches.create_and_poll(store, files=files, poll_interval_ms=POLL)  # type: ignore[arg-type]
        return store


def eq(key: str, value: object, kind: str = "eq") -> dict[str, object]:
    return {"type": kind, "key": key, "value": value}


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (eq("author", "Ada"), "02"),
        (eq("author", "Ada", "ne"), "134"),
        (eq("year", 1843, "gt"), "1"),
        (eq("year", 1843, "gte"), "01"),
        (eq("year", 1843, "lt"), "23"),
        (eq("year", 1837.5, "lte"), "23"),
        (eq("author", ["Ada", "Grace"], "in"), "012"),
        (eq("author", ["Ada", "Grace"], "nin"), "34"),
        (eq("author", 7), ""),
        (eq("author", "7"), "3"),
        (eq("year", "7"), ""),
        (eq("draft", False), "0"),
        (eq("draft", 0), ""),
        (eq("title", "x"), ""),
        (eq("title", "x", "ne"), "01234"),
        ({"type": "and", "filters": [eq("author", "Ada"), eq("year", 1840, "gt")]}, "0"),
        (
            {
                "type": "or",
                "filters": [
                    eq("draft", True),
                    {"type": "and", "filters": [eq("author", "7"), eq("year", 7)]},
                ],
            },
            "13",
        ),
    ],
)
def test_search_filters_by_attributes_without_converting_them(
    client: openai.OpenAI, library: str, filters: Any, names: str
) -> None:
    """A missing attribute matches only `ne` and `nin`; a number is no text, and neither is a boolean."""
    found = client.vector_stores.search(library, query="book", filters=filters, max_num_results=50).data
    assert sorted(hit.filename for hit in found) == [f"{name}.txt" for name in names]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"filters": eq("a", 1, "like")}, "filters"),
        ({"filters": eq("a", [1])}, "filters"),
        ({"filters": eq("a", 1, "in")}, "filters"),
        ({"filters": eq("", 1)}, "filters"),
        ({"filters": {"type": "and", "filters": []}}, "filters"),
        ({"filters": {"type": "and"}}, "filters"),
        ({"filters": {}}, "filters"),
        ({"filters": []}, "filters"),
        ({"query": ""}, "query"),
        ({"query": []}, "query"),
        ({"max_num_results": 51}, "max_num_results"),
        ({"ranking_options": {"ranker": "best"}}, "ranking_options"),
        ({"ranking_options": {"score_threshold": 2}}, "ranking_options"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_search_invalid_request_is_refused_with_the_field(
    server: Working, library: str, fields: dict[str, Any], param: str
) -> None:
    reply = server.call("POST", f"/v1/vector_stores/{library}/search", {"query": "book", **fields})
    assert (reply.status, reply.refused()["param"]) == (400, param)


def test_search_filter_nested_deeper_than_eight_levels_is_refused(server: Working, library: str) -> None:
    def nested(levels: int) -> dict[str, Any]:
        return eq("author", "Ada") if not levels else {"type": "and", "filters": [nested(levels - 1)]}

    for levels, status in ((8, 200), (9, 400)):
        body = {"query": "book", "filters": nested(levels)}
        assert server.call("POST", f"/v1/vector_stores/{library}/search", body).status == status


def test_search_several_queries_give_each_chunk_its_best_score(client: openai.OpenAI, library: str) -> None:
    """Each query has its own vector; the answer echoes them, and the score is cut before the number of results."""
    texts = ["book 0 of the shelf", "book 3 of the shelf"]
    found = client.vector_stores.search(library, query=texts, rewrite_query=True, max_num_results=2)
    assert found.to_dict()["search_query"] == texts
    assert sorted(hit.filename for hit in found.data) == ["0.txt", "3.txt"]
    assert [round(hit.score, 5) for hit in found.data] == [1.0, 1.0]
    assert len(list(found)) == 2, "all results are on one page"
    some = client.vector_stores.search(
        library,
        query=texts[0],
        ranking_options={"ranker": "auto", "score_threshold": 0.999},
        max_num_results=50,
    ).data
    assert [hit.filename for hit in some] == ["0.txt"]
    every = client.vector_stores.search(library, query=texts[0], max_num_results=50).data
    assert len(every) == 5
    assert all(hit.score >= 0 for hit in every)


def test_lists_are_read_page_by_page_in_both_directions(client: openai.OpenAI, library: str) -> None:
    """Pages follow each other without gaps, backwards too; an unknown cursor is an error."""
    files = client.vector_stores.files
    names = {row.id: client.files.retrieve(row.id).filename for row in files.list(library)}
    assert [names[row.id] for row in files.list(library, limit=2)] == [f"{n}.txt" for n in (4, 3, 2, 1, 0)]
    assert [names[row.id] for row in files.list(library, order="asc", limit=2)] == [
        f"{n}.txt" for n in range(5)
    ]
    rising = [row.id for row in files.list(library, order="asc")]
    page = files.list(library, order="asc", before=rising[4], limit=2)
    assert ([row.id for row in page.data], page.has_more) == (rising[2:4], True)
    page = files.list(library, order="asc", before=rising[1], limit=2)
    assert ([row.id for row in page.data], page.has_more) == (rising[:1], False)
    assert [row.id for row in files.list(library, filter="failed")] == []
    assert len(list(files.list(library, filter="completed"))) == 5
    with pytest.raises(openai.NotFoundError):
        files.list(library, after="file-unknown")
    stores = [client.vector_stores.create(name=f"{n}").id for n in range(3)]
    listed = [store.id for store in client.vector_stores.list(limit=1)]
    assert listed[:3] == stores[::-1]
    before = client.vector_stores.list(before=stores[0], limit=1)
    assert [store.id for store in before.data] == [stores[1]]
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.list(before=rising[0])
    for store in stores:
        client.vector_stores.delete(store)


def test_store_is_described_changed_and_emptied(client: openai.OpenAI, server: Working) -> None:
    """Name, metadata and expiry change one by one; null empties each."""
    store = client.vector_stores.create(
        name="a", metadata={"k": "v"}, expires_after={"anchor": "last_active_at", "days": 7}
    )
    assert store.expires_after is not None
    assert store.last_active_at is not None
    assert store.expires_at == store.last_active_at + 7 * 86_400
    renamed = client.vector_stores.update(store.id, name="b")
    assert (renamed.name, renamed.metadata, renamed.expires_after) == ("b", {"k": "v"}, store.expires_after)
    emptied = client.vector_stores.update(store.id, name=None, metadata=None, expires_after=None)
    assert (emptied.name, emptied.metadata, emptied.expires_after, emptied.expires_at) == ("", {}, None, None)
    refused: list[dict[str, Any]] = [
        {"name": 1},
        {"metadata": {"k": 1}},
        {"expires_after": {"days": 7}},
        {"file_ids": []},
    ]
    for body in refused:
        assert server.call("POST", f"/v1/vector_stores/{store.id}", body).status == 400
    client.vector_stores.delete(store.id)


def test_create_with_an_idempotency_key_makes_one_store(server: Working) -> None:
    """A repeated request gets the same store; the key with another request is refused."""
    key = {"idempotency-key": "once"}
    first = server.call("POST", "/v1/vector_stores", {"name": "a"}, key)
    assert server.call("POST", "/v1/vector_stores", {"name": "a"}, key).json["id"] == first.json["id"]
    other = server.call("POST", "/v1/vector_stores", {"name": "b"}, key)
    assert (other.status, other.refused()["code"]) == (422, "idempotency_key_reused")
    assert server.call("POST", "/v1/vector_stores", {"name": "a"}).json["id"] != first.json["id"]
    assert server.call("POST", "/v1/vector_stores", {}, {"idempotency-key": "é"}).status == 400


def test_create_with_files_attaches_them_or_makes_nothing(client: openai.OpenAI, server: Working) -> None:
    """A store that is created with files indexes them; one with an unknown file, or a wrong strategy, is not made."""
    file = upload(client, FOX)
    before = len(list(client.vector_stores.list(limit=100)))
    static = {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 99}
    for body, status in (
        ({"file_ids": [file, "file-unknown"]}, 404),
        ({"file_ids": [file], "chunking_strategy": {"type": "static", "static": static}}, 400),
    ):
        assert server.call("POST", "/v1/vector_stores", body).status == status
    assert len(list(client.vector_stores.list(limit=100))) == before
    store = client.vector_stores.create(file_ids=[file]).id
    polled = client.vector_stores.files.poll(file, vector_store_id=store, poll_interval_ms=POLL)
    assert polled.status == "completed"
    assert client.vector_stores.search(store, query=FOX).data[0].file_id == file


def test_attach_again_changes_nothing_and_a_failed_file_is_tried_again(client: openai.OpenAI) -> None:
    """Attaching is idempotent; so a client may repeat it after a time-out."""
    store = client.vector_stores.create().id
    files = client.vector_stores.files
    file = upload(client, FOX)
    first = files.create_and_poll(file, vector_store_id=store, poll_interval_ms=POLL)
    again = files.create(store, file_id=file, attributes={"ignored": True})
    assert again == first
    bad = upload(client, b"\0", "bad.bin")
    failed = files.create_and_poll(bad, vector_store_id=store, poll_interval_ms=POLL)
    assert failed.status == "failed"
    assert files.create(store, file_id=bad).status == "in_progress"
    assert files.poll(bad, vector_store_id=store, poll_interval_ms=POLL).status == "failed"
    with pytest.raises(openai.NotFoundError) as unknown:
        files.create(store, file_id="file-unknown")
    assert unknown.value.param == "file_id"
    assert client.vector_stores.retrieve(store).file_counts.total == 2


def test_batch_poller_returns_when_the_batch_is_cancelled(client: openai.OpenAI) -> None:
    """A client that waits for a batch is not left waiting, and ids in the wrong place are named in the error."""
    store = client.vector_stores.create().id
    files = [upload(client, f"text {n}") for n in range(4)]
    batches = client.vector_stores.file_batches
    batch = batches.create(store, file_ids=files, attributes={"a": 1})
    assert batch.file_counts.total == 4
    cancelled = batches.cancel(batch.id, vector_store_id=store)
    assert cancelled.file_counts.in_progress == 0
    polled = batches.poll(batch.id, vector_store_id=store, poll_interval_ms=POLL)
    assert polled.file_counts.in_progress == 0
    assert polled.file_counts.cancelled + polled.file_counts.completed == 4
    for named, of, param in ((store, batch.id, "vector_store_id"), (files[0], store, "batch_id")):
        with pytest.raises(openai.NotFoundError) as error:
            batches.retrieve(named, vector_store_id=of)
        assert error.value.param == param
    again = batches.create_and_poll(store, file_ids=files, poll_interval_ms=POLL)
    assert (again.status, again.file_counts.completed) == ("completed", 4)
    assert len(list(batches.list_files(again.id, vector_store_id=store, limit=1))) == 4
    client.files.delete(files[0])
    assert client.vector_stores.retrieve(store).file_counts.total == 3


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"file_ids": ["a"], "files": [{"file_id": "a"}]},
        {"file_ids": []},
        {"file_ids": ["a"] * 2_001},
        {"file_ids": ["a"], "attributes": {"k": "v" * 513}},
        {"file_ids": ["a"], "attributes": {f"{n}": 1 for n in range(17)}},
        {"file_ids": ["a"], "attributes": {"k": None}},
        {"file_ids": ["a"], "attributes": {"k": [1]}},
        {
            "file_ids": ["a"],
            "chunking_strategy": {
                "type": "static",
                "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 51},
            },
        },
        {"file_ids": ["a"], "chunking_strategy": {"type": "best"}},
    ],
)
def test_file_batch_invalid_request_is_refused(server: Working, library: str, fields: dict[str, Any]) -> None:
    reply = server.call("POST", f"/v1/vector_stores/{library}/file_batches", fields)
    assert reply.status == 400, reply.json
    assert reply.refused()["param"]


def test_job_may_not_write_into_a_vector_store(server: Working, library: str) -> None:
    """A store takes files, through its own routes only."""
    refused = server.call("POST", "/v1/jobs", {"collection": library, "texts": ["x"]})
    assert (refused.status, refused.refused()["param"]) == (404, "collection")
