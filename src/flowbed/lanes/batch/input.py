"""The input of a submission: lines gathered on this machine's disk, then written to the store whole.

submissions/{id}/input.jsonl      what the provider is sent, byte for byte
submissions/{id}/texts            the text_hash of each line, 32 bytes each, in order: which texts it carries
"""

from __future__ import annotations

import asyncio
import tempfile
from typing import TYPE_CHECKING

from flowbed.lanes.batch.cut import Size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.embedding.batch_api import BatchApi
    from flowbed.storage import Store

FOLDER = "submissions"
PIECE = 2**20  # bytes that are read, and sent, at a time
BUFFER = 2**18  # bytes of lines that are gathered for one write


def input_key(submission: str) -> str:
    """Return the key of a submission's input."""
    return f"{FOLDER}/{submission}/input.jsonl"


def texts_key(submission: str) -> str:
    """Return the key of the hashes of a submission's texts."""
    return f"{FOLDER}/{submission}/texts"


def output_key(submission: str) -> str:
    """Return the key of the results of a submission's job."""
    return f"{FOLDER}/{submission}/output.jsonl"


def errors_key(submission: str) -> str:
    """Return the key of the errors of a submission's job, one line each."""
    return f"{FOLDER}/{submission}/errors.jsonl"


async def read_texts(submission: str, store: Store) -> list[str]:
    """Read the text_hash of each line of a submission's input, in order.

    Raises:
        NotFound: the store does not have them.
    """
    body = (await store.get(texts_key(submission))).body
    return [body[start : start + 32].hex() for start in range(0, len(body), 32)]


class Input:
    """The input of a submission that is being gathered; each text goes into it once."""

    def __init__(self, submission: str, api: BatchApi) -> None:
        """Start without lines."""
        self.submission = submission
        self.size = Size()
        self._api = api
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._lines: list[bytes] = []
        self._unwritten = 0
        self._texts: dict[str, None] = {}

    def __contains__(self, text_hash: str) -> bool:
        """Tell whether a text is in it."""
        return text_hash in self._texts

    def fits(self, line: bytes, *, tokens: int) -> bool:
        """Tell whether a text, as its input line, still fits, or belongs into the next submission."""
        return self.size.fits(self._api.terms, length=len(line), tokens=tokens)

    def add(self, text_hash: str, line: bytes, *, tokens: int) -> None:
        """Add a text that fits."""
        self._texts[text_hash] = None
        self.size.add(length=len(line), tokens=tokens)
        self._lines.append(line)
        self._unwritten += len(line)
        if self._unwritten > BUFFER:
            self._flush()

    def _flush(self) -> None:
        self._file.writelines(self._lines)
        self._lines.clear()
        self._unwritten = 0

    async def write(self, store: Store) -> None:
        """Write both objects; the submission is recorded afterwards."""
        self._flush()
        await store.put(texts_key(self.submission), bytes.fromhex("".join(self._texts)))
        await store.put(input_key(self.submission), self._pieces())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    async def _pieces(self) -> AsyncIterator[bytes]:
        self._file.seek(0)
        while piece := await asyncio.to_thread(self._file.read, PIECE):
            yield piece
