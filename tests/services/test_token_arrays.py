"""Token arrays and their texts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.embedding.token_cuts import EDGE, whole_characters
from flowbed.embedding.tokens import Bpe
from flowbed.errors import Rejected
from flowbed.services.embedding.token_arrays import LONG, TokenArrayReader
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
    parts = ARRAYS.texts([tokens[:place], tokens[place:]], MODEL)
    assert "".join(parts) == text


SCRIPTS = {
    "emoji": "😀🦖🧬🏳️‍🌈👩‍👩‍👧🥹🫠",
    "Thai": "สวัสดีครับนี่คือเอกสารภาษาไทยที่ยาวมาก ",
    "rare Chinese": "龜鱉靐齉爩龘灪麤鬱",
    "Arabic": "هذا نص طويل جدا باللغة العربية ٱلرَّحْمَـٰنِ ",
    "Hindi": "यह हिन्दी में एक बहुत लंबा पाठ है। ",
    "Korean": "안녕하세요 이것은 아주 긴 한국어 문서입니다. 쀍뚫훑 ",
}


@given(script=st.sampled_from(sorted(SCRIPTS)), data=st.data())
def test_texts_of_arrays_cut_within_a_character_lose_only_that_character(
    script: str, data: st.DataObject
) -> None:
    """Wherever a long array is cut, long and short pieces are decoded."""
    text = SCRIPTS[script] * 30
    tokens = CL100K.encode(text)
    places = sorted(data.draw(st.sets(st.integers(4, len(tokens) - 4), min_size=1, max_size=4)))
    ends = [0, *places, len(tokens)]
    arrays = [tokens[first:last] for first, last in pairwise(ends) if last - first >= EDGE]
    place = 0
    for found in ARRAYS.texts(arrays, MODEL):
        assert found
        place = text.index(found, place) + len(found)
    if len(arrays) == len(ends) - 1:
        assert sum(map(len, ARRAYS.texts(arrays, MODEL))) >= len(text) - len(places)


@pytest.mark.parametrize(
    ("content", "text", "start", "end"),
    [
        ("a🦖b", "a🦖b", False, False),
        (b"\xa6\x96b", "b", True, False),
        (b"a\xf0\x9f\xa6", "a", False, True),
        (b"\x96a\xf0", "a", True, True),
        (b"\x9f\xa6\x96" + "é".encode() + b"\xe0\xb8", "é", True, True),
        (b"", "", False, False),
    ],
)
def test_whole_characters_of_cut_bytes(content: str | bytes, text: str, start: bool, end: bool) -> None:
    found = whole_characters(content.encode() if isinstance(content, str) else content)
    assert found == (text, start, end)


@pytest.mark.parametrize(
    "content", [b"\x96", b"\xf0\x9f", b"a\xffb", b"\x80\x80\x80\x80a", b"a\x96", b"\xff"]
)
def test_whole_characters_of_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(Rejected):
        whole_characters(content)


def test_texts_of_part_of_a_character_are_refused() -> None:
    with pytest.raises(Rejected, match=r"input\[1\].*part of a character"):
        ARRAYS.texts([CL100K.encode("fine"), CL100K.encode("🦖")[1:]], MODEL)


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
