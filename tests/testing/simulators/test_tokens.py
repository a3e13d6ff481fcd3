"""How the simulators count tokens."""

from __future__ import annotations

import random

import pytest
from rs_bpe.bpe import openai

from flowbed.errors import Misconfigured
from flowbed.testing.simulators.tokens import Tiktoken, tokenizer
from flowbed.testing.simulators.tokens.vocabulary import SIZE, ranks


def test_vocabulary_is_openais() -> None:
    """The bytes of every token are found, including those of half characters; a wrong decoder is detected."""
    decode = openai.cl100k_base().decode
    found = ranks(decode)
    assert sorted(found.values()) == list(range(SIZE))
    assert found[b" world"] == 1917
    assert found["語".encode()[:2]] < SIZE
    with pytest.raises(Misconfigured, match="not OpenAI's"):
        ranks(lambda tokens: "a" if tokens == [1917] else decode(tokens))


def test_tiktoken_installed_counts_like_rs_bpe() -> None:
    pytest.importorskip("tiktoken")
    counting, other = tokenizer(), openai.cl100k_base()
    assert isinstance(counting, Tiktoken)
    chance = random.Random(3)
    pool = [*"aé日本語 \n\t'S0123🙂🏽.,;-", "the ", "hello", "'ll", "İ", "ß", "\u200d", "  ", "\r\n"]
    for _ in range(2000):
        text = "".join(chance.choices(pool, k=chance.randint(1, 60)))
        assert counting.count(text) == other.count(text)
    assert counting.decode([15339, 1917]) == "hello world"
    assert counting.decode([222]) is None
