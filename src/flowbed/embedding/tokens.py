"""Counts the tokens of texts: exactly where the model's tokenizer is available, otherwise as an estimate."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from flowbed.embedding.token_cuts import CutText, is_part, whole_characters
from flowbed.errors import Misconfigured, Rejected
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.embedding.reading import Reader
    from flowbed.records import Reading

Encoding = Literal["cl100k_base", "o200k_base"]

# Number of tokens that stand for text; ids above are special tokens.
TEXT_TOKENS: dict[Encoding, int] = {"cl100k_base": 100_256, "o200k_base": 199_998}


# Stands for bytes that are not a character.
REPLACEMENT = "\ufffd"


class Counter(Protocol):
    """Counts tokens; `exact` says whether it counts as the model does."""

    exact: bool

    def count(self, text: str) -> int:
        """Count the tokens of `text`, without special tokens."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """Decodes token ids into text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of these tokens.

        Raises:
            Rejected: a token is unknown, or they do not stand for exactly one text.
        """
        ...


class Bpe:
    """OpenAI's tokenizers, whose tables come with a package."""

    exact = True

    def __init__(self, encoding: Encoding) -> None:
        """Load the tables, which takes about 30 ms."""
        from rs_bpe import bpe  # slow; finding and submitting work never need it

        self.encoding: Encoding = encoding
        self._bpe = getattr(bpe.openai, encoding)()

    def count(self, text: str) -> int:
        """Count the tokens of `text`; special tokens such as <|endoftext|> are read as plain text."""
        return int(self._bpe.count(text))

    def encode(self, text: str) -> list[int]:
        """Encode `text` as tokens; special tokens such as <|endoftext|> are read as plain text."""
        tokens: list[int] = self._bpe.encode(text)
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of these tokens.

        Raises:
            Rejected: a token is unknown or stands for no text, or together they are not valid Unicode.
        """
        text: str | None = self._bpe.decode(self._known(tokens))
        if text is None:
            raise Rejected(
                f"{count(len(tokens), 'token')}, not valid Unicode in {self.encoding}; send the text itself"
            )
        return text

    def decode_cut(self, tokens: Sequence[int]) -> CutText:
        """Return the text of tokens that may begin or end within a character, without the parts.

        Raises:
            Rejected: a token is unknown or stands for no text, or together they are not valid Unicode, or less than a
                character.
        """
        content: bytes = self._bpe.bpe().decode_tokens(self._known(tokens))
        try:
            return whole_characters(content)
        except Rejected as error:
            raise Rejected(
                f"{count(len(tokens), 'token')}, {error} in {self.encoding}; send the text itself"
            ) from error

    def _known(self, tokens: Sequence[int]) -> list[int]:
        known = TEXT_TOKENS[self.encoding]
        # The package panics at an unknown token, and decodes special tokens to nothing.
        unknown = next((token for token in tokens if not 0 <= token < known), None)
        if unknown is not None:
            raise Rejected(f"token {unknown} stands for no text in {self.encoding}; send the text itself")
        return list(tokens)


class FileTokenizer:
    """A `tokenizer.json` as it is published with a model."""

    exact = True

    def __init__(self, path: Path) -> None:
        """Load the file.

        Raises:
            Misconfigured: it is not a tokenizer.
        """
        from tokenizers import Tokenizer  # slow; finding and submitting work never need it

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing more specific
            raise Misconfigured(
                f"tokenizer {path} cannot be read ({error}); name a model's tokenizer.json"
            ) from error
        # Published tokenizers often truncate and pad texts.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @cached_property
    def _reader(self) -> Reader:
        from flowbed.embedding.reading import Reader  # needed where documents are chunked

        return Reader(self._tokenizer)

    def read(self, text: str) -> Reading:
        """Break the words of `text` that would be lost as a whole, and count what is lost all the same."""
        return self._reader.read(text)

    def count(self, text: str) -> int:
        """Count the tokens of `text`."""
        return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of these tokens; refuse it if the model would encode it differently.

        Raises:
            Rejected: a token is unknown, or the text encodes to other tokens.
        """
        return text_of(self._tokenizer, tokens)


class Estimate:
    """Counts with OpenAI's tokenizer, times the ratio at which the model is known to use more tokens."""

    exact = False

    def __init__(self, factor: float) -> None:
        """Load the tokenizer."""
        self._factor = factor
        self._bpe = Bpe("cl100k_base")

    def count(self, text: str) -> int:
        """Estimate the tokens of `text`."""
        return math.ceil(self._bpe.count(text) * self._factor)


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:  # tokenizers has no type hints
    """Return the one text of a model's tokens, without special ones, and without part of a character at either end.

    Raises:
        Rejected: a token is unknown, or the text encodes to other tokens.
    """
    size = tokenizer.get_vocab_size()
    unknown = next((token for token in tokens if not 0 <= token < size), None)
    if unknown is not None:
        raise Rejected(f"token {unknown} is unknown to the model; send the text itself")
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=False)
    if tokenizer.encode(text, add_special_tokens=False).ids == list(tokens):
        return text
    # Byte-level tokenizers write this character for part of one; arrays are cut out of longer ones anywhere.
    whole = text.strip(REPLACEMENT)
    start, end = text.startswith(REPLACEMENT), text.endswith(REPLACEMENT)
    written = tokenizer.encode(whole, add_special_tokens=False).ids
    if not (whole and (start or end) and is_part(tokens, written, start=start, end=end)):
        raise Rejected(
            f"no single text stands behind {count(len(tokens), 'token')}; send the text itself, or tokens without "
            "special ones"
        )
    return whole


def open_counter(path: str, *, factor: float) -> Counter:
    """Open the tokenizer in a file or a model's folder; without a path, estimate.

    Raises:
        Misconfigured: the file does not exist or is not a tokenizer.
    """
    if not path:
        return Estimate(factor)
    found = Path(path).expanduser()
    return FileTokenizer(found / "tokenizer.json" if found.is_dir() else found)
