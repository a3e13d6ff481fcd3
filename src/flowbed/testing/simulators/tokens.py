"""Tokens as OpenAI counts them. The simulators count for themselves: what they check must not count for them."""

from __future__ import annotations

from functools import cache
from typing import Protocol

# The tokens of cl100k_base that stand for text; those above are special, and no text encodes to them.
VOCABULARY = 100_256


class Tokenizer(Protocol):
    """What is used of rs-bpe, which ships no types."""

    def count(self, text: str) -> int:
        """Count the tokens of a text."""
        ...

    def decode(self, tokens: list[int]) -> str | None:
        """Give the text of tokens; None where they are not whole characters."""
        ...


@cache
def tokenizer() -> Tokenizer:
    """Load cl100k_base, the tokenizer of all of OpenAI's embedding models."""
    from rs_bpe.bpe import openai  # noqa: PLC0415 - loaded by those who count tokens

    loaded: Tokenizer = openai.cl100k_base()
    return loaded


def is_token(value: object) -> bool:
    """Tell whether a value is a token that stands for text."""
    return type(value) is int and 0 <= value < VOCABULARY
