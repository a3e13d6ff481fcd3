"""What simulators exchange: a request, the call it makes, the answer to it. No I/O."""

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

    from flowbed.testing.simulators.content import Content, Scratch
    from flowbed.testing.simulators.faults import Fault
    from flowbed.testing.simulators.jobs import Jobs
    from flowbed.testing.simulators.limits import Room

Headers = tuple[tuple[bytes, bytes], ...]
Reason = Literal["rate_limited", "quota", "error"]

JSON: Headers = ((b"content-type", b"application/json"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request, read to its end; names of headers are lower case.

    A form, which may hold a large file, is in `form` in the place of `body`.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    form: Scratch | None = None

    @property
    def bearer(self) -> str:
        """The key that `Authorization: Bearer` carries, or nothing."""
        scheme, _, key = self.headers.get("authorization", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""

    def parameter(self, name: str) -> str:
        """Give one parameter of the query, or nothing."""
        return dict(parse_qsl(self.query)).get(name, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is told."""

    status: int
    body: bytes
    headers: Headers = JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What is told from a file."""

    status: int
    content: Content
    headers: Headers = JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a good request asks for: one vector of `model` for each of `texts`.

    `dimensions` is None where the request leaves them to the model; `form` is how the vendor is to write vectors.
    """

    model: str
    texts: Sequence[str]
    tokens: int
    form: str
    input_type: str = ""
    dimensions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request is not carried out, and when to come again; `room` is the limit that was in the way."""

    reason: Reason
    status: int
    retry_after: float | None = None
    room: Room | None = None
    call: Call | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vectors:
    """What a call is answered with: row i of `rows` is told to be the vector of text `labels[i]`."""

    rows: NDArray[np.float32]
    labels: Sequence[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a deed is done with: whose it is, when, the faults that strike it, and how calls are answered.

    `chance` picks what a fault strikes; `answers` makes and writes the vectors of calls, in their order, spoiled by
    faults; `refuse` words an error.
    """

    key: str
    now: float
    due: Sequence[Fault]
    chance: random.Random
    answers: Callable[[Iterable[Call], Sequence[Fault]], Iterator[Answer]]
    refuse: Callable[[Refusal], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What a good request asks for that is no vectors, but changes something, or tells of it.

    It is done when nothing is in the way, and raises VendorError where it cannot be. Where it makes a job, `job` says
    for which model and texts.
    """

    do: Callable[[Scene], Answer | Stream]
    job: Asked | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a job is asked to embed; `texts` are read anew each time."""

    model: str
    texts: Iterable[str]


class VendorError(Exception):
    """An error, as the vendor answers it."""

    def __init__(self, answer: Answer) -> None:
        """Keep the answer."""
        super().__init__(answer.body.decode(errors="replace"))
        self.answer = answer


class Api(Protocol):
    """One vendor's embeddings API: how it reads requests, and how it words answers and errors."""

    name: str
    positional: bool  # answers name no index, so that only their order says whose vector is whose

    @property
    def jobs(self) -> Jobs | None:
        """The jobs of its Batch API; None where none is simulated."""
        ...

    def key(self, request: Request) -> str:
        """Give the key that the request carries, or nothing."""
        ...

    def read(self, request: Request) -> Call | Answer | Deed:
        """Judge a request: the vectors that it asks for, or what else there is to do, or the answer.

        Raises:
            VendorError: the request is not as the vendor wants it.
        """
        ...

    def width(self, call: Call) -> int:
        """Tell how many dimensions the vectors of a call have."""
        ...

    def write(self, call: Call, vectors: Vectors) -> Answer:
        """Answer a call."""
        ...

    def refuse(self, refusal: Refusal, request: Request) -> Answer:
        """Word an error that does not lie in what the request asks for."""
        ...

    def standing(self, rooms: Sequence[Room]) -> Headers:
        """Tell in headers what is left of the limits."""
        ...


def fields(content: bytes) -> dict[str, Any] | None:
    """Read a JSON object; None where it is none. Fields that are null are as good as absent."""
    try:
        body = orjson.loads(content)
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    return {name: value for name, value in body.items() if value is not None}


def as_json(status: int, value: object, headers: Headers = ()) -> Answer:
    """Answer with JSON; arrays of numpy are written as lists."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return Answer(status=status, body=body, headers=(*JSON, *headers))
