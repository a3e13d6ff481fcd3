"""Chroma directories as other producers write them, and archives of them."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def write_chroma(
    folder: Path,
    name: str,
    ids: Sequence[str],
    *,
    dimensions: int = 16,
    texts: Sequence[str | None] = (),
    metadata: Sequence[Mapping[str, Any] | None] = (),
    vectors: Any = None,
) -> Path:
    """Write a collection into a Chroma directory, and close it; a row's vector is the seeded one of its text."""
    import chromadb
    from chromadb.config import Settings

    said = list(texts) or [f"text of {each}" for each in ids]
    client: Any = chromadb.PersistentClient(path=str(folder), settings=Settings(anonymized_telemetry=False))
    try:
        collection = client.get_or_create_collection(name, embedding_function=None)
        made = seeded([text or key for key, text in zip(ids, said, strict=True)], dimensions)
        for start in range(0, len(ids), 5_000):
            some = slice(start, start + 5_000)
            extra: dict[str, Any] = {"metadatas": list(metadata[some])} if metadata else {}
            if all(text is not None for text in said[some]):
                extra["documents"] = said[some]
            collection.add(
                ids=list(ids[some]), embeddings=made[some] if vectors is None else vectors[some], **extra
            )
    finally:
        client.close()
    return folder


def archive(folder: Path) -> bytes:
    """Return a Chroma directory as a .tar.gz."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as members:
        members.add(folder, arcname=".")
    return packed.getvalue()
