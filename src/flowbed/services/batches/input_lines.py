"""The input of a job, line by line: copied to this machine's disk once, judged on the way, and read in blocks."""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from contextlib import asynccontextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from flowbed.embedding.token_counts import guessed
from flowbed.errors import Error, Rejected
from flowbed.services.inputs import most_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence

    from flowbed.records.serving import EmbeddingsRequest, Input

ENDPOINT = "/v1/embeddings"
# https://platform.openai.com/docs/guides/batch: lines of a file, and inputs of all of them together.
LINES_MOST = INPUTS_MOST = 50_000
FAULTS_MOST = 100  # more are not listed: by then it is the program that wrote the file
NAME_MOST = 512  # characters of a custom_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What is wrong with a file, or with one `line` of it (from 1)."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line: its place in the file (from 0, empty ones not counted), and what it asks for."""

    place: int
    name: str
    asked: EmbeddingsRequest


class Check:
    """Judges the lines of a file as they are read; blocking, for a thread."""

    def __init__(self, read: Callable[[bytes], EmbeddingsRequest], model: Callable[[str], str]) -> None:
        """Take what reads the body of a request, and what tells the id of a model that may be used."""
        self._read, self._model_of = read, model
        self._seen: set[bytes] = set()
        self._id = ""
        self.faults: list[Fault] = []
        self.model = ""  # as the first line names it
        self.lines = self.inputs = self.tokens = 0

    @property
    def full(self) -> bool:
        """Tell whether there is no use in reading on."""
        return len(self.faults) >= FAULTS_MOST or self.lines > LINES_MOST or self.inputs > INPUTS_MOST

    def __call__(self, number: int, raw: bytes) -> None:
        """Judge one line, which is not empty."""
        if self.full:
            return
        self.lines += 1
        try:
            self._judge(raw)
        except Error as error:
            code, param = getattr(error, "code", None), getattr(error, "param", None)
            self.faults.append(
                Fault(code=code or "invalid_request", message=str(error), line=number, param=param)
            )

    def end(self) -> list[Fault]:
        """Judge the file as a whole, and tell all that is wrong."""
        if not self.lines and not self.faults:
            return [
                Fault(code="empty_file", message="The input file holds no request; send one line for each.")
            ]
        if self.lines > LINES_MOST:
            message = f"The input file has more than {LINES_MOST:,} lines; send them in several batches."
            return [Fault(code="too_many_tasks", message=message)]
        if self.inputs > INPUTS_MOST:
            message = (
                f"The lines of the input file hold more than {INPUTS_MOST:,} inputs together; send them in several"
                " batches."
            )
            return [Fault(code="too_many_inputs", message=message)]
        return self.faults

    def _judge(self, raw: bytes) -> None:
        fields = fields_of(raw)
        self._name(fields)
        asked = asked_of(fields, self._read)
        model = self._model_of(asked.model)
        self._id, self.model = self._id or model, self.model or asked.model
        if model != self._id:
            raise Rejected(
                f"This line asks for model {asked.model}, and an earlier one for {self.model}: all lines of a batch"
                " have to ask for one model.",
                param="body.model",
                code="model_mismatch",
            )
        inputs, tokens = size_of(asked.input)
        self.inputs += inputs
        self.tokens += tokens

    def _name(self, fields: dict[str, Any]) -> None:
        """Judge what is around the body of a request."""
        name = fields.get("custom_id")
        if not isinstance(name, str) or not 0 < len(name) <= NAME_MOST:
            raise Rejected(
                f"'custom_id' has to be a string of 1 to {NAME_MOST} characters.",
                param="custom_id",
                code="missing_required_parameter" if name is None else "invalid_value",
            )
        digest = hashlib.sha256(name.encode()).digest()[:16]
        if digest in self._seen:
            raise Rejected(
                "The custom_id of this line is that of an earlier one: each has to be unique in its batch.",
                param="custom_id",
                code="duplicate_custom_id",
            )
        self._seen.add(digest)
        if fields.get("method") != "POST":
            raise Rejected("'method' has to be POST.", param="method", code="invalid_method")
        if fields.get("url") != ENDPOINT:
            raise Rejected(
                f"'url' has to be that of the batch, which is {ENDPOINT}.", param="url", code="url_mismatch"
            )


def asked_of(fields: dict[str, Any], read: Callable[[bytes], EmbeddingsRequest]) -> EmbeddingsRequest:
    """Read what a line asks for.

    Raises:
        Rejected: it cannot be read.
    """
    if not isinstance(body := fields.get("body"), dict):
        raise Rejected("'body' has to be a JSON object: a request to the endpoint.", param="body")
    return read(orjson.dumps(body))


def fields_of(raw: bytes) -> dict[str, Any]:
    """Read the fields of a line.

    Raises:
        Rejected: it is no JSON object.
    """
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise Rejected("This line is not parseable as valid JSON.", code="invalid_json_line")
    return fields


def inputs_of(given: Input) -> Sequence[str | list[int]]:
    """Tell the inputs of a request one by one: texts, or arrays of token ids."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    return given  # type: ignore[return-value]


def size_of(given: Input) -> tuple[int, int]:
    """Tell how many inputs there are, and guess their tokens."""
    inputs = inputs_of(given)
    return len(inputs), sum(guessed(each) if isinstance(each, str) else len(each) for each in inputs)


def most_of(given: Input) -> int:
    """Say how many tokens an input cannot exceed."""
    return sum(most_tokens(each) if isinstance(each, str) else len(each) for each in inputs_of(given))


class Copy:
    """The lines of a file on this machine's disk; every method is blocking."""

    def __init__(self, file: BinaryIO, *, longest: int, seen: Check | None) -> None:
        """Write to `file`; where lines are judged (`seen`), they have at most `longest` bytes."""
        self._file, self._longest, self._seen = file, longest, seen
        # Where each line begins and ends; those that are empty are left out.
        self._starts, self._ends = array("q"), array("q")
        self._written = self._number = 0
        self._rest = b""

    def __len__(self) -> int:
        """Count the lines."""
        return len(self._starts)

    def take(self, piece: bytes) -> bool:
        """Take the next piece; return whether there is use in another."""
        self._file.write(piece)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._line(line, ended=True)
        if self._seen is not None and len(self._rest) > self._longest:
            self._too_long(self._seen, self._number + 1)
            self._rest = b""
            return False
        return self._seen is None or not self._seen.full

    def end(self) -> None:
        """Take the last line, which need not be ended."""
        self._line(self._rest, ended=False)
        self._rest = b""

    def read(self, place: int) -> bytes:
        """Read one line."""
        self._file.seek(self._starts[place])
        return self._file.read(self._ends[place] - self._starts[place])

    def names(self, first: int, last: int) -> list[str]:
        """Read the custom_ids of lines from `first` on, before `last`, which were found to be good."""
        return [fields_of(self.read(place))["custom_id"] for place in range(first, last)]

    def block(
        self, place: int, read: Callable[[bytes], EmbeddingsRequest], *, inputs: int, tokens: int, most: int
    ) -> list[Line]:
        """Read lines from `place` on, one and more: up to so many inputs, guessed tokens, and tokens at most."""
        lines: list[Line] = []
        while place < len(self):
            fields = fields_of(self.read(place))
            asked = asked_of(fields, read)
            count, guess = size_of(asked.input)
            inputs, tokens, most = inputs - count, tokens - guess, most - most_of(asked.input)
            if lines and min(inputs, tokens, most) < 0:
                break
            lines.append(Line(place=place, name=fields["custom_id"], asked=asked))
            place += 1
        return lines

    def _line(self, line: bytes, *, ended: bool) -> None:
        start, self._written = self._written, self._written + len(line) + ended
        self._number += 1
        if not line.strip():
            return
        if self._seen is not None and len(line) > self._longest:
            self._too_long(self._seen, self._number)
            return
        self._starts.append(start)
        self._ends.append(start + len(line))
        if self._seen is not None:
            self._seen(self._number, line)

    def _too_long(self, seen: Check, number: int) -> None:
        if not seen.full:
            seen.faults.append(
                Fault(
                    code="request_too_large",
                    message=f"A line may have {self._longest:,} bytes, as the body of a request.",
                    line=number,
                )
            )


@asynccontextmanager
async def copied(
    pieces: AsyncIterable[bytes], *, longest: int, seen: Check | None = None
) -> AsyncIterator[Copy]:
    """Copy a file to this machine's disk, where `seen` judges its lines meanwhile."""
    with TemporaryFile() as file:
        copy = Copy(file, longest=longest, seen=seen)
        async for piece in pieces:
            if not await asyncio.to_thread(copy.take, piece):
                break
        await asyncio.to_thread(copy.end)
        yield copy
