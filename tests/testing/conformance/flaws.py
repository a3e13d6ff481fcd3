"""Servers with one flaw each: the simulator of OpenAI's API, with something between it and the client."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Inner = Callable[..., Awaitable["Told"]]
    Flaw = Callable[["Asked", Inner], Awaitable["Told"]]

Fields = dict[str, Any]
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Asked:
    """A request: its JSON, None where it has none."""

    method: str
    path: str
    headers: dict[str, str]
    said: Any
    query: dict[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> Fields:
        """The fields of an embeddings request that is an object, or none."""
        return self.said if self.path == "/v1/embeddings" and isinstance(self.said, dict) else {}

    @property
    def given(self) -> list[Any]:
        """The inputs of an embeddings request."""
        given = self.fields.get("input")
        return given if isinstance(given, list) else [given]

    def but(self, **changed: Any) -> Fields:
        """Give the fields with some of them changed."""
        return {**self.fields, **changed}


@dataclass
class Told:
    """An answer: its JSON, or bytes."""

    status: int
    said: Any
    headers: dict[str, str] = field(default_factory=dict)


class Flawed:
    """An application that answers as another one does, but for what `flaw` makes of it."""

    def __init__(self, app: Any, flaw: Flaw) -> None:
        self._app = app
        self._flaw = flaw

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await _read(receive)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = dict(parse_qsl(scope["query_string"].decode()))
        asked = Asked(scope["method"], scope["path"], headers, read_json(body), query)

        async def inner(
            said: Any, *, rewrite: Callable[[bytes], bytes] = lambda body: body, **changed: Any
        ) -> Told:
            sent = rewrite(body) if said is asked.said else json.dumps(said).encode()
            return await _call(self._app, {**scope, **changed}, sent)

        told = await self._flaw(asked, inner)
        content = told.said if isinstance(told.said, bytes) else json.dumps(told.said).encode()
        named = {**told.headers, "content-length": str(len(content))}
        encoded = [(name.encode(), value.encode()) for name, value in named.items()]
        await send({"type": "http.response.start", "status": told.status, "headers": encoded})
        await send({"type": "http.response.body", "body": content})


def asking(change: Callable[[Asked], Fields | None]) -> Flaw:
    """Change what embeddings requests say, where `change` gives something."""

    async def flaw(asked: Asked, inner: Inner) -> Told:
        changed = change(asked) if asked.fields else None
        return await inner(asked.said if changed is None else changed)

    return flaw


def answering(change: Callable[[Asked, Told], None]) -> Flaw:
    """Change embeddings answers."""

    async def flaw(asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        if asked.fields and told.status == 200:
            change(asked, told)
        return told

    return flaw


def refusing(change: Callable[[Told], None]) -> Flaw:
    """Change errors."""

    async def flaw(asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        if told.status >= 400:
            change(told)
        return told

    return flaw


def when(wrong: Callable[[Asked], object], status: int = 400, code: str | None = None) -> Flaw:
    """Refuse requests that are none of the wrong ones."""

    async def flaw(asked: Asked, inner: Inner) -> Told:
        if wrong(asked):
            return refused_with(status, "This server does not know that.", code)
        return await inner(asked.said)

    return flaw


def rows(change: Callable[[Asked, list[Fields]], object]) -> Flaw:
    """Change the rows of embeddings answers."""

    def of(asked: Asked, told: Told) -> None:
        change(asked, told.said["data"])

    return answering(of)


def said(name: str, value: Any) -> Flaw:
    """Say something else in a field of embeddings answers."""
    return answering(lambda _, told: told.said.update({name: value}))


def charging(tokens: Callable[[Asked, int], Any]) -> Flaw:
    """Charge other tokens."""

    def change(asked: Asked, told: Told) -> None:
        count = tokens(asked, told.said["usage"]["total_tokens"])
        told.said["usage"] = {"prompt_tokens": count, "total_tokens": count}

    return answering(change)


def numbers(change: Callable[[Any, Asked], Any]) -> Flaw:
    """Change the vectors of an answer, in whichever encoding: an array of (texts, dimensions)."""

    def of(asked: Asked, told: Told) -> None:
        data = told.said["data"]
        packed = isinstance(data[0]["embedding"], str)
        read = [_unpacked(row["embedding"]) if packed else row["embedding"] for row in data]
        for row, vector in zip(data, change(np.array(read, np.float32), asked), strict=True):
            row["embedding"] = _packed(vector.astype("<f4")) if packed else vector.tolist()

    return answering(of)


def packing(dtype: str) -> Flaw:
    """Write base64 of another type of numbers."""

    def change(_: Asked, data: list[Fields]) -> None:
        for row in data:
            if isinstance(row["embedding"], str):
                row["embedding"] = _packed(_unpacked(row["embedding"]).astype(dtype))

    return rows(change)


def header(name: str, value: str | None) -> Flaw:
    """Have a header of this value in every answer, or no such header."""

    async def flaw(asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        told.headers.pop(name, None)
        if value is not None:
            told.headers[name] = value
        return told

    return flaw


def models(change: Callable[[Asked, Fields], object]) -> Flaw:
    """Change what is said of models, listed or retrieved."""

    async def flaw(asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        if asked.path.startswith("/v1/models") and told.status == 200:
            for row in told.said.get("data", [told.said]):
                change(asked, row)
        return told

    return flaw


class Knowing:
    """Answer as a cache does that is wrong, in what it charges or in whose vector is where."""

    def __init__(self, *, usage: bool = False, order: bool = False) -> None:
        self._usage, self._order, self._known = usage, order, set[str]()

    async def __call__(self, asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        if not asked.fields or told.status != 200:
            return told
        texts = list(map(str, asked.given))
        data = told.said["data"]
        known = [place for place, text in enumerate(texts) if text in self._known]
        if self._usage and len(known) == len(data):
            told.said["usage"] = {"prompt_tokens": 0, "total_tokens": 0}
        if self._order and len(data) == len(texts):
            others = [place for place in range(len(data)) if place not in known]
            arrange(data, [*known, *others])
        self._known.update(texts)
        return told


class Mixing:
    """Give requests that are under way at the same time each other's answers."""

    def __init__(self) -> None:
        self._under_way: list[Told] = []

    async def __call__(self, asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        if not asked.fields or told.status != 200:
            return told
        self._under_way.append(told)
        await asyncio.sleep(0.02)  # as long as others take that came at the same time
        self._under_way.remove(told)
        for other in self._under_way:
            if len(other.said["data"]) == len(told.said["data"]):
                return Told(other.status, other.said, told.headers)
        return told


class Limiting:
    """Refuse requests of one key now and then, and say when to come again."""

    def __init__(
        self, key: str, *, retry_after: str | None = "0.01", code: str = "rate_limit_exceeded"
    ) -> None:
        self._key, self._retry_after, self._code, self._asked = key, retry_after, code, 0

    async def __call__(self, asked: Asked, inner: Inner) -> Told:
        if self._key not in asked.headers.get("authorization", "") or not asked.fields:
            return await inner(asked.said)
        self._asked += 1
        if self._asked % 4 < 2:
            return await inner(asked.said)
        told = refused_with(429, "Rate limit reached.", self._code, "requests")
        if self._retry_after is not None:
            told.headers["retry-after"] = self._retry_after
        return told


class Stumbling:
    """Fail once after a refusal."""

    def __init__(self) -> None:
        self._refused = False

    async def __call__(self, asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        if self._refused and told.status == 200:
            self._refused = False
            return refused_with(500, "A worker has died.")
        self._refused = told.status == 400 and asked.fields.get("input") == ["text", ""]
        return told


def arrange(data: list[Fields], order: list[int]) -> None:
    """Put the vectors of an answer in another order, under the numbers that there are."""
    vectors = [data[place]["embedding"] for place in order]
    for row, vector in zip(data, vectors, strict=True):
        row["embedding"] = vector


def refused_with(
    status: int, message: str, code: str | None = None, kind: str = "invalid_request_error"
) -> Told:
    """Refuse in OpenAI's shape."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    number = next(_NUMBERS)
    return Told(
        status, {"error": error}, {"content-type": "application/json", "x-request-id": f"own-{number}"}
    )


def _packed(vector: Any) -> str:
    return base64.b64encode(vector.tobytes()).decode()


def _unpacked(text: str) -> Any:
    return np.frombuffer(base64.b64decode(text), "<f4")


async def _read(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _call(app: Any, scope: Any, body: bytes) -> Told:
    sent: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return parts.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    named = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    await app({**scope, "headers": named}, receive, send)
    start, *rest = sent
    content = b"".join(message.get("body", b"") for message in rest)
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    # What is no JSON as a whole, such as lines of it, goes through as it is.
    read = read_json(content) if "json" in headers.get("content-type", "") else None
    return Told(start["status"], content if read is None else read, headers)


def read_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None
