"""Every embedder passes the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.embedding import open_embedder
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.memory import VectorMemory
from flowbed.testing.embedding import EmbedderContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowbed.embedding import Embedder


class TestOnnx(EmbedderContract):
    """The local model, tiny and random: its own tests embed with the real one."""

    @pytest.fixture(autouse=True)
    def write(self, tiny: Callable[..., Path]) -> None:
        """Write the model."""
        self.model = tiny()

    def open_embedder(self, folder: Path) -> Embedder:
        return open_embedder(f"onnx:{self.model}", cache=folder, options={})


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
