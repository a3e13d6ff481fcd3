"""Tokens as OpenAI counts them. The simulators count independently of the code that they test.

If tiktoken is installed it is used, which is OpenAI's own; otherwise rs-bpe, as in Flowbed.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from flowbed.testing.simulators.tokens.vocabulary import SIZE, ranks

# How tiktoken splits text for cl100k_base.
SPLIT = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"
    r"\s+(?!\S)|\s"
)


class Tokenizer(Protocol):
    """The part of rs-bpe that is used; it ships no types."""

    def count(self, text: str) -> int:
        """Count the tokens of a text."""
        ...

    def decode(self, tokens: list[int]) -> str | None:
        """Return the text of tokens; None if they are not whole characters."""
        ...


class Tiktoken:
    """OpenAI's own tokenizer, with a vocabulary that needs no download."""

    def __init__(self, vocabulary: dict[bytes, int]) -> None:
        """Take the bytes of each token."""
        # Imported by name: the package does not depend on it, and type checkers need not have it.
        self._encoding: Any = import_module("tiktoken").Encoding(
            "cl100k_base", pat_str=SPLIT, mergeable_ranks=vocabulary, special_tokens={}
        )

    def count(self, text: str) -> int:
        """Count the tokens of a text."""
        return len(self._encoding.encode_ordinary(text))

    def decode(self, tokens: list[int]) -> str | None:
        """Return the text of tokens; None if they are not whole characters."""
        try:
            text: str = self._encoding.decode_bytes(tokens).decode()
        except UnicodeDecodeError:
            return None
        return text


@cache
def tokenizer() -> Tokenizer:
    """Load cl100k_base, the tokenizer of all of OpenAI's embedding models."""
    from rs_bpe.bpe import openai  # loaded only by users that count tokens

    loaded: Tokenizer = openai.cl100k_base()
    return Tiktoken(ranks(loaded.decode)) if find_spec("tiktoken") else loaded


def is_token(value: object) -> bool:
    """Return whether a value is a token that stands for text."""
    return type(value) is int and 0 <= value < SIZE
