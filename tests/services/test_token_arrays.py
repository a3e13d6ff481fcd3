"""Token arrays, and the texts that they stand for."""

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
def test_what_the_tokenizer_writes_is_read(texts: list[str]) -> None:
    """Whatever text OpenAI's tokenizer writes as an array is what the array is read as."""
    assert ARRAYS.texts([CL100K.encode(text) for text in texts], MODEL) == texts


@given(st.data())
def test_long_texts_may_be_cut(data: st.DataObject) -> None:
    """The parts of a long text, cut between any two tokens as LangChain does, are read as its parts."""
    text = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    tokens = CL100K.encode(text)
    place = data.draw(st.integers(LONG, len(tokens) - LONG))
    try:
        parts = [CL100K.decode(tokens[:place]), CL100K.decode(tokens[place:])]
    except Rejected:  # the cut goes through a character
        with pytest.raises(Rejected, match="Unicode"):
            ARRAYS.texts([tokens[:place], tokens[place:]], MODEL)
        return
    assert ARRAYS.texts([tokens[:place], tokens[place:]], MODEL) == parts
    assert "".join(parts) == text


def test_ids_of_another_tokenizer_are_refused() -> None:
    """The ids that BERT writes, and letters one by one, are told from what cl100k writes."""
    bert = [101, 7592, 2088, 1010, 2129, 2024, 2017, 102]
    letters = [CL100K.encode(letter)[0] for letter in "Hello world"]
    for array in (bert, letters, letters * 20):
        with pytest.raises(Rejected, match=r"input\[0\]"):
            ARRAYS.texts([array], MODEL)


class Decoding(Seeded):
    """A model that has its tokenizer here."""

    def decode(self, tokens: list[int]) -> str:
        return " ".join(f"word{token}" for token in tokens)


def test_a_model_reads_its_own_ids_where_the_operator_says_so() -> None:
    """Where ids are said to be the model's, its own tokenizer reads them."""
    assert TokenArrayReader("model").texts([[1, 2]], Decoding(8)) == ["word1 word2"]
