"""The input of a job, line by line: copied to local disk once, checked on the way, and read in blocks."""

from __future__ import annotations

import asyncio
import codecs
import hashlib
from array import array
from contextlib import asynccontextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from flowbed.embedding.token_counts import estimate_tokens
from flowbed.errors import Error, Rejected
from flowbed.services.embedding.inputs import most_tokens, require_few_values

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence

    from flowbed.records.serving import EmbeddingsRequest, Input

ENDPOINT = "/v1/embeddings"
# Lines of a file, and inputs of all its lines: https://platform.openai.com/docs/guides/batch
LINES_MOST = INPUTS_MOST = 50_000
FAULTS_MOST = 100  # more are not listed: the program that wrote the file is wrong
NAME_MOST = 512  # characters of a custom_id


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFault:
    """A fault of an input file, or of one `line` of it (from 1)."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class InputLine:
    """One line: its place in the file (from 0, not counting empty lines), its custom_id and its request."""

    place: int
    name: str
    request: EmbeddingsRequest


class InputCheck:
    """Checks the lines of a file as they are read; blocking, for a thread."""

    def __init__(self, read: Callable[[bytes], EmbeddingsRequest], model: Callable[[str], str]) -> None:
        """`read` parses the body of a request; `model` returns the id of a model that the owner may use."""
        self._read, self._model_of = read, model
        self._seen: set[bytes] = set()
        self._id = ""
        self.faults: list[InputFault] = []
        self.model = ""  # as the first line names it
        self.lines = self.inputs = self.tokens = 0

    @property
    def full(self) -> bool:
        """Tell whether reading on is pointless."""
        return len(self.faults) >= FAULTS_MOST or self.lines > LINES_MOST or self.inputs > INPUTS_MOST

    def __call__(self, number: int, raw: bytes) -> None:
        """Check one line, which is not empty."""
        if self.full:
            return
        self.lines += 1
        try:
            self._judge(raw)
        except Error as error:
            code, param = getattr(error, "code", None), getattr(error, "param", None)
            self.faults.append(
                InputFault(code=code or "invalid_request", message=str(error), line=number, param=param)
            )

    def end(self) -> list[InputFault]:
        """Check the file as a whole, and return every fault."""
        if not self.lines and not self.faults:
            return [
                InputFault(
                    code="empty_file", message="The input file is empty; it needs one line per request."
                )
            ]
        if self.lines > LINES_MOST:
            message = f"The input file has more than {LINES_MOST:,} lines; send them in several batches."
            return [InputFault(code="too_many_tasks", message=message)]
        if self.inputs > INPUTS_MOST:
            message = (
                f"The lines of the input file have more than {INPUTS_MOST:,} inputs in total; send them in several"
                " batches."
            )
            return [InputFault(code="too_many_inputs", message=message)]
        return self.faults

    def _judge(self, raw: bytes) -> None:
        fields = fields_of(raw)
        self._name(fields)
        request = request_of(fields, self._read)
        model = self._model_of(request.model)
        self._id, self.model = self._id or model, self.model or request.model
        if model != self._id:
            raise Rejected(
                f"This line requests model {request.model}, an earlier one {self.model}: all lines of a batch"
                " must request the same model.",
                param="body.model",
                code="model_mismatch",
            )
        inputs, tokens = size_of(request.input)
        self.inputs += inputs
        self.tokens += tokens

    def _name(self, fields: dict[str, Any]) -> None:
        """Check the fields around the body of a request."""
        name = fields.get("custom_id")
        if not isinstance(name, str) or not 0 < len(name) <= NAME_MOST:
            raise Rejected(
                f"'custom_id' must be a string of 1 to {NAME_MOST} characters.",
                param="custom_id",
                code="missing_required_parameter" if name is None else "invalid_value",
            )
        digest = hashlib.sha256(name.encode()).digest()[:16]
        if digest in self._seen:
            raise Rejected(
                "The custom_id of this line repeats an earlier one: each must be unique in its batch.",
                param="custom_id",
                code="duplicate_custom_id",
            )
        self._seen.add(digest)
        if fields.get("method") != "POST":
            raise Rejected("'method' must be POST.", param="method", code="invalid_method")
        if fields.get("url") != ENDPOINT:
            raise Rejected(f"'url' must be that of the batch, {ENDPOINT}.", param="url", code="url_mismatch")


def request_of(fields: dict[str, Any], read: Callable[[bytes], EmbeddingsRequest]) -> EmbeddingsRequest:
    """Parse the request of a line.

    Raises:
        Rejected: it cannot be parsed.
    """
    if not isinstance(body := fields.get("body"), dict):
        raise Rejected("'body' must be a JSON object: a request to the endpoint.", param="body")
    return read(orjson.dumps(body))


def fields_of(raw: bytes) -> dict[str, Any]:
    """Parse the fields of a line.

    Raises:
        Rejected: the line is not a JSON object, or has too many values.
    """
    require_few_values(raw.count(b","), raw.count(b"[") + raw.count(b"{"))
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        hint = " It looks like UTF-16: save the file as UTF-8." if b"\0" in raw else ""
        raise Rejected(f"This line is not parseable as valid JSON.{hint}", code="invalid_json_line")
    return fields


def inputs_of(given: Input) -> Sequence[str | list[int]]:
    """Return the inputs of a request as a list of texts or of token arrays."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    return given  # type: ignore[return-value]


def size_of(given: Input) -> tuple[int, int]:
    """Return the number of inputs and an estimate of their tokens."""
    inputs = inputs_of(given)
    return len(inputs), sum(estimate_tokens(each) if isinstance(each, str) else len(each) for each in inputs)


def most_of(given: Input) -> int:
    """Return an upper bound of the tokens of an input."""
    return sum(most_tokens(each) if isinstance(each, str) else len(each) for each in inputs_of(given))


class LocalCopy:
    """The lines of a file on local disk; every method blocks."""

    def __init__(self, file: BinaryIO, *, longest: int, seen: InputCheck | None) -> None:
        """Write to `file`; with a check (`seen`), a line may have at most `longest` bytes."""
        self._file, self._longest, self._seen = file, longest, seen
        # Start and end of each line that is not empty.
        self._starts, self._ends = array("q"), array("q")
        self._written = self._number = 0
        self._rest = b""

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self._starts)

    def take(self, piece: bytes) -> bool:
        """Append the next piece; return whether more is wanted."""
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
        """Take the last line, which may lack its newline."""
        self._line(self._rest, ended=False)
        self._rest = b""

    def read(self, place: int) -> bytes:
        """Read one line."""
        self._file.seek(self._starts[place])
        return self._file.read(self._ends[place] - self._starts[place])

    def names(self, first: int, last: int) -> list[str]:
        """Return the custom_ids of the lines from `first` to before `last`, which have been checked."""
        return [fields_of(self.read(place))["custom_id"] for place in range(first, last)]

    def block(
        self, place: int, read: Callable[[bytes], EmbeddingsRequest], *, inputs: int, tokens: int, most: int
    ) -> list[InputLine]:
        """Read one or more lines from `place` on, within limits of inputs, estimated tokens and maximum tokens."""
        lines: list[InputLine] = []
        while place < len(self):
            fields = fields_of(self.read(place))
            request = request_of(fields, read)
            count, guess = size_of(request.input)
            inputs, tokens, most = inputs - count, tokens - guess, most - most_of(request.input)
            if lines and min(inputs, tokens, most) < 0:
                break
            lines.append(InputLine(place=place, name=fields["custom_id"], request=request))
            place += 1
        return lines

    def _line(self, line: bytes, *, ended: bool) -> None:
        start, self._written = self._written, self._written + len(line) + ended
        self._number += 1
        if start == 0 and line.startswith(codecs.BOM_UTF8):  # as editors on Windows write it
            start, line = len(codecs.BOM_UTF8), line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            return
        if self._seen is not None and len(line) > self._longest:
            self._too_long(self._seen, self._number)
            return
        self._starts.append(start)
        self._ends.append(start + len(line))
        if self._seen is not None:
            self._seen(self._number, line)

    def _too_long(self, seen: InputCheck, number: int) -> None:
        if not seen.full:
            seen.faults.append(
                InputFault(
                    code="request_too_large",
                    message=f"A line may have at most {self._longest:,} bytes.",
                    line=number,
                )
            )


@asynccontextmanager
async def copied(
    pieces: AsyncIterable[bytes], *, longest: int, seen: InputCheck | None = None
) -> AsyncIterator[LocalCopy]:
    """Copy a file to local disk while `seen` checks its lines."""
    with TemporaryFile() as file:
        copy = LocalCopy(file, longest=longest, seen=seen)
        async for piece in pieces:
            if not await asyncio.to_thread(copy.take, piece):
                break
        await asyncio.to_thread(copy.end)
        yield copy
