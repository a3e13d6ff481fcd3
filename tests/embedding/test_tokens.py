"""Counting tokens, exactly or as an estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.pre_tokenizers import ByteLevel

from flowbed.embedding.tokens import (
    TEXT_TOKENS,
    Bpe,
    Encoding,
    Estimate,
    FileTokenizer,
    open_counter,
    text_of,
)
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
def test_bpe_counts_as_openai_does(text: str, cl100k: int, o200k: int) -> None:
    """Special tokens are read as plain text."""
    assert (BPE["cl100k_base"].count(text), BPE["o200k_base"].count(text)) == (cl100k, o200k)


@given(text=st.text())
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bpe_never_makes_more_tokens_than_bytes(encoding: Encoding, text: str) -> None:
    """A short text therefore fits any limit, without being counted."""
    assert BPE[encoding].count(text) <= len(text.encode())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bpe_decode_returns_the_encoded_text(encoding: Encoding) -> None:
    assert BPE["cl100k_base"].decode([15339, 1917]) == "hello world"
    assert BPE[encoding].decode([]) == ""


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("past", [0, 1, 1_000_000_000])
def test_bpe_decode_special_or_unknown_token_is_rejected(encoding: Encoding, past: int) -> None:
    with pytest.raises(Rejected, match="no text"):
        BPE[encoding].decode([15339, TEXT_TOKENS[encoding] + past])
    with pytest.raises(Rejected, match="no text"):
        BPE[encoding].decode([-1])


def test_bpe_decode_half_a_character_is_rejected() -> None:
    with pytest.raises(Rejected, match="Unicode"):
        BPE["cl100k_base"].decode([15339, 249])


def test_estimate_counts_more_than_openai() -> None:
    estimate = Estimate(1.2)
    assert not estimate.exact
    assert estimate.count("") == 0
    assert estimate.count("hello world") == 3


def test_file_tokenizer_counts_exactly(tiny: Callable[..., Path]) -> None:
    """From a folder or a file, without the truncation and padding that the file asks for."""
    folder = tiny()
    for path in (folder, folder / "tokenizer.json"):
        counter = open_counter(str(path), factor=9)
        assert counter.exact
        assert counter.count("a b c d e f g h") == 8


def test_file_tokenizer_decode_ambiguous_tokens_is_rejected(tiny: Callable[..., Path]) -> None:
    tokenizer = FileTokenizer(tiny() / "tokenizer.json")
    assert tokenizer.decode([4, 5]) == "a b"
    with pytest.raises(Rejected, match="text itself"):
        tokenizer.decode([1])  # the token for unknown words
    for strange in (10_000, -1, 2**40):
        with pytest.raises(Rejected, match="unknown"):
            tokenizer.decode([strange])


def test_open_counter_missing_file_is_misconfigured(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="nothing"):
        open_counter(str(tmp_path / "nothing"), factor=1)


def test_text_of_byte_level_tokens_cut_within_a_character_is_the_rest() -> None:
    """As for OpenAI's; ids that do not belong together are refused."""
    tokenizer = Tokenizer(
        models.BPE({each: place for place, each in enumerate(sorted(ByteLevel.alphabet()))}, [])
    )
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokens = tokenizer.encode("🦖 roars 🦖 and sleeps 🦖").ids
    assert text_of(tokenizer, tokens) == "🦖 roars 🦖 and sleeps 🦖"
    assert text_of(tokenizer, tokens[2:-1]) == " roars 🦖 and sleeps "
    with pytest.raises(Rejected):
        text_of(tokenizer, [*tokens[:9], *tokens[:2], *tokens[12:]])
    with pytest.raises(Rejected):
        text_of(tokenizer, tokens[1:3])
