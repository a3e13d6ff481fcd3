"""LangChain's and LlamaIndex's OpenAI embeddings, with the real packages in their own environments."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from tests.clients.conftest import Served

SCRIPT = Path(__file__).parent / "packages.py"
# Of several lengths: LangChain cuts the last, which has more than 8,191 tokens, and averages the vectors of its parts.
TEXTS = ["The keys are rotated each month.", "Grüße aus Köln 🔑", "def add(a, b): return a + b", "x"]
LONG = "The keys are rotated each month. " * 1500


Found = dict[str, Any]
Embedded = Callable[[str, Sequence[tuple[Served, list[str]]]], list[Found]]


@pytest.fixture(scope="session")
def embedded(installed: Callable[[str], Path]) -> Embedded:
    """Return the vectors that a package gets from servers, all in one process: the packages take seconds to load."""
    python = installed("python/bin/python")

    def run(package: str, asked: Sequence[tuple[Served, list[str]]]) -> list[Found]:
        said = [
            {"url": served.url, "model": served.model, "key": served.key, "texts": texts}
            for served, texts in asked
        ]
        home = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "")}
        done = subprocess.run(
            [str(python), str(SCRIPT), package, json.dumps(said)],
            env=home,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [{name: np.array(each) for name, each in found.items()} for found in json.loads(done.stdout)]

    return run


def require_vectors_of_texts(served: Served, found: Found) -> None:
    """Require that documents and queries have the vectors that the plain SDK gets of each text alone."""
    with openai.OpenAI(base_url=served.url, api_key=served.key or "none", max_retries=0) as client:
        answers = [client.embeddings.create(model=served.model, input=text) for text in TEXTS]
    expected = np.array([answer.data[0].embedding for answer in answers])
    np.testing.assert_allclose(found["documents"], expected, atol=1e-5)
    np.testing.assert_allclose(found["later"], expected, atol=1e-5)
    np.testing.assert_allclose(found["query"], expected[0], atol=1e-5)


def test_llamaindex_each_server_returns_the_vectors_of_its_texts(
    seeded: Served, local: Served, upstream: Served, embedded: Embedded
) -> None:
    """Also concurrently and later."""
    servers = (seeded, local, upstream)
    found = embedded("llamaindex", [(served, TEXTS) for served in servers])
    for served, each in zip(servers, found, strict=True):
        require_vectors_of_texts(served, each)


def test_langchain_each_server_returns_the_vectors_of_its_texts(
    seeded: Served, local: Served, upstream: Served, embedded: Embedded
) -> None:
    """LangChain cuts a text of more than 8,191 tokens into arrays, and combines their vectors into one of length 1."""
    servers = (seeded, local, upstream)
    *found, parts = embedded(
        "langchain", [*((served, TEXTS) for served in servers), (seeded, [LONG, TEXTS[0]])]
    )
    for served, each in zip(servers, found, strict=True):
        require_vectors_of_texts(served, each)
    assert np.linalg.norm(parts["documents"], axis=1) == pytest.approx([1, 1], abs=1e-5)
    np.testing.assert_allclose(parts["documents"][1], found[0]["documents"][0], atol=1e-5)
