"""Chroma's own Python clients, unchanged, against Flowbed's server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import chromadb
import numpy as np
import pytest
from chromadb.config import Settings
from chromadb.errors import ChromaAuthError, ChromaError, InvalidArgumentError, NotFoundError
from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction
from tests.server.chroma.conftest import DIMENSIONS, METRICS, ROWS, VECTORS
from tests.server.conftest import Running, create_key, write_project

from flowbed.testing.embedder import Seeded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chromadb.api import ClientAPI
    from tests.server.chroma.conftest import Peer

# A client that could not connect leaves its socket to the garbage collection.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
MANY = 1_200  # rows: more than two blocks of the size that a test sets
# Without telemetry, which would leave this machine.
QUIET = Settings(anonymized_telemetry=False)


def client_of(url: str, **settings: Any) -> ClientAPI:
    """Connect as a user does."""
    host, _, port = url.removeprefix("http://").partition(":")
    found = Settings(anonymized_telemetry=False, **settings)
    return chromadb.HttpClient(host=host, port=int(port), settings=found)


@pytest.fixture
def client(flowbed: Peer) -> ClientAPI:
    return client_of(flowbed.url)


def test_http_client_lists_and_describes_collections(client: ClientAPI) -> None:
    assert [each.name for each in client.list_collections()] == sorted(METRICS)
    assert client.count_collections() == len(METRICS)
    assert [each.name for each in client.list_collections(limit=1, offset=1)] == sorted(METRICS)[1:2]
    collection = client.get_collection("l2")
    assert collection.id == client.get_collection("l2").id
    assert collection.configuration["hnsw"]["space"] == "l2"  # type: ignore[index]
    assert collection.count() == len(ROWS)
    assert client.get_max_batch_size() == 5461
    assert client.heartbeat() > 0


def test_http_client_gets_and_peeks(client: ClientAPI) -> None:
    collection = client.get_collection("cosine")
    found = collection.get(ids=["two", "none"], include=["documents", "metadatas", "embeddings"])
    assert found["ids"] == ["none", "two"]
    assert found["documents"] == ["none at all", "äÖ straße"]
    assert found["metadatas"] == [None, {"k": 2, "n": 2}]
    places = [list(ROWS).index(id_) for id_ in found["ids"]]
    np.testing.assert_allclose(np.array(found["embeddings"]), VECTORS[places], atol=1e-6)
    assert collection.peek(3)["ids"] == sorted(ROWS)[:3]


def test_http_client_queries_with_filters(client: ClientAPI) -> None:
    collection = client.get_collection("cosine")
    found = collection.query(
        query_embeddings=VECTORS[:2],
        n_results=2,
        where={"k": {"$in": [1, 2]}},  # type: ignore[dict-item]
        where_document={"$contains": "o"},
    )
    assert found["ids"] == [["one", "one float"], ["one float", "one"]]
    assert found["distances"] is not None
    assert found["distances"][0][0] == pytest.approx(0, abs=1e-6)


def test_http_client_errors_are_those_of_chroma(client: ClientAPI) -> None:
    collection = client.get_collection("cosine")
    with pytest.raises(NotFoundError, match=r"Collection \[nope\] does not exist"):
        client.get_collection("nope")
    with pytest.raises(InvalidArgumentError, match="dimension of 64, got 2"):
        collection.query(query_embeddings=np.ones((1, 2), np.float32))
    with pytest.raises(InvalidArgumentError, match="unclosed character class"):
        collection.get(where_document={"$regex": "["})
    with pytest.raises(ChromaError, match="Reset is not available"):
        client.reset()


def test_http_client_other_tenant_or_database_is_not_found(flowbed: Peer) -> None:
    host, _, port = flowbed.url.removeprefix("http://").partition(":")
    with pytest.raises(Exception, match=r"Tenant \[other\] not found"):
        chromadb.HttpClient(host=host, port=int(port), settings=QUIET, tenant="other")
    with pytest.raises(Exception, match=r"Database .other. not found"):
        chromadb.HttpClient(host=host, port=int(port), settings=QUIET, database="other")


async def test_async_http_client_reads(flowbed: Peer) -> None:
    host, _, port = flowbed.url.removeprefix("http://").partition(":")
    client = await chromadb.AsyncHttpClient(host=host, port=int(port), settings=QUIET)
    collection = await client.get_collection("ip")
    assert await collection.count() == len(ROWS)
    found = await collection.query(query_embeddings=VECTORS[3:4], n_results=1)
    assert found["ids"] == [["two"]]
    assert (await collection.get(where={"k": True}))["ids"] == ["true"]


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[tuple[Running, str]]:
    """Serve a project that has a key."""
    folder = write_project(tmp_path / "keyed")
    secret = create_key(folder)
    running = Running(folder)
    yield running, secret
    running.close()


@pytest.mark.parametrize("header", ["X-Chroma-Token", "Authorization"])
def test_http_client_key_is_required_in_either_header(keyed: tuple[Running, str], header: str) -> None:
    running, secret = keyed
    token = {"chroma_client_auth_provider": "chromadb.auth.token_authn.TokenAuthClientProvider"}
    settings = {**token, "chroma_auth_token_transport_header": header}
    client = client_of(running.url, **settings, chroma_client_auth_credentials=secret)
    assert client.list_collections() == []
    with pytest.raises(ChromaAuthError):
        client_of(running.url, **settings, chroma_client_auth_credentials="fb-wrong").list_collections()
    with pytest.raises(ChromaAuthError):
        client_of(running.url)


def test_http_client_texts_of_queries_are_embedded_by_the_same_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chroma's function for OpenAI embeds with the project's model if it is given this server's address."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    running = Running(write_project(tmp_path / "project"))
    try:
        running.wait(running.service.bed.run())  # type: ignore[attr-defined] # the whole project
        function = OpenAIEmbeddingFunction(api_base=f"{running.url}/v1", model_name="seeded:64")
        docs = client_of(running.url).get_collection("docs", embedding_function=function)  # type: ignore[arg-type]
        assert docs.query(query_texts=["sentence 7"], n_results=1)["ids"] == [["docs#d7#00000"]]
    finally:
        running.close()


async def test_commit_is_seen_by_every_client_at_once(tmp_path: Path) -> None:
    """No client connects again, or waits."""
    folder = write_project(tmp_path / "project")
    running = Running(folder)
    try:
        running.wait(running.service.bed.run())  # type: ignore[attr-defined] # the whole project
        collections = [client_of(running.url).get_collection("docs") for _ in range(3)]
        assert [each.count() for each in collections] == [20, 20, 20]
        (vector,) = (await Seeded(DIMENSIONS).embed(["brand new words"], purpose="document")).vectors
        with (folder / "documents.jsonl").open("a") as documents:
            documents.write('{"id": "new", "text": "brand new words", "n": 99}\n')
        running.wait(running.service.bed.run())  # type: ignore[attr-defined]
        for collection in collections:
            assert collection.count() == 21
            assert collection.query(query_embeddings=[vector], n_results=1)["ids"] == [["docs#new#00000"]]
            assert collection.get(where={"n": 99})["documents"] == ["brand new words"]
    finally:
        running.close()


def test_get_many_rows_streams_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than are read at once come in the order of their ids, each column whole."""
    for module in ("index.search.rows", "server.chroma.answers"):
        monkeypatch.setattr(f"flowbed.{module}.BLOCK", 512)
    folder = write_project(tmp_path / "many")
    lines = (f'{{"id": "m{n:05d}", "text": "text {n}", "n": {n}}}\n' for n in range(MANY))
    (folder / "documents.jsonl").write_text("".join(lines))
    running = Running(folder)
    try:
        running.wait(running.service.bed.run())  # type: ignore[attr-defined]
        found = (
            client_of(running.url)
            .get_collection("docs")
            .get(include=["documents", "metadatas", "embeddings"])
        )
        assert found["ids"] == [f"docs#m{n:05d}#00000" for n in range(MANY)]
        assert found["documents"] == [f"text {n}" for n in range(MANY)]
        assert found["metadatas"] is not None
        assert [each["n"] for each in found["metadatas"]] == list(range(MANY))
        assert np.array(found["embeddings"]).shape == (MANY, DIMENSIONS)
    finally:
        running.close()
