"""/v1/vector_stores through the official SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest
from tests.server.conftest import Running, create_key, write_project

from flowbed.services.vector_stores.worker import StoreWorker

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
        stores = self.service.vector_stores
        self.stores = await self._stack.enter_async_context(
            StoreWorker(stores.processing, stores.stores.changed)
        )
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
        everywhere = running.call("POST", "/v1/search", {"query": FOX}, headers)
        assert everywhere.status == 404, "nothing else is indexed"
        path = "/api/v2/tenants/default_tenant/databases/default_database/collections"
        assert running.call("GET", path, headers=headers).json == []
        assert running.call("GET", f"{path}/{store.id}", headers=headers).status == 404
        assert running.call("POST", path, {"name": store.id}, headers).status == 400
        owned = {"authorization": f"Bearer {mine}"}
        assert (
            running.call("POST", "/v1/search", {"query": "fox", "collection": store.id}, owned).status == 200
        )
    finally:
        running.close()
