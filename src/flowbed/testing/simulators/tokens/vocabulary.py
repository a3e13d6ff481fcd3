"""OpenAI's vocabulary cl100k_base, taken from an installed package instead of a download, and verified.

rs-bpe decodes tokens to text only. The bytes of a token that is not whole characters are found by surrounding it with
bytes until the result is text. The vocabulary is then written in OpenAI's format and compared with the sha256 in
tiktoken: even if rs-bpe is wrong somewhere, a vocabulary that passes is OpenAI's.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from itertools import product
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# The tokens of cl100k_base that stand for text; higher ones are special, and no text encodes to them.
SIZE = 100_256
# https://github.com/openai/tiktoken/blob/main/tiktoken_ext/openai_public.py
SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
# GPT-2's order of bytes, which its successors kept: printable bytes first.
PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
BYTES = bytes([*PRINTABLE, *(byte for byte in range(256) if byte not in PRINTABLE)])
# First and last continuation bytes of UTF-8, one for every rule of what may follow.
CONTINUED = (0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF)
BEGINNINGS = (
    b"",
    *(bytes([lead]) for lead in range(0xC2, 0xF5)),
    *(bytes(two) for two in product(range(0xE0, 0xF5), CONTINUED)),
    *(bytes([*two, 0x80]) for two in product(range(0xF0, 0xF5), CONTINUED)),
)
ENDS = (
    b"",
    *(bytes([first, *rest]) for rest in ((), (0x80,), (0x80, 0x80)) for first in (0x80, 0x90, 0xA0)),
)


def ranks(decode: Callable[[list[int]], str | None]) -> dict[bytes, int]:
    """Return the tokens by their bytes; `decode` is rs-bpe's.

    Raises:
        Misconfigured: the result is not OpenAI's vocabulary.
    """
    found = [bytes([byte]) for byte in BYTES]
    for token in range(len(found), SIZE):
        text = decode([token])
        found.append(_around(token, decode) if text is None else text.encode())
    published = b"".join(b"%s %d\n" % (b64encode(each), rank) for rank, each in enumerate(found))
    if hashlib.sha256(published).hexdigest() != SHA256:
        raise Misconfigured("the vocabulary that rs-bpe holds is not OpenAI's cl100k_base; reinstall rs-bpe")
    return {each: rank for rank, each in enumerate(found)}


def _around(token: int, decode: Callable[[list[int]], str | None]) -> bytes:
    """Return the bytes of a token that is not whole characters; empty if that fails."""
    for beginning, end in product(BEGINNINGS, ENDS):
        if (text := decode([*_tokens(beginning), token, *_tokens(end)])) is not None:
            whole = text.encode()
            return whole[len(beginning) : len(whole) - len(end)]
    return b""


def _tokens(single: bytes) -> Sequence[int]:
    return [BYTES.index(byte) for byte in single]
