"""Flowbed's server and Chroma's own side by side, over the same rows."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.server.conftest import Running, write_project

from flowbed.index.active_space import Collections
from flowbed.index.commit import commit
from flowbed.index.datasets import Datasets
from flowbed.index.deltas import Upsert, write_delta
from flowbed.ledger import RunRow
from flowbed.services.chroma.collections import KEY, CollectionSettings
from flowbed.testing.embedder import Seeded
from flowbed.testing.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flowbed.index.search.nearest import Metric

DATABASE = "/tenants/default_tenant/databases/default_database"
DIMENSIONS = 64
STARTING = 60.0  # s for Chroma's server to answer
METRICS: tuple[Metric, ...] = ("cosine", "l2", "ip")


@pytest.fixture(autouse=True, scope="module")
def without_open_sockets() -> Iterator[None]:
    """Collect the sockets that Chroma's clients leave open: found later, they would fail a test of something else."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


# Metadata and text of each row: every type under one key, missing keys, texts that a pattern may misread.
ROWS: dict[str, tuple[dict[str, Any] | None, str | None]] = {
    "one": ({"k": 1, "n": -3}, "Hello World"),
    "one float": ({"k": 1.0, "n": -3.5}, "hello 100%"),
    "half": ({"k": 1.5, "n": 0.25}, "a_b"),
    "two": ({"k": 2, "n": 2}, "äÖ straße"),
    "text one": ({"k": "1", "n": 7}, "it's"),
    "text a": ({"k": "a"}, None),
    "text B": ({"k": "B", "x": "b"}, "line\nbreak"),
    "empty text": ({"k": ""}, "ab"),
    "quote": ({"k": "O'Brien", "x": "%"}, "xyz abc 12"),
    "word true": ({"k": "true", "x": True}, "日本語のテキスト"),
    "true": ({"k": True, "n": 1}, "tab\tand \\ back"),
    "false": ({"k": False}, "a*b+c?"),
    "zero": ({"k": 0, "x": False}, "HELLO world hello"),
    "zero float": ({"k": 0.0}, "aaa"),
    "minus": ({"k": -1, "x": "1"}, "(brackets) [and] {more}"),
    "large": ({"k": 2**53 + 1}, "x" * 500),
    "large, next": ({"k": 2**53 + 2, "n": 3}, "x" * 499 + "y"),
    "missing": ({"x": 1, "n": 2}, "nothing of k"),
    "none": (None, "none at all"),
    "neither": (None, None),
    "other": ({"o": "o", "key with spaces": "v", "it's": 1, "a.b": 2}, "%"),
}
VECTORS = np.random.default_rng(5).normal(size=(len(ROWS), DIMENSIONS)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


@dataclass(frozen=True)
class Peer:
    """A server that answers Chroma's API, and the ids of its collections by name."""

    url: str
    collections: Mapping[str, str]

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request; a path without a leading slash is below the database's."""
        whole = path if path.startswith("/") else f"{DATABASE}/{path}"
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(  # noqa: S310 - a server of this test
            f"{self.url}/api/v2{whole}", data, headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    def text(self, path: str) -> str:
        """Read a page of the server that is none of Chroma's API."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as response:  # noqa: S310
            found: bytes = response.read()
            return found.decode()

    def about(self, collection: str, method: str, action: str, body: Any = None) -> tuple[int, Any]:
        """Send a request about a collection, by its name."""
        return self.call(method, f"collections/{self.collections[collection]}/{action}", body)


@pytest.fixture(scope="session")
def chroma_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Chroma's own server, and yield its address."""
    folder = tmp_path_factory.mktemp("chroma")
    port = free_port()
    command = [str(Path(sys.executable).with_name("chroma")), "run"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--path", str(folder / "db"), "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=log,
            env={**os.environ, "ANONYMIZED_TELEMETRY": "False"},
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _await(url, process, folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + STARTING
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        try:
            Peer(url, {}).call("GET", "/heartbeat")
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"chroma run did not answer within {STARTING:g} s: {log.read_text()}")


@pytest.fixture(scope="session")
def chroma(chroma_url: str) -> Peer:
    """Give Chroma's server a collection of the rows for each distance."""
    peer = Peer(chroma_url, {})
    ids: dict[str, str] = {}
    for metric in METRICS:
        status, made = peer.call(
            "POST", "collections", {"name": f"rows-{metric}", "configuration": {"hnsw": {"space": metric}}}
        )
        assert status == 200, made
        ids[metric] = made["id"]
        added = {
            "ids": list(ROWS),
            "embeddings": VECTORS.tolist(),
            "documents": [text for _, text in ROWS.values()],
            "metadatas": [metadata for metadata, _ in ROWS.values()],
        }
        assert peer.call("POST", f"collections/{made['id']}/add", added) == (201, {})
    return Peer(chroma_url, ids)


@pytest.fixture(scope="session")
def flowbed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Serve a project with a collection of the rows for each distance."""
    folder = write_project(tmp_path_factory.mktemp("served"), '[serve]\nchroma_writes = "committed"\n')
    running = Running(folder)
    for metric in METRICS:
        running.wait(put_rows(running, metric))
    yield running
    running.close()


@pytest.fixture(scope="session")
def flowbed(flowbed_server: Running) -> Peer:
    """Return Flowbed's server as one that answers Chroma's API."""
    peer = Peer(flowbed_server.url, {})
    status, found = peer.call("GET", "collections")
    assert status == 200, found
    return Peer(peer.url, {each["name"]: each["id"] for each in found})


async def put_rows(running: Running, metric: Metric) -> None:
    """Commit the rows to a collection whose distance is `metric`."""
    bed = running.service.bed
    space, now = Seeded(DIMENSIONS).space, bed.clock()
    upserts = [
        Upsert(id=id_, version=1, document=text or "", metadata=metadata or {}, text_hash="", vector=vector)
        for (id_, (metadata, text)), vector in zip(ROWS.items(), VECTORS, strict=True)
    ]
    delta = await write_delta(bed.store, metric, space, upserts, [], now=now)
    run = RunRow(
        id=delta.run,
        collection=metric,
        space=space.to_json(),
        key=delta.key,
        sha256=delta.sha256,
        rows=delta.rows,
        lane="realtime",
        worker="w",
        created=now,
    )
    await bed.ledger.runs.record(run, [], worker="w")
    await bed.store.create(f"{metric}/{KEY}", CollectionSettings(metric=metric).to_json())
    await commit(
        metric,
        store=bed.store,
        ledger=bed.ledger,
        datasets=Datasets(bed.store),
        collections=Collections(bed.store),
        clock=bed.clock,
    )
