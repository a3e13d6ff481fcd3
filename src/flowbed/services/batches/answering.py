"""Embedding the lines of jobs: several lines in one call of the model, giving way to interactive requests."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Protocol

from flowbed.embedding.local.priority import background
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
from flowbed.services.batches.output import LineOutcome, answered_line, request_id
from flowbed.services.embedding.inputs import ITEMS_MOST, TOKENS_MOST
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from flowbed.records.serving import Caller, EmbeddingsRequest, EmbeddingsResult
    from flowbed.services.batches.input_lines import InputLine, LocalCopy
    from flowbed.services.embedding.embeddings import EmbeddingService
    from flowbed.services.models import Models

# Inputs and tokens of one call of a local model: some tenths of a second on two cores. While interactive requests come,
# a call takes fewer tokens than one batch of the local model, which runs on one core, so that another core is left for
# them.
LOCAL_INPUTS, LOCAL_TOKENS, BESIDE_TOKENS = 64, 4_096, 256
REMOTE_TOKENS = 64_000
# Numbers in the vectors of one call: all of them are in memory as JSON, 20 bytes each.
NUMBERS_MOST = 1_000_000
# Concurrent calls for jobs: a local model is busy with one.
LOCAL_AT_ONCE, REMOTE_AT_ONCE = 1, 4
# While interactive requests come, pause after each call for PAUSE times its duration, PAUSE_MOST seconds at most, so
# that requests have the machine to themselves most of the time and jobs still proceed.
PAUSE, PAUSE_MOST = 3.0, 1.0
LOOK = 0.005  # s between two checks whether interactive requests still come
# Attempts of a call that fails transiently before its lines are tried separately; seconds before the second attempt,
# then doubled.
TRIES, WAIT, WAIT_MOST = 4, 1.0, 60.0
SLICE = 5.0  # s of waiting between two checks whether the job is still wanted
TOGETHER = 32  # lines written before other tasks get a turn


class JobStopped(Exception):  # noqa: N818 - it ends a wait, and is not seen outside
    """The job has ended or yields."""


class LineCodec(Protocol):
    """How requests, responses and errors are written, so that lines read like responses of the route."""

    def read(self, body: bytes) -> EmbeddingsRequest:
        """Parse the body of a request; raises `Rejected`."""
        ...

    async def write(self, result: EmbeddingsResult, encoding: str) -> bytes:
        """Write the body of a response."""
        ...

    def refuse(self, error: Exception, request: str, caller: Caller) -> tuple[int, bytes]:
        """Return the status and body of the response to an error."""
        ...


class LineEmbedder:
    """Embeds lines of any job with the models, cache, limits and quotas of interactive requests."""

    def __init__(
        self,
        embeddings: EmbeddingService,
        models: Models,
        wire: LineCodec,
        *,
        busy: Callable[[], bool],
        monotonic: Callable[[], float],
    ) -> None:
        """Use the service that answers requests; `busy` tells whether interactive requests are waiting."""
        self.wire = wire
        self._embeddings, self._models = embeddings, models
        self._busy, self._monotonic = busy, monotonic
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._took = 0.0  # s that the last call took

    async def next(
        self,
        copy: LocalCopy,
        place: int,
        caller: Caller,
        *,
        job: str,
        model: str,
        over: Callable[[], Awaitable[bool]],
    ) -> list[LineOutcome]:
        """Answer as many lines from `place` on as fit into one call.

        Raises:
            JobStopped: the job ended or yields first.
        """
        inputs, tokens = self._size(model)
        lines = await asyncio.to_thread(
            copy.block, place, self.wire.read, inputs=inputs, tokens=tokens, most=TOKENS_MOST
        )
        groups: dict[tuple[Any, ...], list[InputLine]] = {}
        for line in lines:
            groups.setdefault(_group_key(line.request), []).append(line)
        found: dict[int, LineOutcome] = {}
        for group in groups.values():
            found |= await _LineGroup(self, caller, job=job, over=over).answered(group)
        return [found[line.place] for line in lines]

    async def ask(self, request: EmbeddingsRequest, caller: Caller) -> EmbeddingsResult:
        """Wait for a turn and for a pause in interactive requests, then embed."""
        async with self._turn(request.model):
            until = self._monotonic() + min(self._took * PAUSE, PAUSE_MOST)
            while self._busy() and self._monotonic() < until:  # noqa: ASYNC110 - it is a count, not an event
                await asyncio.sleep(LOOK)
            begun = self._monotonic()
            try:
                with background():
                    return await self._embeddings.answer(request, caller)
            finally:
                self._took = self._monotonic() - begun

    def _size(self, model: str) -> tuple[int, int]:
        """Return how many inputs and tokens one call of a model takes."""
        try:
            found = self._models.named(model)
        except NotFound:  # no longer served; each line reports it
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


class _LineGroup:
    """Lines of one job that are embedded in one call, and separately if it fails."""

    def __init__(
        self, embedder: LineEmbedder, caller: Caller, *, job: str, over: Callable[[], Awaitable[bool]]
    ) -> None:
        self._embedder, self._caller = embedder, caller
        self._job, self._over = job, over

    async def answered(self, lines: Sequence[InputLine]) -> dict[int, LineOutcome]:
        """Return the outcome of each line by its place."""
        inputs = [inputs_of(line.request.input) for line in lines]
        ends = [0, *accumulate(map(len, inputs))]
        together: Any = [each for several in inputs for each in several]  # all texts, or all token arrays
        joined = replace(lines[0].request, input=together)
        try:
            result = await self._embed_with_retries(joined)
        except JobStopped:
            raise
        except Exception as error:  # noqa: BLE001 - one line may be the cause of any error
            if len(lines) == 1 or isinstance(error, NotFound | Forbidden | Misconfigured):
                return {line.place: self._refusal(line, error) for line in lines}
            outcomes: dict[int, LineOutcome] = {}
            for some in _split(lines, ends, error):
                outcomes |= await self.answered(some)
            return outcomes
        found: dict[int, LineOutcome] = {}
        for number, (line, (start, end)) in enumerate(zip(lines, pairwise(ends), strict=True)):
            mine = replace(
                result,
                vectors=result.vectors[start:end],
                counts=result.counts[start:end],
                tokens=sum(result.counts[start:end]) if result.counts else result.tokens // len(lines),
            )
            found[line.place] = await self._outcome(line, mine)
            if number % TOGETHER == 0:
                await asyncio.sleep(0)
        return found

    async def _embed_with_retries(self, request: EmbeddingsRequest) -> EmbeddingsResult:
        """Embed with retries: a few after a transient error, without limit while the provider is overloaded or down."""
        tries = 0
        while True:
            try:
                return await self._embedder.ask(request, self._caller)
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
                raise JobStopped

    async def _outcome(self, line: InputLine, result: EmbeddingsResult) -> LineOutcome:
        body = await self._embedder.wire.write(result, line.request.encoding)
        text = answered_line(self._job, line.place, line.name, status=200, body=body)
        return LineOutcome(text=text, failed=False, tokens=result.tokens)

    def _refusal(self, line: InputLine, error: Exception) -> LineOutcome:
        request = request_id(self._job, line.place)
        if not isinstance(error, Error):
            log.error("request %s of job %s failed with %s", request, self._job, type(error).__qualname__)
        status, body = self._embedder.wire.refuse(error, request, self._caller)
        return LineOutcome(
            text=answered_line(self._job, line.place, line.name, status=status, body=body), failed=True
        )


def _group_key(request: EmbeddingsRequest) -> tuple[Any, ...]:
    """Return what requests must have in common to be joined in one call."""
    first = inputs_of(request.input)[:1]
    return request.model, request.dimensions, request.input_type, type(first[0]) if first else None


def _split(lines: Sequence[InputLine], ends: Sequence[int], error: Exception) -> list[Sequence[InputLine]]:
    """Split lines that were refused together: faulty lines alone where the error names them, otherwise halves."""
    inputs = error.inputs if isinstance(error, Rejected) else ()
    faulty = {
        number
        for number, (start, end) in enumerate(pairwise(ends))
        if any(start <= at < end for at in inputs)
    }
    if not faulty:
        middle = len(lines) // 2
        return [lines[:middle], lines[middle:]]
    rest = [line for number, line in enumerate(lines) if number not in faulty]
    return [*([rest] if rest else []), *([lines[number]] for number in sorted(faulty))]
