"""The output of a running job: its answered lines, stored in parts that are written once each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import Conflict, NotFound, Transient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flowbed.storage import Store

FOLDER = "jobs"


@dataclass(frozen=True, kw_only=True, slots=True)
class LineOutcome:
    """The result line of one input line, newline included; a `failed` one goes to the error file."""

    text: bytes
    failed: bool
    tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputPart:
    """The header of a part: how many lines it answers, how many failed, and the tokens used.

    `output` and `errors` are the numbers of bytes that follow for each of the two files.
    """

    lines: int
    failed: int
    tokens: int
    output: int
    errors: int


class OutputParts:
    """The parts of one job, each named by its first line."""

    def __init__(self, store: Store, job: str) -> None:
        """Keep the parts of `job` in `store`."""
        self._store, self._folder = store, f"{FOLDER}/{job}"

    async def find(self, first: int) -> OutputPart | None:
        """Return the header of the part that starts with a line, or None."""
        stream = self._store.stream(self._key(first))
        try:
            return _head(await _beginning(stream))[0]
        except NotFound:
            return None
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    async def write(self, first: int, outcomes: Sequence[LineOutcome]) -> OutputPart:
        """Write a part and return its header; if the part already exists, return that one's header."""
        output = b"".join(outcome.text for outcome in outcomes if not outcome.failed)
        errors = b"".join(outcome.text for outcome in outcomes if outcome.failed)
        part = OutputPart(
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
                raise Transient(f"{self._key(first)} was deleted meanwhile; try again") from None
            return found
        return part

    async def output(self, lines: int) -> AsyncIterator[bytes]:
        """Read the results of the first `lines` lines."""
        async for piece in self._read(lines, errors=False):
            yield piece

    async def errors(self, lines: int) -> AsyncIterator[bytes]:
        """Read the errors of the first `lines` lines."""
        async for piece in self._read(lines, errors=True):
            yield piece

    async def drop(self) -> None:
        """Delete every part."""
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
    """Delete everything in a folder."""
    keys = [listed.key async for listed in store.list(folder)]
    if keys:
        await store.delete(keys)


async def _beginning(stream: AsyncIterator[bytes]) -> bytes:
    """Read until the first line is complete."""
    beginning = b""
    while b"\n" not in beginning:
        beginning += await anext(stream)
    return beginning


def _head(beginning: bytes) -> tuple[OutputPart, bytes]:
    """Return the header of a part, and the bytes that were read beyond it."""
    head, _, rest = beginning.partition(b"\n")
    return OutputPart(**orjson.loads(head)), rest


def line_id(job: str, place: int) -> str:
    """Return the id of a result line: the same however often the line is answered."""
    return f"batch_req_{_digest(job, place)}"


def request_id(job: str, place: int) -> str:
    """Return the request id of a line."""
    return f"req_{_digest(job, place)}"


def answered_line(job: str, place: int, name: str, *, status: int, body: bytes) -> bytes:
    """Write the result line of an answered line: the route's response, error or not."""
    return (
        b'{"id":"%b","custom_id":%b,"response":{"status_code":%d,"request_id":"%b","body":%b},"error":null}\n'
        % (
            line_id(job, place).encode(),
            orjson.dumps(name),
            status,
            request_id(job, place).encode(),
            body,
        )
    )


def unanswered_line(job: str, place: int, name: str, *, code: str, message: str) -> bytes:
    """Write the result line of a line that was not answered."""
    line = {
        "id": line_id(job, place),
        "custom_id": name,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _digest(job: str, place: int) -> str:
    return hashlib.sha256(f"{job}/{place}".encode()).hexdigest()[:24]
