"""The results of a job: copied into the store, then read into vectors that are kept on this machine's disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from codecs import BOM_UTF8
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from flowbed.errors import NotFound, Rejected
from flowbed.lanes.batch.input import errors_key, input_key, output_key
from flowbed.records import text_hash
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.embedding.batch_api import BatchApi, Job, ResultLine
    from flowbed.storage import Store

# Lines that a thread reads at a time: a few milliseconds of the interpreter's time.
LINES = 512
# The most bytes of a line that are kept: eight times what a vector of 16,384 numbers takes, more than any model has.
MOST = 2**22
# What is kept of a longer line, so that it counts as one that cannot be read.
BEGINNING = 64
# The least cosine of two vectors of one text that differ only by the order of floating-point additions.
SAME = 0.9999


async def copy_answers(job: Job, submission: str, api: BatchApi, store: Store) -> list[str]:
    """Copy the files of a job that has ended into the store, and return those that the provider does not have.

    Files that are in the store already are kept.

    Raises:
        Transient: a file cannot be downloaded now.
        Misconfigured: no file can be downloaded until a setting changes.
    """
    gone = []
    for key, file in ((output_key(submission), job.output), (errors_key(submission), job.errors)):
        if file and not await _is_there(store, key):
            try:
                await store.put(key, api.download(file))
            except NotFound:
                gone.append(file)
    return gone


async def _is_there(store: Store, key: str) -> bool:
    try:
        async for _ in store.stream(key):
            return True
    except NotFound:
        return False
    return True  # an empty object


@dataclass
class Answers:
    """The results of one job by text_hash: failures with reasons, tokens billed, and vectors.

    `conflicting` texts have results with different vectors: none of them can be trusted.
    """

    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    expired: set[str] = field(default_factory=set)
    conflicting: set[str] = field(default_factory=set)
    billed: dict[str, int] = field(default_factory=dict)
    doubled: int = 0
    unreadable: int = 0

    def __post_init__(self) -> None:
        """Create the temporary file of the vectors."""
        self._file = tempfile.TemporaryFile(prefix="flowbed-vectors-")  # noqa: SIM115 - closed by `close`
        self._places: dict[str, int] = {}
        self._written = 0
        self._told: set[str] = set()
        self._dimensions = 0

    def __enter__(self) -> Self:
        """Use the answers as a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, which deletes it."""
        self._file.close()

    def __contains__(self, text_hash: str) -> bool:
        """Tell whether there is a vector for a text."""
        return text_hash in self._places

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self._places)

    def knows(self, text_hash: str) -> bool:
        """Tell whether there is any line for a text."""
        return any(text_hash in each for each in (self._places, self.failures, self.expired, self.billed))

    def besides(self, hashes: Collection[str]) -> set[str]:
        """Return the other texts that have vectors."""
        return self._places.keys() - hashes

    def add(self, answered: ResultLine) -> None:
        """Add one line; of several for one text, those that have a vector must agree."""
        name = answered.name
        if name in self._places or name in self.conflicting:
            self.doubled += 1
            self._compare(answered)
            return
        if answered.tokens is not None:
            self.billed[name] = answered.tokens
        if answered.vector is None:
            if answered.failure == "expired":
                self.expired.add(name)
            else:
                self.failures[name] = (answered.failure, answered.reason)
            return
        self.failures.pop(name, None)
        self.expired.discard(name)
        self._dimensions = len(answered.vector)
        self._places[name] = self._written
        self._written += 1
        self._file.write(answered.vector.astype("<f4").tobytes())

    def _compare(self, answered: ResultLine) -> None:
        """Drop both of two vectors of one text that differ: lines come in any order."""
        if answered.vector is None or answered.name in self.conflicting:
            return
        first = self.vectors([answered.name])[answered.name]
        self._file.seek(0, os.SEEK_END)
        if first.shape != answered.vector.shape or float(first @ answered.vector) < SAME:
            del self._places[answered.name]
            self.conflicting.add(answered.name)

    def tell(self, text_hash: str) -> bool:
        """Return True on the first call for a text: its cost is counted once."""
        if text_hash in self._told:
            return False
        self._told.add(text_hash)
        return True

    def vectors(self, hashes: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Read the vectors of texts; those that have none are absent."""
        import numpy as np

        self._file.flush()
        size = 4 * self._dimensions
        found: dict[str, NDArray[np.float32]] = {}
        # In their order on disk.
        for name in sorted((each for each in hashes if each in self._places), key=self._places.__getitem__):
            self._file.seek(self._places[name] * size)
            found[name] = np.frombuffer(self._file.read(size), "<f4")
        return found


async def read_answers(submission: str, api: BatchApi, store: Store) -> Answers:
    """Read the copied results of a submission; an unreadable line counts as missing."""
    answers = Answers()
    try:
        for key in (output_key(submission), errors_key(submission)):
            # A job has either file only where it has lines for it.
            with contextlib.suppress(NotFound):
                async for lines in _by(LINES, bounded_lines(store.stream(key))):
                    await asyncio.to_thread(_take, lines, answers, api)
    except BaseException:
        answers.__exit__()
        raise
    if answers.unreadable:
        log.warning("submission %s: %d lines of the answers cannot be read", submission, answers.unreadable)
    if answers.doubled:
        log.warning(
            "submission %s: %d lines answer what another has answered, %d texts with other vectors",
            submission,
            answers.doubled,
            len(answers.conflicting),
        )
    return answers


async def read_sent(
    submission: str, wanted: Collection[str], api: BatchApi, store: Store
) -> AsyncIterator[dict[str, str]]:
    """Yield texts of the submitted input by text_hash, some at a time; unreadable ones are left out."""
    try:
        async for lines in _by(LINES, bounded_lines(store.stream(input_key(submission)))):
            if found := await asyncio.to_thread(_sent, lines, wanted, api):
                yield found
    except NotFound:
        log.warning("submission %s: its input is not in the store any more", submission)


def _sent(lines: list[bytes], wanted: Collection[str], api: BatchApi) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        with contextlib.suppress(Rejected):
            name, text = api.parse_input(line)
            # Options that are not part of the space, and with them the format of lines, may have changed since.
            if name in wanted and text_hash(text) == name:
                found[name] = text
    return found


def _take(lines: list[bytes], answers: Answers, api: BatchApi) -> None:
    for line in lines:
        try:
            answers.add(api.parse_result(line))
        except Rejected:
            answers.unreadable += 1


async def bounded_lines(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines that are not empty, without a byte order mark; of a line beyond `MOST` bytes its beginning."""
    rest, long = b"", False
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if not long and (line := line.removeprefix(BOM_UTF8).strip()):
                yield line if len(line) <= MOST else line[:BEGINNING]
            long = False
        if len(rest) > MOST:
            if not long:
                yield rest[:BEGINNING]
            rest, long = b"", True
    if not long and (rest := rest.removeprefix(BOM_UTF8).strip()):
        yield rest


async def _by(many: int, lines: AsyncIterable[bytes]) -> AsyncIterator[list[bytes]]:
    some: list[bytes] = []
    async for line in lines:
        some.append(line)
        if len(some) == many:
            yield some
            some = []
    if some:
        yield some
