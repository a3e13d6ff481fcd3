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

    async def test_there_is_one_vector_for_each_text(self, embedder: Embedder) -> None:
        """Vectors come as float32, one for each text, of the space's dimensions, without holes."""
        found = await embedder.embed(self.texts, purpose="document")
        assert found.vectors.shape == (len(self.texts), embedder.space.dimensions)
        assert found.vectors.dtype == np.float32
        assert np.isfinite(found.vectors).all()
        assert found.tokens > 0

    async def test_vectors_are_as_long_as_the_space_says(self, embedder: Embedder) -> None:
        """In a space that is normalised every vector has length 1."""
        if embedder.space.normalized:
            found = await embedder.embed(self.texts, purpose="document")
            np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1.0, atol=1e-4)

    async def test_a_text_has_the_same_vector_in_any_company(self, embedder: Embedder) -> None:
        """Alone, in a batch, in another order and beside its double, a text's vector is the same to 1e-5."""
        together = (await embedder.embed(self.texts, purpose="document")).vectors
        turned = (await embedder.embed(self.texts[::-1], purpose="document")).vectors[::-1]
        doubled = (await embedder.embed([*self.texts, *self.texts], purpose="document")).vectors
        np.testing.assert_allclose(turned, together, atol=AGREE)
        np.testing.assert_allclose(doubled, np.concatenate([together, together]), atol=AGREE)
        for text, vector in zip(self.texts, together, strict=True):
            alone = (await embedder.embed([text], purpose="document")).vectors[0]
            np.testing.assert_allclose(alone, vector, atol=AGREE)

    async def test_different_texts_have_different_vectors(self, embedder: Embedder) -> None:
        """No two of a handful of unlike texts share a vector, as those of a stand-in might."""
        found = (await embedder.embed(TEXTS[:4], purpose="document")).vectors
        likeness = found @ found.T - 2 * np.eye(4, dtype=np.float32)
        assert likeness.max() < 0.999

    async def test_a_whole_call_is_taken(self, embedder: Embedder) -> None:
        """As many texts as `items` says are taken in one call."""
        texts = [f"text {number}" for number in range(embedder.items)]
        assert len((await embedder.embed(texts, purpose="document")).vectors) == embedder.items

    async def test_calls_at_once_do_not_mix(self, embedder: Embedder) -> None:
        """Of many calls at once each gets the vectors of its own texts."""
        expected = (await embedder.embed(self.texts, purpose="document")).vectors
        calls = [embedder.embed([text], purpose="document") for text in self.texts for _ in range(3)]
        answers = await asyncio.gather(*calls)
        for place, answer in enumerate(answers):
            np.testing.assert_allclose(answer.vectors[0], expected[place // 3], atol=AGREE)

    async def test_a_query_is_embedded_too(self, embedder: Embedder) -> None:
        """A query lives in the same space as documents."""
        found = await embedder.embed(["when are the keys rotated?"], purpose="query")
        assert found.vectors.shape == (1, embedder.space.dimensions)

    async def test_no_texts_are_no_vectors(self, embedder: Embedder) -> None:
        """An empty call is answered with nothing, and costs nothing."""
        found = await embedder.embed([], purpose="document")
        assert (found.vectors.shape, found.tokens) == ((0, embedder.space.dimensions), 0)

    async def test_what_is_no_text_is_rejected(self, embedder: Embedder) -> None:
        """Half a character, which no UTF-8 can hold, is refused rather than sent as something else."""
        with pytest.raises(Rejected):
            await embedder.embed(["fine", "half \ud83d"], purpose="document")

    def test_tokens_are_counted(self, embedder: Embedder) -> None:
        """A longer text has more tokens, and none has none."""
        assert embedder.count("") == 0
        assert 0 < embedder.count("one two") < embedder.count("one two " * 20)

    async def test_an_empty_text_is_embedded_or_refused_by_its_place(self, embedder: Embedder) -> None:
        """An empty text has a vector, or is refused by name before anything is paid for."""
        if self.takes_empty:
            assert np.isfinite((await embedder.embed([""], purpose="document")).vectors).all()
            return
        with pytest.raises(Rejected) as refused:
            await embedder.embed(["fine", "", "good"], purpose="document")
        assert refused.value.inputs == (1,)
