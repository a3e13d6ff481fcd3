"""What a job has answered so far: parts of lines in the store, each laid down once, and the files made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import Conflict, NotFound, Transient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flowbed.storage import Store

FOLDER = "jobs"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one line: the line that its owner is told, ended; where it `failed`, among the errors."""

    text: bytes
    failed: bool
    tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What is said at the head of a part: how many lines it answers, how many of them failed, and what they used.

    `output` and `errors` are the bytes that follow for each of the two files.
    """

    lines: int
    failed: int
    tokens: int
    output: int
    errors: int


class Parts:
    """The parts of one job, each named by its first line."""

    def __init__(self, store: Store, job: str) -> None:
        """Keep them in `store`."""
        self._store, self._folder = store, f"{FOLDER}/{job}"

    async def find(self, first: int) -> Part | None:
        """Find the part that begins with a line; None where there is none."""
        stream = self._store.stream(self._key(first))
        try:
            return _head(await _beginning(stream))[0]
        except NotFound:
            return None
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    async def lay(self, first: int, outcomes: Sequence[Outcome]) -> Part:
        """Lay a part down, and describe it; where another is there already, that one counts."""
        output = b"".join(outcome.text for outcome in outcomes if not outcome.failed)
        errors = b"".join(outcome.text for outcome in outcomes if outcome.failed)
        part = Part(
            lines=len(outcomes),
            failed=sum(outcome.failed for outcome in outcomes),
            tokens=sum(outcome.tokens for outcome in outcomes),
            output=len(output),
            errors=len(errors),
        )
        body = b"".join((orjson.dumps(part), b"\n", output, errors))
        try:
            await self._store.create(self._key(first), body)
        except Conflict:
            found = await self.find(first)
            if found is None:
                raise Transient(f"{self._key(first)} was there, and is gone; try again") from None
            return found
        return part

    async def output(self, lines: int) -> AsyncIterator[bytes]:
        """Read the answers to the first `lines` lines."""
        async for piece in self._read(lines, errors=False):
            yield piece

    async def errors(self, lines: int) -> AsyncIterator[bytes]:
        """Read the errors of the first `lines` lines."""
        async for piece in self._read(lines, errors=True):
            yield piece

    async def drop(self) -> None:
        """Remove every part."""
        await drop_folder(self._store, self._folder)

    async def _read(self, lines: int, *, errors: bool) -> AsyncIterator[bytes]:
        first = 0
        while first < lines:
            stream = self._store.stream(self._key(first))
            try:
                part, piece = _head(await _beginning(stream))
                start = part.output if errors else 0
                end = start + (part.errors if errors else part.output)
                at = 0
                while at < end:
                    if wanted := piece[max(start - at, 0) : end - at]:
                        yield wanted
                    at += len(piece)
                    if at < end:
                        piece = await anext(stream)
            finally:
                await stream.aclose()  # type: ignore[attr-defined]
            first += part.lines

    def _key(self, first: int) -> str:
        return f"{self._folder}/part_{first:08}.jsonl"


async def drop_folder(store: Store, folder: str) -> None:
    """Remove everything below a folder."""
    keys = [listed.key async for listed in store.list(folder)]
    if keys:
        await store.delete(keys)


async def _beginning(stream: AsyncIterator[bytes]) -> bytes:
    """Read until the first line is there."""
    beginning = b""
    while b"\n" not in beginning:
        beginning += await anext(stream)
    return beginning


def _head(beginning: bytes) -> tuple[Part, bytes]:
    """Tell the head of a part, and what of the rest was read with it."""
    head, _, rest = beginning.partition(b"\n")
    return Part(**orjson.loads(head)), rest
