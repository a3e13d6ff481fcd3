"""Tokens are counted as the model counts them, or are said to be an estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.embedding.tokens import TEXT_TOKENS, Bpe, Encoding, Estimate, FileTokenizer, open_counter
from flowbed.errors import Misconfigured, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENCODINGS: tuple[Encoding, ...] = ("cl100k_base", "o200k_base")
BPE = {encoding: Bpe(encoding) for encoding in ENCODINGS}
# As tiktoken 0.14 counts them.
KNOWN = [
    ("", 0, 0),
    ("hello world", 2, 2),
    ("The keys are rotated each month.", 7, 7),
    ("Grüße aus Köln", 6, 5),
    ("<|endoftext|>", 7, 7),
]


@pytest.mark.parametrize(("text", "cl100k", "o200k"), KNOWN)
def test_counts_are_openais(text: str, cl100k: int, o200k: int) -> None:
    """The same as its own tokenizer's; marks are read as plain text."""
    assert (BPE["cl100k_base"].count(text), BPE["o200k_base"].count(text)) == (cl100k, o200k)


@given(text=st.text())
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_text_never_has_more_tokens_than_bytes(encoding: Encoding, text: str) -> None:
    """So that a short text fits any limit, without being counted."""
    assert BPE[encoding].count(text) <= len(text.encode())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tokens_are_read_back_as_text(encoding: Encoding) -> None:
    """What stands for a text is that text."""
    assert BPE["cl100k_base"].decode([15339, 1917]) == "hello world"
    assert BPE[encoding].decode([]) == ""


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("past", [0, 1, 1_000_000_000])
def test_tokens_without_text_are_refused(encoding: Encoding, past: int) -> None:
    """Marks and numbers that mean nothing are told, not dropped."""
    with pytest.raises(Rejected, match="no text"):
        BPE[encoding].decode([15339, TEXT_TOKENS[encoding] + past])
    with pytest.raises(Rejected, match="no text"):
        BPE[encoding].decode([-1])


def test_half_a_character_is_refused() -> None:
    """Tokens that end in the middle of one stand for no text."""
    with pytest.raises(Rejected, match="Unicode"):
        BPE["cl100k_base"].decode([15339, 249])


def test_an_estimate_is_not_exact_and_not_too_small() -> None:
    """It counts as OpenAI does, and some more, rounded up."""
    estimate = Estimate(1.2)
    assert not estimate.exact
    assert estimate.count("") == 0
    assert estimate.count("hello world") == 3


def test_a_models_own_tokenizer_is_exact(tiny: Callable[..., Path]) -> None:
    """From its folder or its file, without cutting off or padding, which the file itself asks for."""
    folder = tiny()
    for path in (folder, folder / "tokenizer.json"):
        counter = open_counter(str(path), factor=9)
        assert counter.exact
        assert counter.count("a b c d e f g h") == 8


def test_tokens_of_a_model_are_read_back_where_that_is_certain(tiny: Callable[..., Path]) -> None:
    """Where the text would be read as other tokens, which it is not known to stand for, they are refused."""
    tokenizer = FileTokenizer(tiny() / "tokenizer.json")
    assert tokenizer.decode([4, 5]) == "a b"
    with pytest.raises(Rejected, match="text itself"):
        tokenizer.decode([1])  # any word that is not known
    for strange in (10_000, -1, 2**40):
        with pytest.raises(Rejected, match="unknown"):
            tokenizer.decode([strange])


def test_a_tokenizer_that_is_not_there_is_told(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(Misconfigured, match="nothing"):
        open_counter(str(tmp_path / "nothing"), factor=1)
