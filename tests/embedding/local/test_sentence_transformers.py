"""Models of sentence-transformers: most tests need the package, an extra that brings torch."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flowbed.embedding import open_embedder
from flowbed.embedding.local.weights import find_checkpoint
from flowbed.errors import Misconfigured, Rejected
from flowbed.testing.embedding import EmbedderContract

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.embedding import Embedder

INSTALLED = importlib.util.find_spec("sentence_transformers") is not None
# Skipped even with CI=true: torch is larger than everything tested here.
wants_package = pytest.mark.skipif(
    not INSTALLED, reason="pip install 'flowbed[sentence-transformers]' to test it"
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the default model."""
    found = find_checkpoint("", cache=tmp_path_factory.mktemp("digests"), download=False)
    return str(found.folder)


@pytest.mark.skipif(INSTALLED, reason="the package is installed")
def test_sentence_transformers_missing_package_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"flowbed\[sentence-transformers\]"):
        open_embedder("sentence_transformers:a", cache=tmp_path, options={})


@wants_package
@pytest.mark.filterwarnings("ignore")
class TestSentenceTransformers(EmbedderContract):
    """The default model, through torch."""

    @pytest.fixture(autouse=True)
    def place(self, folder: str) -> None:
        """Store the model's folder."""
        self.folder = folder

    def open_embedder(self, folder: Path) -> Embedder:
        """Open it."""
        return open_embedder(f"sentence_transformers:{self.folder}", cache=folder, options={})


@wants_package
@pytest.mark.filterwarnings("ignore")
async def test_sentence_transformers_agrees_with_onnx(folder: str, graphs: Path) -> None:
    texts = ["The keys are rotated each month.", "TOTAL 7.80", "Grüße aus Köln", "word " * 100]
    torch = await open_embedder(f"sentence_transformers:{folder}", cache=graphs, options={}).embed(
        texts, purpose="document"
    )
    onnx = await open_embedder(f"onnx:{folder}", cache=graphs, options={}).embed(texts, purpose="document")
    np.testing.assert_allclose(torch.vectors, onnx.vectors, atol=1e-4)
    assert torch.tokens == onnx.tokens


@wants_package
@pytest.mark.filterwarnings("ignore")
async def test_sentence_transformers_counting_changes_no_vector(folder: str, tmp_path: Path) -> None:
    """Texts are counted while others are embedded, truncated and padded."""
    embedder = open_embedder(
        f"sentence_transformers:{folder}", cache=tmp_path, options={"overflow": "truncate"}
    )
    texts = ["short", "word " * 400] * 4
    alone = await embedder.embed(texts, purpose="document")
    embedding = asyncio.create_task(embedder.embed(texts * 10, purpose="document"))
    while not embedding.done():
        assert embedder.count("word " * 50) == 50
        await asyncio.sleep(0)
    np.testing.assert_allclose((await embedding).vectors, np.tile(alone.vectors, (10, 1)), atol=1e-5)


@wants_package
@pytest.mark.filterwarnings("ignore")
async def test_sentence_transformers_long_text_is_rejected_or_truncated(folder: str, tmp_path: Path) -> None:
    """Never silently: refused by position, or named in the result."""
    model = f"sentence_transformers:{folder}"
    texts = ["fine", "word " * 400]
    with pytest.raises(Rejected) as refused:
        await open_embedder(model, cache=tmp_path, options={}).embed(texts, purpose="document")
    assert refused.value.inputs == (1,)
    found = await open_embedder(model, cache=tmp_path, options={"overflow": "truncate"}).embed(
        texts, purpose="document"
    )
    assert found.truncated == (1,)
    assert found.tokens == 255


@wants_package
@pytest.mark.filterwarnings("ignore")
async def test_sentence_transformers_prompts_are_part_of_the_space(folder: str, tmp_path: Path) -> None:
    model = f"sentence_transformers:{folder}"
    plain = open_embedder(model, cache=tmp_path, options={})
    prompted = open_embedder(model, cache=tmp_path, options={"query_prompt": "query: "})
    assert prompted.space.prompts == (("query", "query: "),)
    query = await prompted.embed(["a"], purpose="query")
    same = await plain.embed(["query: a"], purpose="document")
    np.testing.assert_allclose(query.vectors, same.vectors, atol=1e-5)
    assert prompted.space != plain.space


@wants_package
@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers_missing_model_names_the_download_option(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="download"):
        open_embedder("sentence_transformers:nobody/nothing", cache=tmp_path, options={})
