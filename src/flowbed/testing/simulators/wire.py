"""What simulators exchange: a request, its call, the answer. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import parse_qsl

import orjson

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.testing.simulators.batch_api.jobs import Jobs
    from flowbed.testing.simulators.content import Content, Scratch
    from flowbed.testing.simulators.faults import Fault
    from flowbed.testing.simulators.limits import Room

Headers = tuple[tuple[bytes, bytes], ...]
Reason = Literal["rate_limited", "quota", "error"]

JSON: Headers = ((b"content-type", b"application/json"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One whole HTTP request; header names are lower case.

    A form, which may contain a large file, is in `form` instead of `body`.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    form: Scratch | None = None

    @property
    def bearer(self) -> str:
        """The key of `Authorization: Bearer`, or an empty string."""
        scheme, _, key = self.headers.get("authorization", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""

    def parameter(self, name: str) -> str:
        """Return one parameter of the query, or an empty string."""
        return dict(parse_qsl(self.query)).get(name, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes
    headers: Headers = JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """An HTTP answer that is streamed from a file."""

    status: int
    content: Content
    headers: Headers = JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a valid request asks for: one vector of `model` for each of `texts`.

    `dimensions` is None if the request leaves them to the model; `form` is the vendor's name of the vector format. A
    request for reranking has a `query`, and its vectors have one dimension.
    """

    model: str
    texts: Sequence[str]
    tokens: int
    form: str
    input_type: str = ""
    dimensions: int | None = None
    query: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request is refused, and when to retry; `room` is the limit that was exceeded."""

    reason: Reason
    status: int
    retry_after: float | None = None
    room: Room | None = None
    call: Call | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vectors:
    """The answer to a call: row i of `rows` is reported as the vector of text `labels[i]`."""

    rows: NDArray[np.float32]
    labels: Sequence[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationContext:
    """The context of an operation: its key, the time, the faults that affect it, and how calls are answered.

    `chance` picks what a fault affects; `answers` makes and serialises the vectors of calls, in order, corrupted by
    faults; `refuse` words an error.
    """

    key: str
    now: float
    due: Sequence[Fault]
    chance: random.Random
    answers: Callable[[Iterable[Call], Sequence[Fault]], Iterator[Answer]]
    refuse: Callable[[Refusal], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A valid request that asks for something other than vectors: to change something, or to report it.

    It is carried out if nothing prevents it, and raises VendorError if it cannot be. If it creates a job, `job` says
    for which model and texts.
    """

    do: Callable[[OperationContext], Answer | Stream]
    job: JobTexts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTexts:
    """What a job would embed; `texts` are read again each time."""

    model: str
    texts: Iterable[str]


class VendorError(Exception):
    """An error, as the vendor answers it."""

    def __init__(self, answer: Answer) -> None:
        """Keep the answer."""
        super().__init__(answer.body.decode(errors="replace"))
        self.answer = answer


class Api(Protocol):
    """One vendor's embeddings API: how it parses requests, and how it words answers and errors."""

    name: str
    positional: bool  # answers have no index, so only their order says which vector belongs to which text

    @property
    def jobs(self) -> Jobs | None:
        """The jobs of its Batch API; None if none is simulated."""
        ...

    def key(self, request: Request) -> str:
        """Return the key of the request, or an empty string."""
        ...

    def read(self, request: Request) -> Call | Answer | Operation:
        """Parse and validate a request: the vectors it asks for, another operation, or the answer.

        Raises:
            VendorError: the vendor would refuse the request.
        """
        ...

    def width(self, call: Call) -> int:
        """Return the dimensions of a call's vectors."""
        ...

    def write(self, call: Call, vectors: Vectors) -> Answer:
        """Answer a call."""
        ...

    def refuse(self, refusal: Refusal, request: Request) -> Answer:
        """Word an error that is not caused by the content of the request."""
        ...

    def standing(self, rooms: Sequence[Room]) -> Headers:
        """Return the headers that report what is left of the rate limits."""
        ...


def fields(content: bytes) -> dict[str, Any] | None:
    """Parse a JSON object; None if it is not one. Fields that are null count as absent."""
    try:
        body = orjson.loads(content)
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    return {name: value for name, value in body.items() if value is not None}


def as_json(status: int, value: object, headers: Headers = ()) -> Answer:
    """Answer with JSON; numpy arrays are written as lists."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return Answer(status=status, body=body, headers=(*JSON, *headers))
