"""The official OpenAI SDK, synchronous and asynchronous with one interface, and a record of every exchange."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import openai

from flowbed.testing.conformance.exchanges import Answer, Exchange, Refusal, SdkAnswer, Tally, numbers_of
from flowbed.testing.conformance.records import Failed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator

    from flowbed.testing.conformance.records import Kind, Target

ERROR_KEYS = {"message", "type", "param", "code"}
NOBODYS_KEY = "none"  # the SDK requires a key, even for a server that does not
PAGES = 50  # pages of a list to follow; on a shared server lists may be long
# Errors of the SDK, or of code that reads its results.
UNUSABLE = (openai.APIError, ValueError, TypeError, AttributeError)
# A context for each check, which its threads and tasks inherit: concurrent checks see only their own exchanges.
_SEEN: ContextVar[list[Exchange] | None] = ContextVar("exchanges", default=None)


class Client:
    """A client of the SDK that records every exchange; it does not retry unless `retries` says otherwise."""

    def __init__(self, kind: Kind, target: Target) -> None:
        """Connect to `target` with its key."""
        self.kind = kind
        self.target = target
        self.tally = Tally()
        payload: dict[str, Any] = {
            "base_url": target.url,
            "api_key": target.key or NOBODYS_KEY,
            "max_retries": 0,
            "timeout": target.timeout,
        }
        self._sdk: Any
        if kind == "sync":
            hooks: dict[str, Any] = {"response": [self._see]}
            self._sdk = openai.OpenAI(
                **payload, http_client=openai.DefaultHttpxClient(event_hooks=hooks, verify=_trusted())
            )
        else:
            hooks = {"response": [self._see_later]}
            self._sdk = openai.AsyncOpenAI(
                **payload, http_client=openai.DefaultAsyncHttpxClient(event_hooks=hooks, verify=_trusted())
            )

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close its connections."""
        await self._call(self._sdk.close)

    def for_next_check(self) -> Client:
        """Return this client for another check, with the same connections."""
        client = copy(self)
        client.tally = Tally()
        return client

    def another(self, *, key: str = "", retries: int = 0) -> Client:
        """Return a client for the same check with another key or with retries."""
        client = copy(self)
        client._sdk = self._sdk.with_options(  # noqa: SLF001 - of its own kind
            api_key=key or self._sdk.api_key, max_retries=retries
        )
        return client

    def require(self, holds: object, reason: str) -> None:
        """Continue only if a requirement holds.

        Raises:
            Failed: it does not.
        """
        self.tally.requirements += 1
        if not holds:
            raise Failed(reason)

    async def embed(self, given: Any, **more: Any) -> Answer:  # any input of the SDK
        """Embed texts or tokens, and check everything that holds for all answers.

        Raises:
            Failed: the request was refused, or the answer is not valid.
        """
        sdk_answer = await self.ask("embeddings.create", model=self.target.model, **{"input": given, **more})
        return self._answer(sdk_answer.parsed, sdk_answer.exchange)

    async def ask(self, what: str, *given: Any, **named: Any) -> SdkAnswer:  # arguments of the SDK
        """Call a method of the SDK, such as `files.create`.

        Raises:
            Failed: the request was refused, or the SDK cannot use the answer.
        """
        return await self._sdk_answer(attrgetter(what)(self._sdk), *given, **named)

    async def pages(self, what: str, **named: Any) -> AsyncIterator[SdkAnswer]:  # arguments of the SDK
        """List page by page, as the SDK does.

        Raises:
            Failed: as `ask`.
        """
        sdk_answer = await self.ask(what, **named)
        yield sdk_answer
        for _ in range(PAGES - 1):
            if not sdk_answer.parsed.has_next_page():
                return
            sdk_answer = await self._sdk_answer(sdk_answer.parsed.get_next_page)
            yield sdk_answer

    async def embed_raw(self, body: Any, **headers: str) -> Exchange:  # any JSON value, or bytes
        """Post a body to `/embeddings` unchanged, and require success."""
        exchange = await self.send("POST", "/embeddings", body, **headers)
        self.require(exchange.status == 200, f"refused: {exchange.shown}")
        return exchange

    async def refused(self, status: int, given: Any = "text", **more: Any) -> Refusal:
        """Require that an embeddings request fails with this status, in OpenAI's shape."""
        asked = {"model": self.target.model, "input": given, **more}
        return await self.refused_by({status}, "embeddings.create", **asked)

    async def refused_by(
        self,
        statuses: Collection[int],
        what: str,
        *given: Any,  # arguments of the SDK
        **named: Any,
    ) -> Refusal:
        """Require that a call of the SDK, as in `ask`, fails with one of these statuses, in OpenAI's shape."""
        wanted = " or ".join(map(str, sorted(statuses)))
        with self._watching() as seen:
            try:
                await self._call(attrgetter(what)(self._sdk), *given, **named)
            except openai.APIStatusError as error:
                refusal = Refusal(error=error, exchanges=tuple(seen))
                self._require_shape(refusal.exchange, statuses)
                return refusal
            except UNUSABLE as error:
                raise Failed(
                    f"expected status {wanted}, got no answer: {type(error).__name__}: {error}"
                ) from error
        raise Failed(f"expected status {wanted}, got {seen[-1].shown}")

    async def refused_raw(
        self,
        status: int,
        body: Any,
        *,
        method: str = "POST",
        path: str = "/embeddings",
        **headers: str,
    ) -> dict[str, Any]:
        """Require that a raw request fails with this status in OpenAI's shape, and return the error."""
        exchange = await self.send(method, path, body, **headers)
        self._require_shape(exchange, {status})
        payload: dict[str, Any] = exchange.payload["error"]
        return payload

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> Exchange:
        """Send a request that the SDK would not send, over its connection: bytes unchanged, everything else as JSON."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        options = {"headers": {"content-type": "application/json", **named}}
        with self._watching() as seen:
            try:
                if method == "GET":
                    await self._call(self._sdk.get, path, cast_to=object, options=options)
                else:
                    await self._call(
                        self._sdk.post, path, cast_to=object, content=content or b"", options=options
                    )
            except (openai.APIError, ValueError) as error:
                if not seen:
                    raise Failed(f"no answer: {error}") from error
        return seen[-1]

    async def _sdk_answer(self, method: Callable[..., Any], *given: Any, **named: Any) -> SdkAnswer:
        with self._watching() as seen:
            try:
                parsed = await self._call(method, *given, **named)
            except openai.APIStatusError as error:
                raise Failed(f"refused: {seen[-1].shown}") from error
            except UNUSABLE as error:
                raise Failed(f"the SDK cannot use the answer: {type(error).__name__}: {error}") from error
        return SdkAnswer(parsed=parsed, exchange=seen[-1])

    async def _call(self, method: Callable[..., Any], *given: Any, **named: Any) -> Any:
        if self.kind == "sync":
            return await asyncio.to_thread(method, *given, **named)
        return await method(*given, **named)

    def _answer(self, parsed: Any, exchange: Exchange) -> Answer:
        try:
            numbers = [numbers_of(each.embedding) for each in parsed.data]
        except (TypeError, ValueError) as error:
            raise Failed(f"an embedding cannot be read as numbers: {error}") from error
        self.require(
            len({len(each) for each in numbers}) == 1, "vectors of one answer have different lengths"
        )
        vectors = np.array(numbers, np.float32)
        self.require(vectors.size, "the vectors are empty")
        self.require(np.isfinite(vectors).all(), "a vector contains a number that is not finite")
        return Answer(parsed=parsed, exchange=exchange, vectors=vectors)

    def _require_shape(self, exchange: Exchange, statuses: Collection[int]) -> None:
        """Require an error as the SDK reads it: all four keys, with the right types."""
        wanted = " or ".join(map(str, sorted(statuses)))
        self.require(exchange.status in statuses, f"expected status {wanted}, got {exchange.shown}")
        found = exchange.payload.get("error") if isinstance(exchange.payload, dict) else None
        self.require(isinstance(found, dict), f"the error is not in OpenAI's shape: {exchange.shown}")
        error: dict[str, Any] = found or {}
        missing = ERROR_KEYS - set(error)
        self.require(not missing, f"the error lacks {', '.join(sorted(missing))}: {exchange.shown}")
        for name in ("message", "type"):
            self.require(isinstance(error[name], str) and error[name], f"the error has no {name}: {error}")
        for name in ("param", "code"):
            self.require(isinstance(error[name], str | None), f"`{name}` is neither text nor null: {error}")

    @contextmanager
    def _watching(self) -> Iterator[list[Exchange]]:
        seen: list[Exchange] = []
        token = _SEEN.set(seen)
        try:
            yield seen
        finally:
            _SEEN.reset(token)
            self.tally.exchanges += len(seen)

    def _see(self, response: Any) -> None:  # of the SDK's HTTP client
        response.read()
        self._note(response)

    async def _see_later(self, response: Any) -> None:
        await response.aread()
        self._note(response)

    def _note(self, response: Any) -> None:
        seen = _SEEN.get()
        if seen is not None:
            seen.append(
                Exchange(
                    sent=_sent(response.request),
                    status=response.status_code,
                    headers={name.lower(): value for name, value in response.headers.items()},
                    body=response.content,
                    payload=_json(response.content),
                )
            )


def _sent(request: Any) -> Any:  # of the SDK's HTTP client
    try:
        return _json(request.content)
    except RuntimeError:  # a form, which is sent in pieces
        return None


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


@cache
def _trusted() -> ssl.SSLContext:
    """Load the machine's trusted certificates once: this takes longer than a hundred requests."""
    return ssl.create_default_context()
