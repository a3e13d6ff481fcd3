"""Token arrays and their texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.embedding.tokens import Bpe
from flowbed.errors import Rejected
from flowbed.services.token_arrays import LONG, TokenArrayReader
from flowbed.testing.embedder import Seeded

CL100K = Bpe("cl100k_base")
ARRAYS = TokenArrayReader("cl100k")
MODEL = Seeded(8)


@given(st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=5))
def test_texts_of_any_cl100k_array_round_trips(texts: list[str]) -> None:
    assert ARRAYS.texts([CL100K.encode(text) for text in texts], MODEL) == texts


@given(st.data())
def test_texts_of_a_split_array_are_the_parts(data: st.DataObject) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    tokens = CL100K.encode(text)
    place = data.draw(st.integers(LONG, len(tokens) - LONG))
    try:
        parts = [CL100K.decode(tokens[:place]), CL100K.decode(tokens[place:])]
    except Rejected:  # the split is inside a character
        with pytest.raises(Rejected, match="Unicode"):
            ARRAYS.texts([tokens[:place], tokens[place:]], MODEL)
        return
    assert ARRAYS.texts([tokens[:place], tokens[place:]], MODEL) == parts
    assert "".join(parts) == text


def test_texts_of_another_tokenizers_ids_are_refused() -> None:
    bert = [101, 7592, 2088, 1010, 2129, 2024, 2017, 102]
    letters = [CL100K.encode(letter)[0] for letter in "Hello world"]
    for array in (bert, letters, letters * 20):
        with pytest.raises(Rejected, match=r"input\[0\]"):
            ARRAYS.texts([array], MODEL)


class Decoding(Seeded):
    """A model with a local tokenizer."""

    def decode(self, tokens: list[int]) -> str:
        return " ".join(f"word{token}" for token in tokens)


def test_texts_of_model_ids_are_decoded_by_its_tokenizer() -> None:
    assert TokenArrayReader("model").texts([[1, 2]], Decoding(8)) == ["word1 word2"]
