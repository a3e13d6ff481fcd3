"""Rows are imported from Chroma's own server through its HTTP API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import flowbed
from flowbed.errors import Misconfigured, NotFound, Transient
from flowbed.publish.reading.server import ChromaServer
from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from pathlib import Path

IDS = tuple(f"row-{number:03d}" for number in range(700))


def fill(url: str, name: str, rows: int = len(IDS), **place: Any) -> Any:
    """Make a collection on the server, by default of three pages, and return a client's."""
    import chromadb

    parts = urlsplit(url)
    client = chromadb.HttpClient(host=str(parts.hostname), port=parts.port or 0, **place)
    collection: Any = client.get_or_create_collection(name, embedding_function=None)
    texts = [f"text of {key}" for key in IDS[:rows]]
    collection.upsert(
        ids=list(IDS[:rows]),
        embeddings=seeded(texts, 16),
        documents=texts,
        metadatas=[{"n": number} for number in range(rows)],
    )
    return collection


def test_chroma_server_imported_page_by_page_has_every_row(chroma_url: str, tmp_path: Path) -> None:
    fill(chroma_url, "imported")
    fill(chroma_url, "imported-too")  # so that there are several collections, in any order of tests
    (tmp_path / "flowbed.toml").write_text('model = "seeded:16"\n')
    with flowbed.open(tmp_path) as bed:
        with pytest.raises(NotFound, match=r"name the collection with --name; there are: .*imported"):
            bed.import_rows(chroma_url, collection="docs")
        with pytest.raises(NotFound, match="no collection is called 'none'"):
            bed.import_rows(chroma_url, collection="docs", name="none")
        done = bed.import_rows(chroma_url, collection="docs", name="imported")
        assert (done.read, done.written, done.refused, done.sampled) == (700, 700, 0, 16)
        (hit,) = bed.search("text of row-412", limit=1)
        assert (hit.id, hit.metadata) == ("row-412", {"n": 412})
        assert bed.import_rows(chroma_url, collection="docs", name="imported").unchanged == 700
        assert bed.verify()["docs"].faults == ()


def test_collection_of_a_server_with_more_than_are_listed_is_found_by_its_name(
    chroma_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowbed.publish.reading.server.LISTED", 1)
    for name in ("one-of-many", "two-of-many"):
        fill(chroma_url, name, 3)
        rows = asyncio.run(ids_of(ChromaServer(url=chroma_url, collection=name)))
        assert rows == list(IDS[:3])


async def ids_of(reader: ChromaServer) -> list[str]:
    return [each async for page in reader.pages() for each in page.ids]


async def test_rows_that_moved_up_while_others_were_deleted_are_read(chroma_url: str) -> None:
    """Rows 0 to 9 are deleted after the first page: without a second reading, rows 20 to 29 would be missed."""
    collection = fill(chroma_url, "shrinking", 60)
    read: list[str] = []
    async for page in ChromaServer(url=chroma_url, collection="shrinking", page=20).pages():
        if not read:
            await asyncio.to_thread(collection.delete, ids=list(IDS[:10]))
        read += page.ids
    assert set(read) == set(IDS[:60])


async def test_rows_that_are_deleted_after_every_page_end_the_reading(chroma_url: str) -> None:
    collection = fill(chroma_url, "vanishing", 60)
    left = list(IDS[:60])

    async def read() -> None:
        async for _ in ChromaServer(url=chroma_url, collection="vanishing", page=20).pages():
            await asyncio.to_thread(collection.delete, ids=[left.pop(0)])

    with pytest.raises(Transient, match="deleted each time"):
        await read()


def test_collection_of_another_tenant_and_database_is_imported(
    chroma_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import chromadb
    from chromadb.config import Settings

    parts = urlsplit(chroma_url)
    at: dict[str, Any] = {
        "chroma_server_host": parts.hostname,
        "chroma_server_http_port": parts.port,
        "chroma_api_impl": "chromadb.api.fastapi.FastAPI",
    }
    admin = chromadb.AdminClient(Settings(**at))
    admin.create_tenant("the-firm")
    admin.create_database("of-notes", tenant="the-firm")
    fill(chroma_url, "elsewhere", 3, tenant="the-firm", database="of-notes")
    (tmp_path / "flowbed.toml").write_text('model = "seeded:16"\n')
    with flowbed.open(tmp_path) as bed:
        with pytest.raises(NotFound, match="no collection is called 'elsewhere'"):
            bed.import_rows(chroma_url, collection="docs", name="elsewhere")
        monkeypatch.setenv("CHROMA_TENANT", "the-firm")
        monkeypatch.setenv("CHROMA_DATABASE", "of-notes")
        assert bed.import_rows(chroma_url, collection="docs").written == 3


def test_address_and_token_of_a_server_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flowbed.toml").write_text('model = "seeded:16"\n')
    with flowbed.open(tmp_path) as bed:
        with pytest.raises(Misconfigured, match="https://host:8000, without a password") as refused:
            bed.import_rows("http://ann:secret@127.0.0.1:9", collection="docs")
        assert "secret" not in str(refused.value)
        monkeypatch.setenv("CHROMA_TOKEN", "two\nlines")
        with pytest.raises(Misconfigured, match="CHROMA_TOKEN"):
            bed.import_rows("http://127.0.0.1:9", collection="docs")


def test_server_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbed.publish.reading.server.ATTEMPTS", 2)
    (tmp_path / "flowbed.toml").write_text('model = "seeded:16"\n')
    with (
        flowbed.open(tmp_path) as bed,
        pytest.raises(Transient, match=r"chroma at 127\.0\.0\.1:9 could not be reached"),
    ):
        bed.import_rows("http://127.0.0.1:9", collection="docs")
