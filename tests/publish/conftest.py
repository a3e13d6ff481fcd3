"""A collection to publish, and plain readers of what was published."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.ledger import open_ledger
from flowbed.storage import open_store
from flowbed.testing.clock import FixedClock
from flowbed.testing.publication import PublishBench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# A reader that knows nothing of Flowbed. It is a process, since a damaged directory would end the test's.
READER = """
import json, sys
import chromadb
directory, name = sys.argv[1:3]
client = chromadb.PersistentClient(directory)
collection = client.get_collection(name, embedding_function=None)
held = collection.get(include=["documents", "metadatas", "embeddings"])
near = []
if held["ids"]:
    near = collection.query(query_embeddings=held["embeddings"][:20], n_results=min(10, len(held["ids"])))["ids"]
print(json.dumps({
    "ids": held["ids"], "documents": held["documents"], "metadatas": held["metadatas"],
    "vectors": [list(map(float, each)) for each in held["embeddings"]], "near": near, "count": collection.count(),
}))
"""


def read_chroma(directory: Path, name: str) -> dict[str, Any]:
    """Read a Chroma directory, which is changed by that, with chromadb alone."""
    done = subprocess.run(
        [sys.executable, "-c", READER, str(directory), name],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
async def publish_bench(tmp_path: Path) -> AsyncIterator[PublishBench]:
    """An empty collection in a folder."""
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="l")
    yield PublishBench(
        store=open_store("store", folder=tmp_path),
        ledger=ledger,
        clock=FixedClock(),
        scratch=tmp_path / "scratch",
    )
    await ledger.close()
