"""A server that starts has in memory what was used last."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from tests.server.conftest import MODEL, Running, write_project

if TYPE_CHECKING:
    from pathlib import Path


def hits(running: Running) -> dict[str, int]:
    tiers: list[dict[str, Any]] = running.call("GET", "/v1/admin/cache").json["tiers"]
    return {tier["tier"]: tier["hits"] for tier in tiers}


def embed(running: Running, *texts: str) -> None:
    assert running.call("POST", "/v1/embeddings", {"model": MODEL, "input": list(texts)}).status == 200


def test_server_starts_with_the_vectors_used_last_in_memory(tmp_path: Path) -> None:
    folder = write_project(tmp_path)
    first = Running(folder)
    embed(first, "asked before the restart", "asked too")
    first.close()
    second = Running(folder)
    try:
        embed(second, "asked too", "asked before the restart")
        assert hits(second)["VectorMemory"] == 2
    finally:
        second.close()


def test_server_starts_with_a_damaged_cache(tmp_path: Path) -> None:
    """A vector whose bytes have changed is not taken into memory, and one that is whole is."""
    folder = write_project(tmp_path)
    first = Running(folder)
    embed(first, "one", "two")
    first.close()
    with sqlite3.connect(folder / ".flowbed/vectors/vectors.db") as database:
        database.execute("UPDATE vectors SET vector = zeroblob(length(vector)) WHERE id = 1")
    database.close()
    second = Running(folder)
    try:
        embed(second, "one", "two")
        assert hits(second)["VectorMemory"] == 1
    finally:
        second.close()
