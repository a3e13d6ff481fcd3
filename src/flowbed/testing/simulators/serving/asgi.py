"""Requests and answers over ASGI, and connections that end too soon, which ASGI cannot express."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from flowbed.testing.simulators.batch_api.forms import FORM
from flowbed.testing.simulators.content import Scratch
from flowbed.testing.simulators.wire import Answer, Request

if TYPE_CHECKING:
    import asyncio

    from flowbed.testing.simulators.wire import Headers, Stream

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MARK: Headers = ((b"x-flowbed-simulator", b"1"),)
# Key under which `running` puts the connection into the scope of a request.
TRANSPORT = "flowbed.transport"


async def read_request(scope: Scope, receive: Receive) -> Request | None:
    """Read a whole request; None if the client did not finish sending it."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    form = Scratch() if headers.get("content-type", "").startswith(FORM) else None
    blocks: list[bytes] = []
    keep = blocks.append if form is None else form.append
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        keep(message.get("body", b""))
        more = message.get("more_body", False)
    return Request(
        method=scope["method"],
        path=scope["path"],
        query=scope["query_string"].decode("latin-1"),
        headers=headers,
        body=b"".join(blocks),
        form=form,
    )


async def send_answer(send: Send, answer: Answer | Stream, *, half: bool = False) -> None:
    """Send an answer, or only the first half of its body."""
    size = len(answer.body) if isinstance(answer, Answer) else answer.content.size
    headers = [*answer.headers, *MARK, (b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    part = size // 2 if half else size
    if isinstance(answer, Answer):
        await send({"type": "http.response.body", "body": answer.body[:part], "more_body": half})
        return
    for block in answer.content.part(part).blocks():
        await send({"type": "http.response.body", "body": block, "more_body": True})
    if not half:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def transport_of(scope: Scope) -> asyncio.Transport:
    """Return the connection of a request.

    Raises:
        RuntimeError: the application is not served by `running`.
    """
    transport: asyncio.Transport | None = scope.get("extensions", {}).get(TRANSPORT)
    if transport is None:
        raise RuntimeError(
            "this server cannot end a connection: serve simulators with `flowbed.testing.simulators`"
        )
    return transport
