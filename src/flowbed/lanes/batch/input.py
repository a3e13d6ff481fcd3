"""The input of a submission: lines gathered on this machine's disk, then laid into the store whole.

submissions/{id}/input.jsonl      what the provider is sent, byte for byte
submissions/{id}/texts            the text_hash of each line, 32 bytes each, in order: who carries which text
"""

from __future__ import annotations

import asyncio
import tempfile
from typing import TYPE_CHECKING, BinaryIO, cast

from flowbed.lanes.batch.cut import Size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.embedding.jobs import BatchApi
    from flowbed.storage import Store

FOLDER = "submissions"
PIECE = 2**20  # bytes that are read, and sent, at a time
HELD = 8 * 2**20  # bytes of lines that stay in memory until a file pays


def input_key(submission: str) -> str:
    """Name the key of a submission's input."""
    return f"{FOLDER}/{submission}/input.jsonl"


def texts_key(submission: str) -> str:
    """Name the key of the hashes of a submission's texts."""
    return f"{FOLDER}/{submission}/texts"


def output_key(submission: str) -> str:
    """Name the key of what a submission's job answered."""
    return f"{FOLDER}/{submission}/output.jsonl"


def errors_key(submission: str) -> str:
    """Name the key of what a submission's job could not answer, line by line."""
    return f"{FOLDER}/{submission}/errors.jsonl"


async def read_texts(submission: str, store: Store) -> list[str]:
    """Read the text_hash of each line of a submission's input, in order.

    Raises:
        NotFound: they are not there.

    """
    body = (await store.get(texts_key(submission))).body
    return [body[start : start + 32].hex() for start in range(0, len(body), 32)]


class Input:
    """The input of one submission in the making; each text goes into it once."""

    def __init__(self, submission: str, api: BatchApi) -> None:
        """Begin with no line."""
        self.submission = submission
        self.size = Size()
        self._api = api
        self._file = cast("BinaryIO", tempfile.SpooledTemporaryFile(HELD))  # noqa: SIM115 - closed by `close`
        self._texts: dict[str, None] = {}
        self._last = ("", b"")

    def __contains__(self, text_hash: str) -> bool:
        """Tell whether a text is in it."""
        return text_hash in self._texts

    def fits(self, text_hash: str, text: str, *, tokens: int) -> bool:
        """Tell whether a text still goes into it, or belongs into another submission."""
        return self.size.fits(self._api.terms, length=len(self._line(text_hash, text)), tokens=tokens)

    def add(self, text_hash: str, text: str, *, tokens: int) -> None:
        """Take a text in that fits."""
        line = self._line(text_hash, text)
        self._file.write(line)
        self._texts[text_hash] = None
        self.size.add(length=len(line), tokens=tokens)

    def _line(self, text_hash: str, text: str) -> bytes:
        if self._last[0] != text_hash:  # written once, though it is asked for twice in a row
            self._last = (text_hash, self._api.line(text_hash, text))
        return self._last[1]

    async def lay_down(self, store: Store) -> None:
        """Write both objects; to be done before anybody is told of the submission."""
        await store.put(texts_key(self.submission), bytes.fromhex("".join(self._texts)))
        await store.put(input_key(self.submission), self._pieces())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    async def _pieces(self) -> AsyncIterator[bytes]:
        self._file.seek(0)
        while piece := await asyncio.to_thread(self._file.read, PIECE):
            yield piece
