"""Requests to one server: JSON in and out, server-sent events, and errors of Flowbed's tree."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import orjson

from flowbed.errors import (
    Conflict,
    Exhausted,
    Forbidden,
    Misconfigured,
    NotFound,
    Rejected,
    TooMany,
    Transient,
    Unauthorized,
    Unavailable,
)
from flowbed.http.waits import retry_after

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import aiohttp
    from pydantic import BaseModel

    from flowbed.errors import Error

    Shape = TypeVar("Shape", bound=BaseModel)

# Seconds without a byte. A stream of events has a line at least every 15 seconds.
IDLE = 60.0
OK, ACCEPTED, ENDED, REDIRECT = 200, 202, 204, 300
CONFLICT, TOO_MANY, FAULT, UNAVAILABLE = 409, 429, 500, 503
REFUSALS: Mapping[int, type[Rejected]] = {401: Unauthorized, 403: Forbidden, 404: NotFound}
# Characters of an answer that is no JSON, as a proxy's, that are repeated in an error.
REPEATED = 200


class Connection:
    """A server, and the key that it is asked with."""

    def __init__(self, url: str, *, key: str = "") -> None:
        """Check the address; the first request connects.

        Raises:
            Misconfigured: it is no address of HTTP.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Misconfigured(f"{url!r} is no address of a server; write it as http://host:8080")
        # With or without the /v1 that clients of OpenAI's API are given.
        self._url = url.rstrip("/").removesuffix("/v1")
        self._key = key
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self,
        shape: type[Shape],
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Shape:
        """Send a request, and return its answer as `shape`. Arguments that are None are left out.

        Raises:
            Rejected: the request is invalid; `NotFound`, `Unauthorized`, `Forbidden` and `Exhausted` are kinds of it.
            Conflict: what it would change has changed.
            Transient: the server cannot be reached or cannot answer now.
        """
        _, text = await self.send(method, path, body=body, query=query)
        return shape.model_validate_json(text)

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> tuple[int, bytes]:
        """Send a request, and return the status and the body of its answer.

        Raises:
            Rejected, Conflict, Transient: as `call`.
        """
        async with self._send(
            method,
            path,
            data=None if body is None else orjson.dumps(_given(body)),
            params={name: str(value) for name, value in _given(query or {}).items()},
            headers={},
        ) as answer:
            text = await answer.read()
            if answer.status >= REDIRECT:
                raise _error(answer, text)
            return answer.status, text

    @asynccontextmanager
    async def events(self, path: str, *, after: int) -> AsyncIterator[AsyncIterator[bytes] | None]:
        """Yield the data of server-sent events with ids above `after`, or None where there will be no more.

        Raises:
            Rejected, Transient: as `call`. The connection may break at any time, which is `Transient`.
        """
        headers = {"accept": "text/event-stream", "last-event-id": str(after)}
        async with self._send("GET", path, headers=headers) as answer:
            if answer.status == ENDED:
                yield None
                return
            if answer.status != OK:
                raise _error(answer, await answer.read())
            yield _data(answer.content)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def _send(
        self, method: str, path: str, *, headers: Mapping[str, str], **given: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp  # takes 100 ms to import

        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=IDLE),
            )
        typed = {"content-type": "application/json"} if given.get("data") is not None else {}
        try:
            async with self._session.request(
                method, self._url + path, headers={**typed, **headers}, allow_redirects=False, **given
            ) as answer:
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise Transient(f"the server at {self._url} could not be reached: {reason}") from error


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


async def _data(lines: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Return the data of each event of a stream; the server writes the data of an event in one line."""
    async for line in lines:
        if line.startswith(b"data: "):
            yield line[len(b"data: ") :].rstrip(b"\r\n")


def _error(answer: aiohttp.ClientResponse, text: bytes) -> Error:
    """Return the error that an answer means."""
    try:
        said = orjson.loads(text)["error"]
        message, code, param = str(said["message"]), said.get("code"), said.get("param")
    except (ValueError, KeyError, TypeError):
        shown = text[:REPEATED].decode("utf-8", "replace")
        message, code, param = f"the answer has status {answer.status}: {shown}", None, None
    headers = {name.lower(): value for name, value in answer.headers.items()}
    if answer.status == TOO_MANY:
        if headers.get("x-should-retry") == "false":
            return Exhausted(message)
        return TooMany(message, retry_after=retry_after(headers))
    status = answer.status
    if status == CONFLICT:
        return Conflict(message)
    if status >= FAULT:
        kind = Unavailable if status == UNAVAILABLE else Transient
        return kind(message, retry_after=retry_after(headers))
    return REFUSALS.get(status, Rejected)(message, param=param, code=code)
