"""The realtime lane: texts to vectors now, each distinct text once, with retries and a limit on requests in flight."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import stamina

from flowbed.embedding.token_counts import share_tokens
from flowbed.embedding.wrappers.billing import billed_to
from flowbed.errors import Error, Rejected, Transient
from flowbed.lanes.budget import Budget, Payment
from flowbed.lanes.outcome import Outcome, Paid
from flowbed.lanes.retries import ATTEMPTS, TOLD_MOST, WAIT_FIRST, WAIT_MOST, wait
from flowbed.telemetry import PROGRESS, RETRIED, reached

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from flowbed.embedding import Embedder
    from flowbed.embedding.cache.cached import Cached
    from flowbed.records import Embedded

NOT_PLANNED: Final = MappingProxyType[str, int]({})


class Tier(Protocol):
    """Somewhere that vectors may already be, by text_hash: the index."""

    async def get_many(self, hashes: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        """Read the vectors of those hashes that are there."""
        ...


async def embed(
    texts: Mapping[str, str],
    *,
    embedder: Cached,
    index: Tier | None,
    concurrency: int,
    budget: Budget | None = None,
    planned: Mapping[str, int] = NOT_PLANNED,
) -> Outcome:
    """Find or make the vector of every text (by text_hash); one that cannot be embedded never stops the others.

    `planned` are the tokens that each was counted to have. With a budget, a request that would pass it is cut to the
    texts that still fit, and no other is sent.

    Raises:
        Misconfigured: no request can succeed until a setting changes; what was embedded is kept.
    """
    outcome = Outcome()
    by_text = {text: key for key, text in texts.items()}
    for text, vector in (await embedder.lookup(list(by_text), purpose="document")).items():
        outcome.vectors[by_text[text]] = vector
    missing = [key for key in texts if key not in outcome.vectors]
    if missing and index is not None:
        outcome.vectors.update(await index.get_many(missing))
    # Texts of like length share a request, so that little of it is padding.
    todo = sorted(
        (key for key in missing if key not in outcome.vectors), key=lambda key: (len(texts[key]), key)
    )
    reached(PROGRESS, stage="embed", done=len(texts) - len(todo))
    limit = asyncio.Semaphore(concurrency)
    lane = _Lane(texts, planned, embedder, outcome, budget)

    async def request(keys: Sequence[str]) -> None:
        async with limit:
            await lane.request(keys)
        reached(PROGRESS, stage="embed", done=len(keys))

    parts = await embedder.parts([texts[key] for key in todo], purpose="document")
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(request(todo[part]))
    except ExceptionGroup as several:
        # Of requests that failed together one says what to do; the others were cancelled or say the same.
        raise several.exceptions[0] from several
    return outcome


@dataclass(frozen=True)
class _Lane:
    """What the requests for some texts have in common."""

    texts: Mapping[str, str]
    planned: Mapping[str, int]
    embedder: Cached
    outcome: Outcome
    budget: Budget | None

    async def request(self, keys: Sequence[str]) -> None:
        """Embed the texts of `keys`, narrowing a refusal down to the texts that caused it."""
        waiting = [list(keys)]
        while waiting:
            some = waiting.pop()
            if self.outcome.put_off:
                self.outcome.held.update(some)
            else:
                waiting += await self._paid(some)

    async def _paid(self, keys: list[str]) -> list[list[str]]:
        """Embed as many of the texts of `keys`, in order, as the budget allows; return what is to be tried apart."""
        sizes = await self._sizes(keys)
        costs = [size * self.embedder.price / 1e6 for size in sizes]
        budget = self.budget or Budget()
        fitting = budget.reserve(costs)
        self.outcome.held.update(keys[fitting:])
        if not fitting:
            return []
        some, payment, billed = keys[:fitting], Payment(budget, costs[:fitting]), 0
        try:
            answer = await _call([self.texts[key] for key in some], self.embedder, payment)
            billed = answer.tokens
            _keep(some, answer, self.planned, self.outcome)
        except Transient as error:
            self._failed(some, error, payment)
        except Rejected as error:
            return self._apart(some, error)
        finally:
            payment.settle(billed * self.embedder.price / 1e6)
            self.outcome.perhaps_billed += payment.lost * sizes[:fitting]
        return []

    async def _sizes(self, keys: Sequence[str]) -> list[int]:
        """Tell the tokens that each text will be billed with: as they were planned, unless a budget hangs on it."""
        if self.budget is None or self.budget.limit_usd == inf:
            return [self.planned.get(key, 0) for key in keys]
        embedder, texts = self.embedder, [self.texts[key] for key in keys]
        return await asyncio.to_thread(lambda: [embedder.bill(text, embedder.count(text)) for text in texts])

    def _failed(self, keys: Sequence[str], error: Transient, payment: Payment) -> None:
        """Note that texts have no vectors for now: for want of money, or since the provider does not answer."""
        if later := _put_off(error):
            self.outcome.put_off = later
        if payment.refused:
            self.outcome.held.update(keys)
        else:
            self.outcome.failures.update(dict.fromkeys(keys, ("transient", str(error))))

    def _apart(self, keys: list[str], error: Rejected) -> list[list[str]]:
        """Note which texts were refused, as far as that is known, and return the others in parts to be tried apart."""
        guilty = {keys[at] for at in error.inputs if 0 <= at < len(keys)}
        if len(keys) == 1:
            guilty = set(keys)
        self.outcome.failures.update(dict.fromkeys(guilty, ("rejected", str(error))))
        rest = [key for key in keys if key not in guilty]
        # Where the provider does not say which text it refuses, halving finds it in few requests.
        middle = len(rest) if guilty else len(rest) // 2
        return [part for part in (rest[:middle], rest[middle:]) if part]


def _keep(keys: Sequence[str], answer: Embedded, planned: Mapping[str, int], outcome: Outcome) -> None:
    """Note what a request brought, and what each of its texts has cost."""
    # A vector without direction is found by no search, and one with a hole in it spoils the delta it is in.
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(answer.vectors.astype(np.float64), axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    for key, vector, good in zip(keys, answer.vectors, usable, strict=True):
        if good:
            outcome.vectors[key] = vector
        else:
            outcome.failures[key] = ("rejected", "the model answered no usable vector for this text")
    outcome.truncated.update(keys[at] for at in answer.truncated)
    sizes = [planned.get(key, 0) for key in keys]
    for key, size, billed in zip(keys, sizes, _billed(answer, sizes), strict=True):
        outcome.paid[key] = Paid(size, billed)


def _billed(answer: Embedded, sizes: Sequence[int]) -> Sequence[int]:
    """Divide what a request was billed with among its texts: providers tell it for all of them together."""
    if sum(answer.counts) == answer.tokens and answer.counts:
        return answer.counts
    return share_tokens(answer.tokens, sizes) if answer.tokens else [0] * len(sizes)


def _put_off(error: Transient) -> str:
    """Say why nothing more is to be sent in this run; nothing where it may be."""
    if error.retry_after is None or error.retry_after <= TOLD_MOST:
        return ""
    return f"{error}; it is to be asked again in {error.retry_after / 60:.0f} minutes"


async def _call(texts: Sequence[str], embedder: Embedder, payment: Payment) -> Embedded:
    """Ask until there is an answer, a few times; what may be billed each time is paid each time."""
    tries = count(1)

    def again(error: Exception) -> bool | float:
        if not isinstance(error, Transient) or not payment.reserve():
            return False
        reached(RETRIED, reason=str(error))
        return wait(error, next(tries))

    async for attempt in stamina.retry_context(
        on=again, attempts=ATTEMPTS, timeout=None, wait_initial=WAIT_FIRST, wait_max=WAIT_MOST
    ):
        with attempt:
            return await _ask(texts, embedder, payment)
    raise AssertionError("unreachable: the last attempt raises")


async def _ask(texts: Sequence[str], embedder: Embedder, payment: Payment) -> Embedded:
    """Ask once, and pay for what may be billed though it brings nothing."""
    payment.send()
    try:
        with billed_to(payment):
            return await embedder.embed(texts, purpose="document")
    except Error as error:
        if error.perhaps_billed:
            payment.lose()
        raise
    except asyncio.CancelledError:
        payment.lose()
        raise
