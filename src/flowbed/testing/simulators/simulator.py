"""A simulated provider: a plain ASGI application with rate limits, faults on demand and an account of its requests.

Beside the vendor's own paths it has `/_simulator/faults` (GET returns the faults in force, POST
`{"faults": [...], "seed": 0}` replaces them), `/_simulator/requests` (GET returns the requests received, DELETE
resets them), `/_simulator/billed-again` (GET returns the texts that were billed more than once) and
`/_simulator/time` (POST `{"seconds": 3600}` advances the clock). Every answer carries `X-Flowbed-Simulator: 1`.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.testing.simulators.account import Account, Exchange
from flowbed.testing.simulators.answering import answers
from flowbed.testing.simulators.faults import OF_INDICES, OF_JOBS, Fault, Script
from flowbed.testing.simulators.limits import Buckets, Limits, in_the_way
from flowbed.testing.simulators.serving.asgi import read_request, send_answer, transport_of
from flowbed.testing.simulators.serving.control import CONTROL, control
from flowbed.testing.simulators.vectors import vectors_of
from flowbed.testing.simulators.wire import (
    Answer,
    Call,
    Operation,
    OperationContext,
    Refusal,
    Stream,
    VendorError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from flowbed.testing.simulators.faults import Kind
    from flowbed.testing.simulators.serving.asgi import Receive, Scope, Send
    from flowbed.testing.simulators.vectors import MakeVectors
    from flowbed.testing.simulators.wire import Api, Headers, Reason, Request


# Faults answered instead of vectors, with an error of the vendor or of something in front of it.
REASONS: dict[Kind, Reason] = {
    "rate_limited": "rate_limited",
    "quota": "quota",
    "error": "error",
    "gateway": "error",
}
TOO_MANY = 429
GARBAGE = b"upstream said: "
GATEWAY_PAGE = (
    b"<html>\r\n<head><title>%d</title></head>\r\n<body><center><h1>%d</h1></center></body>\r\n</html>\r\n"
)


class Simulator:
    """One simulated provider; `script` contains its faults."""

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
        """Answer as `api` does; `clock` drives the rate limits, `now` dates a Retry-After, `sleep` waits."""
        self.api = api
        self.script = Script()
        self._account = Account()
        self._ahead = 0.0
        self._buckets = Buckets(limits or Limits(), self._clock)
        self._vectors = vectors
        self._sources = clock, now
        self._sleep = sleep
        self._doing = threading.Lock()
        self.order(*faults, seed=seed)

    @property
    def account(self) -> Account:
        """What it received, and what that has cost so far."""
        with self._doing:
            self._settle(self._now())
        return self._account

    def advance(self, seconds: float) -> None:
        """Advance the clock: jobs proceed, rate limits refill, files expire."""
        self._ahead += seconds

    def _clock(self) -> float:
        return self._sources[0]() + self._ahead

    def _now(self) -> float:
        return self._sources[1]() + self._ahead

    def _settle(self, now: float) -> None:
        """End the jobs whose time has come."""
        if self.api.jobs:
            for call in self.api.jobs.settle(now):
                self._account.bill_job(call)

    def order(self, *faults: Fault, seed: int = 0) -> None:
        """Replace the faults, and count from 1 again.

        Raises:
            Misconfigured: a fault is of indices or of jobs, and the vendor has none.
        """
        if self.api.positional and any(fault.kind in OF_INDICES for fault in faults):
            raise Misconfigured(
                f"{self.api.name} answers without an index: no client could notice {' or '.join(sorted(OF_INDICES))}; "
                "order another fault"
            )
        if self.api.jobs is None and any(fault.kind in OF_JOBS for fault in faults):
            raise Misconfigured(
                f"the simulator of {self.api.name} has no jobs, so {', '.join(sorted(OF_JOBS))} cannot apply; "
                "order another fault"
            )
        self.script.order(*faults, seed=seed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        if scope["type"] != "http":
            raise NotImplementedError(
                f"a simulator knows no {scope['type']}"
            )  # as the ASGI specification requires
        request = await read_request(scope, receive)
        if request is None:
            return
        if request.path.startswith(CONTROL):
            await send_answer(send, control(self, request))
            return
        try:
            read = self.api.read(request)
        except VendorError as error:
            read = error.answer
        call = read if isinstance(read, Call) else None
        job = read.job if isinstance(read, Operation) else None
        asked = call or job
        due = self.script.due(
            request.path,
            asked.model if asked else "",
            asked.texts if asked else (),
            makes_job=job is not None,
        )
        key = self.api.key(request)
        answer, billed = None, 0
        self._account.begin(call)
        try:
            if await self._pass(due, len(call.texts) if call else 0, receive):
                answer, billed = await self._answer(request, key, read, due)
        finally:
            # Recorded before the answer is sent: a client that has its answer finds it in the account.
            exchange = Exchange(
                method=request.method,
                path=request.path,
                key=key,
                model=asked.model if asked else "",
                input_type=call.input_type if call else "",
                texts=call.texts if call else (),
                status=0 if answer is None or _has(due, "cut") else answer.status,
                billed=billed,
                faults=[fault.kind for fault in due],
            )
            self._account.end(exchange, call)
        if answer is not None:
            await _deliver(answer, due, scope, receive, send)

    async def _pass(self, due: Sequence[Fault], texts: int, receive: Receive) -> bool:
        """Wait for delays; False if the client disconnected."""
        delay = sum(fault.delay + fault.delay_per_text * texts for fault in due if fault.kind not in OF_JOBS)
        if not delay:
            return True
        waiting = asyncio.ensure_future(self._sleep(delay))
        # After a whole request, the only other message is that the client disconnected.
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.done()
        finally:
            waiting.cancel()
            gone.cancel()

    async def _answer(
        self, request: Request, key: str, read: Call | Answer | Operation, due: Sequence[Fault]
    ) -> tuple[Answer | Stream, int]:
        """Carry out a request, unless a fault or a rate limit prevents it; also return the billed tokens."""
        call = read if isinstance(read, Call) else None
        for fault in due:
            if fault.kind in REASONS:
                return self._refuse(request, call, fault), 0
        if isinstance(
            read, Operation
        ):  # these have their own limits, and take long if they create a large job
            done = await asyncio.to_thread(self._do, read, request, key, due)
            return _garbled_file(done, due) if isinstance(done, Stream) else _garbled(done, due), 0
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
            return _with(answer, self.api.standing(rooms)), 0
        if isinstance(read, Answer):
            return _with(read, self.api.standing(rooms)), 0
        (made,) = answers(self.api, self._vectors, [read], due)
        return _with(_garbled(made, due), self.api.standing(rooms)), read.tokens

    def _do(self, operation: Operation, request: Request, key: str, due: Sequence[Fault]) -> Answer | Stream:
        """Carry out a request about files or jobs, one at a time."""
        with self._doing:
            now = self._now()  # read once: a job that ends later than the answer says has no files yet
            self._settle(now)
            context = OperationContext(
                key=key,
                now=now,
                due=due,
                chance=self.script.chance,
                answers=partial(answers, self.api, self._vectors),
                refuse=partial(self.api.refuse, request=request),
            )
            try:
                return operation.do(context)
            except VendorError as error:
                return error.answer

    def _refuse(self, request: Request, call: Call | None, fault: Fault) -> Answer:
        retry = self._retry(fault.retry_after, fault.retry_header)
        if fault.kind == "gateway":
            page = GATEWAY_PAGE % (fault.status, fault.status)
            return Answer(status=fault.status, body=page, headers=((b"content-type", b"text/html"), *retry))
        refusal = Refusal(
            reason=REASONS[fault.kind],
            status=fault.status if fault.kind == "error" else TOO_MANY,
            retry_after=fault.retry_after,
            call=call,
        )
        return _with(self.api.refuse(refusal, request), retry)

    def _retry(self, seconds: float | None, header: str = "seconds") -> Headers:
        if seconds is None or header == "none":
            return ()
        if header == "milliseconds":
            return ((b"retry-after-ms", b"%d" % math.ceil(seconds * 1000)),)
        if header == "date":
            return ((b"retry-after", formatdate(self._now() + seconds, usegmt=True).encode()),)
        # HTTP allows whole seconds only.
        return ((b"retry-after", b"%d" % math.ceil(seconds)),)


async def _deliver(
    answer: Answer | Stream, due: Sequence[Fault], scope: Scope, receive: Receive, send: Send
) -> None:
    """Send an answer, or as much of it as the faults allow."""
    if _has(due, "cut"):
        transport_of(scope).abort()
        await receive()  # until the server has noticed the closed connection
    elif _has(due, "truncated"):
        await send_answer(send, answer, half=True)
        transport_of(scope).close()
        await receive()
    else:
        await send_answer(send, answer)


def _has(due: Sequence[Fault], kind: Kind) -> bool:
    return any(fault.kind == kind for fault in due)


def _garbled(answer: Answer, due: Sequence[Fault]) -> Answer:
    """Replace an answer by invalid JSON, if a fault says so."""
    if not _has(due, "garbled"):
        return answer
    return Answer(status=answer.status, body=GARBAGE + answer.body[: len(answer.body) // 2])


def _garbled_file(answer: Stream, due: Sequence[Fault]) -> Stream:
    if not _has(due, "garbled"):
        return answer
    return replace(answer, content=answer.content.part(answer.content.size // 2).after(GARBAGE))


def _with(answer: Answer, headers: Headers) -> Answer:
    return replace(answer, headers=(*answer.headers, *headers)) if headers else answer
