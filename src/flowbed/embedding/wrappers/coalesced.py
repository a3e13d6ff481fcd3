"""Joins calls that arrive while the embedder is busy into one, so that a model works on many texts at once."""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import copy_context
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from flowbed import telemetry
from flowbed.embedding.local.priority import BACKGROUND
from flowbed.embedding.token_counts import estimate_tokens, share_tokens
from flowbed.embedding.unicode import require_unicode
from flowbed.embedding.wrappers import Wrapper, copy_error
from flowbed.errors import Misconfigured, Rejected, TooMany, Transient, Unavailable
from flowbed.records import Embedded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.embedding import Embedder
    from flowbed.records import Purpose

# Most texts of a call that counts as interactive; larger calls can wait.
INTERACTIVE = 8
# Kinds of calls, in the order in which they are sent; the last is background work.
SMALL, LARGE, BACKGROUND_KIND = KINDS = (0, 1, 2)

# Joined calls in a row that may overtake a waiting large or background call; then it goes first once, so that it ends.
MAX_PASSED_OVER = 4

# Callers in a row that fail with a transient error when sent separately: then the embedder is at fault, and the rest
# need not try.
FAILURES = 2


class Coalesced(Wrapper):
    """An embedder that is called with the texts of several calls at once.

    A call that finds the embedder free is sent at once; those that arrive while it works go together afterwards. Small
    calls go first, then large ones in parts, then background work. Each call is answered whole or not at all, and none
    fails because of another's texts. Used from one event loop.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        items: int = 0,
        tokens: int = 0,
        at_once: int = 1,
        separate_kinds: bool = False,
    ) -> None:
        """Join at most `items` texts and about `tokens` tokens, and have `at_once` joined calls in flight.

        0 means the embedder's own limit. With `separate_kinds`, small, large and background calls are each joined only
        with their kind, and `at_once` of each are in flight: for an embedder that uses all cores for every call, where
        a small call beside another slows down both and leaves fewer texts to join.
        """
        super().__init__(embedder)
        self._most_items = items or embedder.items
        self._most_tokens = tokens or embedder.tokens
        self._at_once = at_once
        self._separate_kinds = separate_kinds
        self._numbers = count()
        self._queues: dict[tuple[int, Purpose], deque[_QueuedCall]] = {}
        self._running: dict[asyncio.Task[None], Sequence[_Part]] = {}
        self._times_passed_over = 0

    @property
    def waiting(self) -> int:
        """The number of texts that wait for the embedder."""
        return sum(call.left for queue in self._queues.values() for call in queue if not call.answer.done())

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none, together with those of other calls.

        Raises:
            Transient, Rejected, Misconfigured: as the embedder does; `inputs` are positions in this call.
        """
        require_unicode(texts)
        if not texts:
            return Embedded(vectors=np.empty((0, self.space.dimensions), dtype=np.float32))
        kind = BACKGROUND_KIND if BACKGROUND.get() else LARGE if len(texts) > INTERACTIVE else SMALL
        answer = asyncio.get_running_loop().create_future()
        call = _QueuedCall(number=next(self._numbers), kind=kind, texts=texts, answer=answer)
        self._queues.setdefault((kind, purpose), deque()).append(call)
        self._send()
        try:
            return await call.answer
        except BaseException as error:
            # Other parts of this call can only be in flight if it was split.
            if call.parts > 1 or isinstance(error, asyncio.CancelledError):
                self._cancel_abandoned()
            raise

    def _cancel_abandoned(self) -> None:
        """Cancel the embedder's calls that have no caller left."""
        for task, parts in self._running.items():
            if all(part.call.answer.done() for part in parts):
                task.cancel()

    def _send(self) -> None:
        """Send waiting texts while the embedder is free."""
        while kinds := self._free_kinds():
            parts, purpose = self._next_batch(kinds)
            if not parts:
                return
            context = copy_context()
            # The current context may be that of another call, whose end led here.
            context.run(BACKGROUND.set, all(part.call.kind == BACKGROUND_KIND for part in parts))
            task = asyncio.create_task(self._run(parts, purpose), context=context)
            self._running[task] = parts
            task.add_done_callback(self._done)

    def _free_kinds(self) -> list[int]:
        """Return the kinds of calls for which the embedder is free."""
        if not self._separate_kinds:
            return list(KINDS) if len(self._running) < self._at_once else []
        running = [parts[0].call.kind for parts in self._running.values()]
        return [kind for kind in KINDS if running.count(kind) < self._at_once]

    def _done(self, task: asyncio.Task[None]) -> None:
        parts = self._running.pop(task)
        error = None if task.cancelled() else task.exception()
        for part in parts:
            # Only the end of the loop, or a bug, leaves a part without an answer.
            if part.start not in part.call.found:
                part.call.fail(error or Transient("the call was cut off; try again"))
        self._send()

    def _next_batch(self, kinds: list[int]) -> tuple[list[_Part], Purpose]:
        """Take the next texts from the queues: all of one purpose, small calls before large ones."""
        waiting = {
            key: head
            for key, queue in self._queues.items()
            if key[0] in kinds and (head := _head(queue)) is not None
        }
        oldest = min(
            (call for (kind, _), call in waiting.items() if kind != SMALL), key=_number, default=None
        )
        if oldest is not None and self._times_passed_over >= MAX_PASSED_OVER:
            kinds = sorted(kinds, key=lambda kind: kind != oldest.kind)
        order = sorted(waiting, key=lambda key: (kinds.index(key[0]), waiting[key].number))
        purpose: Purpose = order[0][1] if order else "document"
        if self._separate_kinds:
            kinds = [kind for kind, _ in order[:1]]
        parts: list[_Part] = []
        room = _Room(self._most_items, self._most_tokens)
        for kind in kinds:
            queue = self._queues.get((kind, purpose), deque())
            while (call := _head(queue)) is not None and (part := call.next(room)) is not None:
                parts.append(part)
        passed_over = oldest is not None and all(part.call is not oldest for part in parts)
        self._times_passed_over = self._times_passed_over + 1 if passed_over else 0
        return parts, purpose

    async def _run(self, parts: Sequence[_Part], purpose: Purpose) -> None:
        """Embed parts of calls together; if that fails, find out whose texts are at fault."""
        telemetry.reached(telemetry.COALESCED, texts=sum(len(part.texts) for part in parts), calls=len(parts))
        while parts:
            try:
                await self._embed(parts, purpose)
            except Rejected as error:
                innocent = _not_refused(parts, error)
                if len(innocent) == len(parts):
                    return await self._embed_separately(parts, purpose)
                parts = [part for part in innocent if not part.call.answer.done()]
                continue
            except (Misconfigured, TooMany, Unavailable) as error:
                return _fail(parts, error)
            except Exception as error:  # noqa: BLE001 - one text may be the cause
                if len(parts) > 1:
                    return await self._embed_separately(parts, purpose)
                return _fail(parts, error)
            return None
        return None

    async def _embed_separately(self, parts: Sequence[_Part], purpose: Purpose) -> None:
        """Embed parts one by one, so that each has its own outcome."""
        failures = 0
        for place, part in enumerate(parts):
            if part.call.answer.done():
                continue
            try:
                await self._embed([part], purpose)
            except Rejected as error:
                _not_refused([part], error)
            except Exception as error:  # noqa: BLE001 - the failure is this call's
                part.call.fail(error)
                failures += 1
                if failures == FAILURES and isinstance(error, Transient):
                    return _fail(parts[place + 1 :], error)
                continue
            failures = 0
        return None

    async def _embed(self, parts: Sequence[_Part], purpose: Purpose) -> None:
        """Embed parts together, and give each call its share of the answer."""
        texts = [text for part in parts for text in part.texts]
        answer = await self._embedder.embed(texts, purpose=purpose)
        counts = answer.counts
        if not counts and len(parts) > 1:
            counts = share_tokens(answer.tokens, [self.count(text) for text in texts])
        start = 0
        for part in parts:
            rows = slice(start, start + len(part.texts))
            part.call.take(
                part,
                Embedded(
                    vectors=answer.vectors[rows],
                    tokens=sum(counts[rows]) if counts else answer.tokens,
                    truncated=tuple(at - start for at in answer.truncated if rows.start <= at < rows.stop),
                    counts=tuple(counts[rows]),
                    cached=answer.cached if len(parts) == 1 else 0,
                    provider=answer.provider,
                ),
            )
            start = rows.stop


class _Room:
    """The room left in a joined call."""

    def __init__(self, items: int, tokens: int) -> None:
        self.items = items
        self.tokens = tokens
        self.fresh = True

    def take(self, size: int) -> bool:
        """Take room for a text of about `size` tokens, return whether there was some; the first text always fits."""
        if not self.items or (size > self.tokens and not self.fresh):
            return False
        self.items -= 1
        self.tokens -= size
        self.fresh = False
        return True


@dataclass(eq=False)
class _QueuedCall:
    """One caller's texts, and the answers so far."""

    number: int
    kind: int
    texts: Sequence[str]
    answer: asyncio.Future[Embedded]
    sent: int = 0
    parts: int = 0
    found: dict[int, Embedded] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """The number of texts not sent yet."""
        return len(self.texts) - self.sent

    def next(self, room: _Room) -> _Part | None:
        """Take the next texts that fit into `room`; None if none does."""
        start, end = self.sent, self.sent
        while end < len(self.texts) and room.take(estimate_tokens(self.texts[end])):
            end += 1
        if end == start:
            return None
        self.sent = end
        self.parts += 1
        return _Part(call=self, start=start, texts=self.texts[start:end])

    def take(self, part: _Part, found: Embedded) -> None:
        """Store the answer for a part; the last one completes the call."""
        self.found[part.start] = found
        if self.answer.done() or sum(len(each.vectors) for each in self.found.values()) < len(self.texts):
            return
        self.answer.set_result(_joined([(start, self.found[start]) for start in sorted(self.found)]))

    def fail(self, error: BaseException) -> None:
        """Fail the call, unless it is answered."""
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some texts of a call, beginning at `start`."""

    call: _QueuedCall
    start: int
    texts: Sequence[str]


def _head(queue: deque[_QueuedCall]) -> _QueuedCall | None:
    """Return the first call with texts to send; drop those before it."""
    while queue:
        if queue[0].left and not queue[0].answer.done():
            return queue[0]
        queue.popleft()
    return None


def _number(call: _QueuedCall) -> int:
    return call.number


def _not_refused(parts: Sequence[_Part], error: Rejected) -> list[_Part]:
    """Fail the calls whose texts were refused, return the parts of the others: all if the error names no text."""
    innocent = []
    start = 0
    for part in parts:
        end = start + len(part.texts)
        inputs = [part.start + at - start for at in error.inputs if start <= at < end]
        if inputs or len(parts) == 1:
            part.call.fail(Rejected(str(error), inputs=inputs, param=error.param, code=error.code))
        else:
            innocent.append(part)
        start = end
    return innocent


def _fail(parts: Sequence[_Part], error: Exception) -> None:
    for part in parts:
        part.call.fail(copy_error(error))


def _joined(found: Sequence[tuple[int, Embedded]]) -> Embedded:
    """Join the answers for a call's parts, in order, each with its start."""
    if len(found) == 1:
        return found[0][1]
    answers = [answer for _, answer in found]
    counted = all(answer.counts for answer in answers)
    return Embedded(
        vectors=np.concatenate([answer.vectors for answer in answers]),
        tokens=sum(answer.tokens for answer in answers),
        truncated=tuple(start + at for start, answer in found for at in answer.truncated),
        counts=tuple(tokens for answer in answers for tokens in answer.counts) if counted else (),
        cached=sum(answer.cached for answer in answers),
        provider=answers[-1].provider,
    )
