"""LangChain's and LlamaIndex's OpenAI embeddings, with the real packages in their own environments."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.conftest import Served

SCRIPT = Path(__file__).parent / "packages.py"
# Of several lengths: LangChain cuts the last, which has more than 8,191 tokens, and averages the vectors of its parts.
TEXTS = ["The keys are rotated each month.", "Grüße aus Köln 🔑", "def add(a, b): return a + b", "x"]
LONG = "The keys are rotated each month. " * 1500


@pytest.fixture(scope="session")
def embedded(installed: Callable[[str], Path]) -> Callable[..., dict[str, Any]]:
    """Return the vectors that a package gets."""
    python = installed("python/bin/python")

    def run(package: str, served: Served, texts: list[str]) -> dict[str, Any]:
        said = {"url": served.url, "model": served.model, "key": served.key, "texts": texts}
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
        return {name: np.array(each) for name, each in json.loads(done.stdout).items()}

    return run


def wanted(served: Served, texts: list[str]) -> Any:
    """Request the vectors of texts one by one, with the plain SDK."""
    with openai.OpenAI(base_url=served.url, api_key=served.key or "none", max_retries=0) as client:
        answers = [client.embeddings.create(model=served.model, input=text) for text in texts]
        return np.array([answer.data[0].embedding for answer in answers])


@pytest.mark.parametrize("package", ["langchain", "llamaindex"])
def test_package_each_server_returns_the_vectors_of_its_texts(
    package: str, served: Served, embedded: Callable[..., dict[str, Any]]
) -> None:
    """Documents and queries get the vectors of their texts, also concurrently and later."""
    found = embedded(package, served, TEXTS)
    expected = wanted(served, TEXTS)
    np.testing.assert_allclose(found["documents"], expected, atol=1e-5)
    np.testing.assert_allclose(found["later"], expected, atol=1e-5)
    np.testing.assert_allclose(found["query"], expected[0], atol=1e-5)


def test_langchain_long_text_is_embedded_in_parts(
    seeded: Served, embedded: Callable[..., dict[str, Any]]
) -> None:
    """LangChain cuts a text of more than 8,191 tokens into arrays, and combines their vectors into one of length 1."""
    found = embedded("langchain", seeded, [LONG, TEXTS[0]])
    assert np.linalg.norm(found["documents"], axis=1) == pytest.approx([1, 1], abs=1e-5)
    np.testing.assert_allclose(found["documents"][1], wanted(seeded, TEXTS[:1])[0], atol=1e-5)
