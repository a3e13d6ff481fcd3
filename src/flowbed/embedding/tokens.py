"""Tokens of a text: counted exactly where the model's tokenizer is here, and estimated where it is not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from flowbed.errors import Misconfigured, Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

Encoding = Literal["cl100k_base", "o200k_base"]

# How many tokens have text of their own; what comes behind them are marks, which stand for no text.
TEXT_TOKENS: dict[Encoding, int] = {"cl100k_base": 100_256, "o200k_base": 199_998}


class Counter(Protocol):
    """Counts tokens; `exact` says whether as the model itself does."""

    exact: bool

    def count(self, text: str) -> int:
        """Count the tokens of `text`, without special tokens."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """Knows the text that token ids stand for."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Read the text that tokens stand for.

        Raises:
            Rejected: a token is not known, or they do not stand for one text alone.
        """
        ...


class Bpe:
    """OpenAI's tokenizers, which take no file: their tables are part of a package."""

    exact = True

    def __init__(self, encoding: Encoding) -> None:
        """Load the tables, which takes some 30 ms."""
        from rs_bpe import bpe  # finding and submitting work never loads it

        self.encoding: Encoding = encoding
        self._bpe = getattr(bpe.openai, encoding)()

    def count(self, text: str) -> int:
        """Count the tokens of `text`; marks such as <|endoftext|> are read as plain text."""
        return int(self._bpe.count(text))

    def encode(self, text: str) -> list[int]:
        """Write `text` as tokens; marks such as <|endoftext|> are read as plain text."""
        tokens: list[int] = self._bpe.encode(text)
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Read the text that tokens stand for.

        Raises:
            Rejected: a token is not known or stands for no text, or all of them together are not valid Unicode.
        """
        known = TEXT_TOKENS[self.encoding]
        # The package panics over a token that it does not know, and reads marks as nothing at all.
        strange = next((token for token in tokens if not 0 <= token < known), None)
        if strange is not None:
            raise Rejected(f"token {strange} stands for no text in {self.encoding}; send the text itself")
        text: str | None = self._bpe.decode(list(tokens))
        if text is None:
            raise Rejected(
                f"these {len(tokens)} tokens are not valid Unicode in {self.encoding}; send the text itself"
            )
        return text


class FileTokenizer:
    """A `tokenizer.json` as models are published with."""

    exact = True

    def __init__(self, path: Path) -> None:
        """Load the file.

        Raises:
            Misconfigured: it is no such file.
        """
        from tokenizers import Tokenizer  # finding and submitting work never loads it

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing more exact
            raise Misconfigured(
                f"tokenizer {path} cannot be read ({error}); name a model's tokenizer.json"
            ) from error
        # As published, many cut texts off and pad them.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, text: str) -> int:
        """Count the tokens of `text`."""
        return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])

    def decode(self, tokens: Sequence[int]) -> str:
        """Read the text that tokens stand for; one that differs from how the model would write it is refused.

        Raises:
            Rejected: a token is not known, or the text would be read as other tokens.
        """
        return text_of(self._tokenizer, tokens)


class Estimate:
    """Counts as OpenAI's tokenizer does, times what the model is known to take of tokens beside it."""

    exact = False

    def __init__(self, factor: float) -> None:
        """Load the tokenizer."""
        self._factor = factor
        self._bpe = Bpe("cl100k_base")

    def count(self, text: str) -> int:
        """Estimate the tokens of `text`."""
        return math.ceil(self._bpe.count(text) * self._factor)


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:  # tokenizers has no types
    """Read the one text that a model's tokens, without special ones, stand for.

    Raises:
        Rejected: a token is not known, or the text would be read as other tokens.
    """
    size = tokenizer.get_vocab_size()
    strange = next((token for token in tokens if not 0 <= token < size), None)
    if strange is not None:
        raise Rejected(f"token {strange} is not known to the model; send the text itself")
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=False)
    if tokenizer.encode(text, add_special_tokens=False).ids != list(tokens):
        raise Rejected(
            f"these {len(tokens)} tokens do not stand for one text alone; send the text itself, or tokens without "
            "special ones"
        )
    return text


def open_counter(path: str, *, factor: float) -> Counter:
    """Open the tokenizer in a file or a model's folder; without one, estimate.

    Raises:
        Misconfigured: the file is not there, or is no tokenizer.
    """
    if not path:
        return Estimate(factor)
    found = Path(path).expanduser()
    return FileTokenizer(found / "tokenizer.json" if found.is_dir() else found)
