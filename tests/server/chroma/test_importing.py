"""Rows are imported from Chroma's own server through its HTTP API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import flowbed
from flowbed.errors import NotFound, Transient
from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from pathlib import Path

IDS = tuple(f"row-{number:03d}" for number in range(700))


def fill(url: str, name: str) -> None:
    """Make a collection of three pages on the server."""
    import chromadb

    parts = urlsplit(url)
    client = chromadb.HttpClient(host=str(parts.hostname), port=parts.port or 0)
    collection: Any = client.get_or_create_collection(name, embedding_function=None)
    texts = [f"text of {key}" for key in IDS]
    collection.upsert(
        ids=list(IDS),
        embeddings=seeded(texts, 16),
        documents=texts,
        metadatas=[{"n": number} for number in range(len(IDS))],
    )


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


def test_server_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbed.publish.reading.server.ATTEMPTS", 2)
    (tmp_path / "flowbed.toml").write_text('model = "seeded:16"\n')
    with (
        flowbed.open(tmp_path) as bed,
        pytest.raises(Transient, match=r"chroma at 127\.0\.0\.1:9 could not be reached"),
    ):
        bed.import_rows("http://127.0.0.1:9", collection="docs")
