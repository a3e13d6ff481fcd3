"""The tests that every embedder must pass: subclass the contract and say how to open the embedder."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio

from flowbed.embedding import Closes
from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from flowbed.embedding import Embedder

# Of several lengths and scripts, so that batches are mixed.
TEXTS = (
    "a",
    "The keys are rotated each month.",
    "TOTAL 7.80",
    "Grüße aus Köln",
    "word " * 60,
    "",
    "line\nbreak\tand tab",
)
AGREE = 1e-5  # largest difference between two vectors of one text


class EmbedderContract(ABC):
    """Tests of an embedder; set `takes_empty` to false for one that refuses empty texts."""

    takes_empty = True

    @abstractmethod
    def open_embedder(self, folder: Path) -> Embedder:
        """Open the embedder under test; `folder` is empty and belongs to the test."""

    @pytest_asyncio.fixture
    async def embedder(self, tmp_path: Path) -> AsyncIterator[Embedder]:
        """Open an embedder for each test."""
        opened = self.open_embedder(tmp_path)
        yield opened
        if isinstance(opened, Closes):
            await opened.aclose()

    @property
    def texts(self) -> Sequence[str]:
        """The texts that most tests embed."""
        return TEXTS if self.takes_empty else [text for text in TEXTS if text]

    async def test_embed_texts_returns_one_vector_each(self, embedder: Embedder) -> None:
        """Vectors are float32, one per text, of the space's dimensions, and finite."""
        found = await embedder.embed(self.texts, purpose="document")
        assert found.vectors.shape == (len(self.texts), embedder.space.dimensions)
        assert found.vectors.dtype == np.float32
        assert np.isfinite(found.vectors).all()
        assert found.tokens > 0

    async def test_embed_normalised_space_returns_unit_vectors(self, embedder: Embedder) -> None:
        """Vectors of a normalised space have length 1."""
        if embedder.space.normalized:
            found = await embedder.embed(self.texts, purpose="document")
            np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1.0, atol=1e-4)

    async def test_embed_same_text_in_any_batch_returns_the_same_vector(self, embedder: Embedder) -> None:
        """Alone, in a batch, in another order and doubled, a text's vector is the same to 1e-5."""
        together = (await embedder.embed(self.texts, purpose="document")).vectors
        turned = (await embedder.embed(self.texts[::-1], purpose="document")).vectors[::-1]
        doubled = (await embedder.embed([*self.texts, *self.texts], purpose="document")).vectors
        np.testing.assert_allclose(turned, together, atol=AGREE)
        np.testing.assert_allclose(doubled, np.concatenate([together, together]), atol=AGREE)
        for text, vector in zip(self.texts, together, strict=True):
            alone = (await embedder.embed([text], purpose="document")).vectors[0]
            np.testing.assert_allclose(alone, vector, atol=AGREE)

    async def test_embed_different_texts_returns_different_vectors(self, embedder: Embedder) -> None:
        """No two of a few different texts share a vector."""
        found = (await embedder.embed(TEXTS[:4], purpose="document")).vectors
        likeness = found @ found.T - 2 * np.eye(4, dtype=np.float32)
        assert likeness.max() < 0.999

    async def test_embed_items_texts_are_accepted(self, embedder: Embedder) -> None:
        """A call may have as many texts as `items` says."""
        texts = [f"text {number}" for number in range(embedder.items)]
        assert len((await embedder.embed(texts, purpose="document")).vectors) == embedder.items

    async def test_embed_concurrent_calls_return_their_own_vectors(self, embedder: Embedder) -> None:
        """Each of many concurrent calls gets the vectors of its own texts."""
        expected = (await embedder.embed(self.texts, purpose="document")).vectors
        calls = [embedder.embed([text], purpose="document") for text in self.texts for _ in range(3)]
        answers = await asyncio.gather(*calls)
        for place, answer in enumerate(answers):
            np.testing.assert_allclose(answer.vectors[0], expected[place // 3], atol=AGREE)

    async def test_embed_query_returns_a_vector_of_the_space(self, embedder: Embedder) -> None:
        """A query is in the same space as documents."""
        found = await embedder.embed(["when are the keys rotated?"], purpose="query")
        assert found.vectors.shape == (1, embedder.space.dimensions)

    async def test_embed_no_texts_returns_no_vectors(self, embedder: Embedder) -> None:
        """An empty call returns an empty array, and costs nothing."""
        found = await embedder.embed([], purpose="document")
        assert (found.vectors.shape, found.tokens) == ((0, embedder.space.dimensions), 0)

    async def test_embed_lone_surrogate_is_rejected(self, embedder: Embedder) -> None:
        """Half a character, which UTF-8 cannot encode, is refused rather than sent as something else."""
        with pytest.raises(Rejected):
            await embedder.embed(["fine", "half \ud83d"], purpose="document")

    def test_count_longer_text_has_more_tokens(self, embedder: Embedder) -> None:
        """A longer text has more tokens, and an empty one has none."""
        assert embedder.count("") == 0
        assert 0 < embedder.count("one two") < embedder.count("one two " * 20)

    async def test_embed_empty_text_is_embedded_or_rejected_by_position(self, embedder: Embedder) -> None:
        """An empty text has a vector, or is refused by position before anything is paid for."""
        if self.takes_empty:
            assert np.isfinite((await embedder.embed([""], purpose="document")).vectors).all()
            return
        with pytest.raises(Rejected) as refused:
            await embedder.embed(["fine", "", "good"], purpose="document")
        assert refused.value.inputs == (1,)
