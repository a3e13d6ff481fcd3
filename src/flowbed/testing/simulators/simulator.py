"""A simulated provider: a plain ASGI application with limits, faults to order and an account of what it was asked.

Beside the vendor's own paths it answers `/_simulator/faults` (GET tells the faults in force, POST
`{"faults": [...], "seed": 0}` puts others in their place) and `/_simulator/requests` (GET tells what it was asked,
DELETE forgets it). Every answer carries `X-Flowbed-Simulator: 1`.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import asdict
from email.utils import formatdate
from typing import TYPE_CHECKING

import numpy as np
import orjson

from flowbed.errors import Misconfigured
from flowbed.testing.simulators.account import Account, Exchange
from flowbed.testing.simulators.asgi import read_request, send_answer, transport_of
from flowbed.testing.simulators.faults import OF_INDICES, Fault, Script, read_faults
from flowbed.testing.simulators.limits import Buckets, Limits, in_the_way
from flowbed.testing.simulators.vectors import vectors_of
from flowbed.testing.simulators.wire import Answer, Call, Refusal, Request, Vectors, VendorError, as_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from flowbed.testing.simulators.asgi import Receive, Scope, Send
    from flowbed.testing.simulators.faults import Kind
    from flowbed.testing.simulators.vectors import MakeVectors
    from flowbed.testing.simulators.wire import Api, Headers, Reason


# Faults that are answered in the place of vectors, with the vendor's error or something else's.
REASONS: dict[Kind, Reason] = {
    "rate_limited": "rate_limited",
    "quota": "quota",
    "error": "error",
    "gateway": "error",
}
CONTROL = "/_simulator/"
TOO_MANY, PAYMENT_REQUIRED = 429, 402
GATEWAY_PAGE = (
    b"<html>\r\n<head><title>%d</title></head>\r\n<body><center><h1>%d</h1></center></body>\r\n</html>\r\n"
)


class Simulator:
    """One simulated provider; `script` holds its faults and `account` what it was asked."""

    def __init__(
        self,
        api: Api,
        *,
        limits: Limits | None = None,
        faults: Sequence[Fault] = (),
        seed: int = 0,
        vectors: MakeVectors = vectors_of,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,  # noqa: TID251 - a provider has a clock of its own
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Answer as `api` does; `clock` fills the limits, `now` dates a Retry-After, `sleep` passes delays."""
        self.api = api
        self.script = Script()
        self.account = Account()
        self._buckets = Buckets(limits or Limits(), clock)
        self._vectors = vectors
        self._now = now
        self._sleep = sleep
        self.order(*faults, seed=seed)

    def order(self, *faults: Fault, seed: int = 0) -> None:
        """Have these faults from now on in the place of those before, and count from 1 again.

        Raises:
            Misconfigured: a fault is of indices, and the vendor's answers have none.

        """
        if self.api.positional and any(fault.kind in OF_INDICES for fault in faults):
            raise Misconfigured(
                f"{self.api.name} answers by place, with no index: {', '.join(sorted(OF_INDICES))} cannot be told from "
                "right answers; order another fault"
            )
        self.script.order(*faults, seed=seed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] != "http":
            raise NotImplementedError(f"a simulator knows no {scope['type']}")  # which is how ASGI says so
        request = await read_request(scope, receive)
        if request is None:
            return
        if request.path.startswith(CONTROL):
            await send_answer(send, self._control(request))
            return
        try:
            read = self.api.read(request)
        except VendorError as error:
            read = error.answer
        call = read if isinstance(read, Call) else None
        due = self.script.due(request.path, call.model if call else "", call.texts if call else ())
        key = self.api.key(request)
        answer, billed = None, 0
        self.account.begin(call)
        try:
            if await self._pass(due, receive):
                answer, billed = self._answer(request, key, read, due)
        finally:
            # In the account before it is at the client: who has an answer finds it there.
            exchange = Exchange(
                method=request.method,
                path=request.path,
                key=key,
                model=call.model if call else "",
                input_type=call.input_type if call else "",
                texts=call.texts if call else (),
                status=0 if answer is None or _has(due, "cut") else answer.status,
                billed=billed,
                faults=[fault.kind for fault in due],
            )
            self.account.end(exchange, call)
        if answer is not None:
            await _deliver(answer, due, scope, receive, send)

    async def _pass(self, due: Sequence[Fault], receive: Receive) -> bool:
        """Let delays pass; False if the client did not wait so long."""
        delay = sum(fault.delay for fault in due)
        if not delay:
            return True
        waiting = asyncio.ensure_future(self._sleep(delay))
        # Of a request that was read to its end nothing else is to come.
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.done()
        finally:
            waiting.cancel()
            gone.cancel()

    def _answer(
        self, request: Request, key: str, read: Call | Answer, due: Sequence[Fault]
    ) -> tuple[Answer, int]:
        """Carry out a request, unless a fault or a limit is in the way; also tell the tokens that are billed."""
        call = read if isinstance(read, Call) else None
        for fault in due:
            if fault.kind in REASONS:
                return self._refuse(request, call, fault), 0
        rooms = self._buckets.take(
            key,
            {
                "requests": 1,
                "inputs": len(call.texts) if call else 0,
                "tokens": call.tokens if call else 0,
            },
        )
        room = in_the_way(rooms)
        if room is not None:
            refusal = Refusal(
                reason="rate_limited", status=TOO_MANY, retry_after=room.wait, room=room, call=call
            )
            answer = _with(self.api.refuse(refusal, request), self._retry(refusal.retry_after))
        elif isinstance(read, Answer):
            answer = read
        else:
            answer = self._carry_out(read, due)
            return _with(answer, self.api.standing(rooms)), read.tokens
        return _with(answer, self.api.standing(rooms)), 0

    def _carry_out(self, call: Call, due: Sequence[Fault]) -> Answer:
        rows = self._vectors(call.model, call.texts, self.api.width(call), call.input_type)
        vectors = Vectors(rows=rows, labels=range(len(call.texts)))
        for fault in due:
            vectors = _spoiled(fault, vectors)
        answer = self.api.write(call, vectors)
        if _has(due, "garbled"):
            return Answer(
                status=answer.status, body=b"upstream said: " + answer.body[: len(answer.body) // 2]
            )
        return answer

    def _refuse(self, request: Request, call: Call | None, fault: Fault) -> Answer:
        told = self._retry(fault.retry_after, fault.retry_header)
        if fault.kind == "gateway":
            page = GATEWAY_PAGE % (fault.status, fault.status)
            return Answer(status=fault.status, body=page, headers=((b"content-type", b"text/html"), *told))
        refusal = Refusal(
            reason=REASONS[fault.kind],
            status=fault.status if fault.kind == "error" else TOO_MANY,
            retry_after=fault.retry_after,
            call=call,
        )
        return _with(self.api.refuse(refusal, request), told)

    def _retry(self, seconds: float | None, header: str = "seconds") -> Headers:
        if seconds is None or header == "none":
            return ()
        if header == "milliseconds":
            return ((b"retry-after-ms", b"%d" % math.ceil(seconds * 1000)),)
        if header == "date":
            return ((b"retry-after", formatdate(self._now() + seconds, usegmt=True).encode()),)
        # HTTP knows whole seconds only.
        return ((b"retry-after", b"%d" % math.ceil(seconds)),)

    def _control(self, request: Request) -> Answer:
        match request.method, request.path.removeprefix(CONTROL):
            case "GET", "faults":
                return as_json(200, {"faults": [asdict(fault) for fault in self.script.faults]})
            case "POST", "faults":
                try:
                    said = orjson.loads(request.body)
                    self.order(*read_faults(said["faults"]), seed=int(said.get("seed", 0)))
                except (Misconfigured, KeyError, TypeError, ValueError) as error:
                    return as_json(400, {"error": f'wanted {{"faults": [...], "seed": 0}}: {error}'})
                return as_json(200, {"faults": len(self.script.faults)})
            case "GET", "requests":
                told = [asdict(exchange) for exchange in self.account.exchanges]
                return as_json(200, {"totals": asdict(self.account.totals()), "requests": told})
            case "DELETE", "requests":
                self.account.forget()
                return as_json(200, {})
        return as_json(404, {"error": f"a simulator has no {request.method} {request.path}"})


async def _deliver(answer: Answer, due: Sequence[Fault], scope: Scope, receive: Receive, send: Send) -> None:
    """Send an answer, or as much of it as the faults let through."""
    if _has(due, "cut"):
        transport_of(scope).abort()
        await receive()  # until the server has seen that the connection is gone
    elif _has(due, "truncated"):
        await send_answer(send, answer, part=len(answer.body) // 2)
        transport_of(scope).close()
        await receive()
    else:
        await send_answer(send, answer)


def _has(due: Sequence[Fault], kind: Kind) -> bool:
    return any(fault.kind == kind for fault in due)


def _spoiled(fault: Fault, vectors: Vectors) -> Vectors:
    """Give what a faulty provider would answer in the place of these vectors."""
    rows, labels = vectors.rows, vectors.labels
    match fault.kind:
        case "wrong_order":
            return Vectors(rows=rows[::-1], labels=labels[::-1])
        case "wrong_index":
            return Vectors(rows=rows, labels=[0] * len(labels))
        case "wrong_dimension":
            return Vectors(rows=rows[:, :-1], labels=labels)
        case "missing":
            return Vectors(rows=rows[:-1], labels=labels[:-1])
        case "not_finite":
            rows = rows.copy()
            rows[-1:] = np.nan
            return Vectors(rows=rows, labels=labels)
    return vectors


def _with(answer: Answer, headers: Headers) -> Answer:
    return (
        Answer(status=answer.status, body=answer.body, headers=(*answer.headers, *headers))
        if headers
        else answer
    )
