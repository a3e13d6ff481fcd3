"""Every embedder keeps to the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.embedding import open_embedder
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.memory import VectorMemory
from flowbed.testing.embedding import EmbedderContract

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.embedding import Embedder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give one folder for the graph, which takes seconds to make."""
    return tmp_path_factory.mktemp("models")


class TestOnnx(EmbedderContract):
    """The local model."""

    @pytest.fixture(autouse=True)
    def place(self, models: Path) -> None:
        """Keep the folder of the graph at hand."""
        self.models = models

    def open_embedder(self, folder: Path) -> Embedder:
        """Open it on the graph that the first test made."""
        return open_embedder("onnx:", cache=self.models, options={})


class TestSeeded(EmbedderContract):
    """The text-seeded model."""

    def open_embedder(self, folder: Path) -> Embedder:
        """Open it."""
        return open_embedder("seeded:32", cache=folder, options={})


class TestCached(EmbedderContract):
    """A model behind the cache."""

    def open_embedder(self, folder: Path) -> Embedder:
        """Wrap it."""
        inner = open_embedder("seeded:32", cache=folder, options={})
        return Cached(inner, [VectorMemory(limit=2**20, ttl=60)])
