"""Chroma's package for Node, and LangChain's and LlamaIndex's Chroma stores, unchanged, against `flowbed serve`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.clients.conftest import SEEDED, serving, write_project

from flowbed.testing.embedder import Seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
TIMEOUT = 300  # s; the packages take long to load on a busy machine
TEXTS = ["keys are rotated each month", "lunch is at noon", "the safe is in the cellar"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Serve a project of 20 sentences, indexed while the server runs, whose collections clients may write."""
    folder = tmp_path_factory.mktemp("chroma")
    lines = [json.dumps({"id": f"d{n}", "text": f"sentence {n}", "n": n}) for n in range(20)]
    (folder / "sentences.jsonl").write_text("\n".join(lines))
    settings = (
        f'model = "{SEEDED}"\n[serve]\nchroma_writes = "committed"\n[sources.docs]\nkind = "jsonl"\n'
        f'location = "{folder / "sentences.jsonl"}"\noptions = {{ metadata = ["n"] }}\n'
    )
    with serving(write_project(folder / "project", settings)) as (url, call):
        call("run", "--yes")
        host, _, port = url.removeprefix("http://").removesuffix("/v1").partition(":")
        yield {"url": url, "host": host, "port": int(port), "model": SEEDED}


def test_node_package_passes_every_check(address: dict[str, Any], in_node: Callable[..., Any]) -> None:
    vectors = asyncio.run(Seeded(64).embed(TEXTS, purpose="document")).vectors.tolist()
    outcomes = in_node("chroma.mjs", {**address, "vectors": vectors})
    assert len(outcomes) == 6
    assert {check: outcome for check, outcome in outcomes.items() if outcome != "passed"} == {}


@pytest.fixture(scope="session")
def used(installed: Callable[[str], Path]) -> Callable[..., dict[str, Any]]:
    """Return what a package's store brings back."""
    python = installed("python/bin/python")

    def run(package: str, address: dict[str, Any]) -> dict[str, Any]:
        kept = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "")}
        done = subprocess.run(
            [str(python), str(HERE / "stores.py"), package, json.dumps(address)],
            env={**kept, "ANONYMIZED_TELEMETRY": "False"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def test_langchain_store_writes_and_searches(
    address: dict[str, Any], used: Callable[..., dict[str, Any]]
) -> None:
    found = used("langchain", address)
    ((text, metadata, distance),) = found["nearest"]
    assert (text, metadata) == ("lunch is at noon", {"n": 1})
    assert distance == pytest.approx(0, abs=1e-5)
    assert sorted(found["filtered"]) == ["a", "c"]
    assert found["later"] == ["c"]
    assert found["got"] == ["keys are rotated each month"]
    assert found["diverse"] == 2
    assert found["left"] == {"a": "keys are rotated each month", "b": "dinner is at eight"}
    assert found["project"] == ["sentence 3"]


def test_llamaindex_store_writes_and_searches(
    address: dict[str, Any], used: Callable[..., dict[str, Any]]
) -> None:
    found = used("llamaindex", address)
    assert found["nearest"] == ["lunch is at noon"]
    assert found["filtered"] == ["the safe is in the cellar"]
    assert found["left"] == ["lunch is at noon", "the safe is in the cellar"]
    assert found["project"] == 20
