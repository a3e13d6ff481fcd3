"""Answering the lines of jobs: several in one call of the model, beside requests that people wait for."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from flowbed.embedding.local.priority import unhurried
from flowbed.errors import (
    Error,
    Forbidden,
    Misconfigured,
    NotFound,
    Rejected,
    TooMany,
    Transient,
    Unavailable,
)
from flowbed.services.batches.input_lines import inputs_of
from flowbed.services.batches.output import Outcome
from flowbed.services.inputs import ITEMS_MOST, TOKENS_MOST
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from flowbed.records.serving import Caller, EmbeddingsRequest, EmbeddingsResult
    from flowbed.services.batches.input_lines import Copy, Line
    from flowbed.services.embeddings import Embeddings
    from flowbed.services.models import Models

# Of a model that runs here, one call takes about so many tokens: some tenths of a second on two cores. While requests
# come, it takes fewer than a batch of the local model has (`embedding.batches`), which one core runs, so that there is
# another for them.
LOCAL_INPUTS, LOCAL_TOKENS, BESIDE_TOKENS = 64, 4_096, 256
REMOTE_TOKENS = 64_000
# Numbers of the vectors of one call: as JSON, 20 bytes each, they are in memory at once.
NUMBERS_MOST = 1_000_000
# Calls for jobs that are under way at once: a model that runs here is busy with one.
LOCAL_AT_ONCE, REMOTE_AT_ONCE = 1, 4
# While requests come, a call for a job is followed by a pause of so many times its length, and of so many seconds at
# most: requests then have the machine to themselves for most of the time, and jobs go on all the same.
PAUSE, PAUSE_MOST = 3.0, 1.0
LOOK = 0.005  # s between two looks whether requests still come
# Tries of a call that fails for now, before its lines are tried one by one; seconds before the second, then doubled.
TRIES, WAIT, WAIT_MOST = 4, 1.0, 60.0
SLICE = 5.0  # s of waiting after which is asked whether the job is still wanted
TOGETHER = 32  # lines that are written without letting others have their turn


class Stopped(Exception):  # noqa: N818 - it ends a wait, and is not seen outside
    """The job is over."""


class Wire(Protocol):
    """How requests, answers and errors are worded, so that lines are worded as the route words them."""

    def read(self, body: bytes) -> EmbeddingsRequest:
        """Read the body of a request; raises `Rejected`."""
        ...

    async def write(self, answered: EmbeddingsResult, encoding: str) -> bytes:
        """Write the body of an answer."""
        ...

    def refuse(self, error: Exception, request: str, caller: Caller) -> tuple[int, bytes]:
        """Give status and body of the answer that is an error."""
        ...


class Answers:
    """Answers lines of any job, with the models, cache, limits and quotas that requests have."""

    def __init__(
        self,
        embeddings: Embeddings,
        models: Models,
        wire: Wire,
        *,
        busy: Callable[[], bool],
        monotonic: Callable[[], float],
    ) -> None:
        """Take what answers requests, and how these are worded; `busy` tells whether people wait for theirs."""
        self.wire = wire
        self._embeddings, self._models = embeddings, models
        self._busy, self._monotonic = busy, monotonic
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._took = 0.0  # s that the last call was

    async def next(
        self,
        copy: Copy,
        place: int,
        caller: Caller,
        *,
        job: str,
        model: str,
        over: Callable[[], Awaitable[bool]],
    ) -> list[Outcome]:
        """Answer lines from `place` on, as many as go into one call, each for itself.

        Raises:
            Stopped: the job is over before they are.
        """
        inputs, tokens = self._size(model)
        lines = await asyncio.to_thread(
            copy.block, place, self.wire.read, inputs=inputs, tokens=tokens, most=TOKENS_MOST
        )
        groups: dict[tuple[Any, ...], list[Line]] = {}
        for line in lines:
            groups.setdefault(_kind(line.asked), []).append(line)
        found: dict[int, Outcome] = {}
        for group in groups.values():
            found |= await _Group(self, caller, job=job, over=over).answered(group)
        return [found[line.place] for line in lines]

    async def ask(self, asked: EmbeddingsRequest, caller: Caller) -> EmbeddingsResult:
        """Ask in turn, when requests let it."""
        async with self._turn(asked.model):
            until = self._monotonic() + min(self._took * PAUSE, PAUSE_MOST)
            while self._busy() and self._monotonic() < until:  # noqa: ASYNC110 - it is a count, not an event
                await asyncio.sleep(LOOK)
            begun = self._monotonic()
            try:
                with unhurried():
                    return await self._embeddings.answer(asked, caller)
            finally:
                self._took = self._monotonic() - begun

    def _size(self, model: str) -> tuple[int, int]:
        """Say how many inputs and tokens one call of a model takes."""
        try:
            found = self._models.named(model)
        except NotFound:  # not served any more, which each line is told
            return LOCAL_INPUTS, LOCAL_TOKENS
        items = max(NUMBERS_MOST // found.space.dimensions, 1)
        if found.remote:
            return min(items, ITEMS_MOST), REMOTE_TOKENS
        return min(items, LOCAL_INPUTS), BESIDE_TOKENS if self._busy() else LOCAL_TOKENS

    def _turn(self, name: str) -> asyncio.Semaphore:
        if name not in self._turns:
            try:
                remote = self._models.named(name).remote
            except NotFound:
                remote = False
            self._turns[name] = asyncio.Semaphore(REMOTE_AT_ONCE if remote else LOCAL_AT_ONCE)
        return self._turns[name]


class _Group:
    """Lines of one job that go into one call together, and apart where they fail."""

    def __init__(
        self, answers: Answers, caller: Caller, *, job: str, over: Callable[[], Awaitable[bool]]
    ) -> None:
        self._answers, self._caller = answers, caller
        self._job, self._over = job, over

    async def answered(self, lines: Sequence[Line]) -> dict[int, Outcome]:
        """Find out what becomes of each line, by its place."""
        inputs = [inputs_of(line.asked.input) for line in lines]
        ends = [0, *accumulate(map(len, inputs))]
        together: Any = [each for several in inputs for each in several]  # all texts, or all arrays
        joined = replace(lines[0].asked, input=together)
        try:
            answered = await self._patiently(joined)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, one line may be the cause
            if len(lines) == 1 or isinstance(error, NotFound | Forbidden | Misconfigured):
                return {line.place: self._refused(line, error) for line in lines}
            apart: dict[int, Outcome] = {}
            for some in _apart(lines, ends, error):
                apart |= await self.answered(some)
            return apart
        found: dict[int, Outcome] = {}
        for number, (line, (start, end)) in enumerate(zip(lines, pairwise(ends), strict=True)):
            mine = replace(
                answered,
                vectors=answered.vectors[start:end],
                counts=answered.counts[start:end],
                tokens=sum(answered.counts[start:end]) if answered.counts else answered.tokens // len(lines),
            )
            found[line.place] = await self._told(line, mine)
            if number % TOGETHER == 0:
                await asyncio.sleep(0)
        return found

    async def _patiently(self, asked: EmbeddingsRequest) -> EmbeddingsResult:
        """Ask again where it fails for now: as long as it takes where the provider takes nothing, else a few times."""
        tries = 0
        while True:
            try:
                return await self._answers.ask(asked, self._caller)
            except (TooMany, Unavailable) as error:
                seconds = error.retry_after or WAIT
            except Transient as error:
                tries += 1
                if tries == TRIES:
                    raise
                seconds = error.retry_after or WAIT * 2 ** (tries - 1)
            await self._wait(min(seconds, WAIT_MOST))

    async def _wait(self, seconds: float) -> None:
        while seconds > 0:
            await asyncio.sleep(min(seconds, SLICE))
            seconds -= SLICE
            if await self._over():
                raise Stopped

    async def _told(self, line: Line, answered: EmbeddingsResult) -> Outcome:
        body = await self._answers.wire.write(answered, line.asked.encoding)
        text = written(self._job, line.place, line.name, status=200, body=body)
        return Outcome(text=text, failed=False, tokens=answered.tokens)

    def _refused(self, line: Line, error: Exception) -> Outcome:
        request = request_id(self._job, line.place)
        if not isinstance(error, Error):
            log.error("request %s of job %s failed with %s", request, self._job, type(error).__qualname__)
        status, body = self._answers.wire.refuse(error, request, self._caller)
        return Outcome(text=written(self._job, line.place, line.name, status=status, body=body), failed=True)


def line_id(job: str, place: int) -> str:
    """Make the id of a line's answer: the same whenever it is answered."""
    return f"batch_req_{_digest(job, place)}"


def request_id(job: str, place: int) -> str:
    """Make the id of the request that a line is."""
    return f"req_{_digest(job, place)}"


def written(job: str, place: int, name: str, *, status: int, body: bytes) -> bytes:
    """Write the line that tells what became of one: the answer of the route, error or not."""
    return (
        b'{"id":"%b","custom_id":%b,"response":{"status_code":%d,"request_id":"%b","body":%b},"error":null}\n'
        % (
            line_id(job, place).encode(),
            orjson.dumps(name),
            status,
            request_id(job, place).encode(),
            body,
        )
    )


def undone(job: str, place: int, name: str, *, code: str, message: str) -> bytes:
    """Write the line that tells that one was not got to."""
    line = {
        "id": line_id(job, place),
        "custom_id": name,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _digest(job: str, place: int) -> str:
    return hashlib.sha256(f"{job}/{place}".encode()).hexdigest()[:24]


def _kind(asked: EmbeddingsRequest) -> tuple[Any, ...]:
    """Tell what requests have to have in common to be joined."""
    first = inputs_of(asked.input)[:1]
    return asked.model, asked.dimensions, asked.input_type, type(first[0]) if first else None


def _apart(lines: Sequence[Line], ends: Sequence[int], error: Exception) -> list[Sequence[Line]]:
    """Divide lines that were refused together: those at fault alone where that is known, and else into halves."""
    inputs = error.inputs if isinstance(error, Rejected) else ()
    guilty = {
        number
        for number, (start, end) in enumerate(pairwise(ends))
        if any(start <= at < end for at in inputs)
    }
    if not guilty:
        middle = len(lines) // 2
        return [lines[:middle], lines[middle:]]
    rest = [line for number, line in enumerate(lines) if number not in guilty]
    return [*([rest] if rest else []), *([lines[number]] for number in sorted(guilty))]
