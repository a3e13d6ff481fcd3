"""The realtime lane: texts to vectors now, each distinct text once, with retries and a limit on requests in flight."""

from __future__ import annotations

import asyncio
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import stamina

from flowbed.embedding.usage import shares
from flowbed.errors import Rejected, TooMany, Transient
from flowbed.lanes.outcome import Outcome, Paid
from flowbed.telemetry import PROGRESS, RETRIED, reached

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from flowbed.embedding import Embedder
    from flowbed.embedding.cache import Cached
    from flowbed.lanes.budget import Budget
    from flowbed.records import Embedded

ATTEMPTS = 6  # with the waits below about half a minute: longer outages are for the next run
WAIT_FIRST, WAIT_MOST = 0.5, 20.0  # seconds
# Rate limits are by the minute: the waits of those who were asked too often, and did not say for how long, are so many
# times as long, and together more than that.
TOO_OFTEN = 8
# Seconds that are waited because the other side says so: limits by the minute and by five of them pass within it, those
# by the day are for another run.
TOLD_MOST = 300.0

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

    async def request(keys: Sequence[str]) -> None:
        async with limit:
            if budget is None:
                await _request(keys, texts, planned, embedder, outcome)
            else:
                await _within(budget, keys, texts, planned, embedder, outcome)
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


async def _within(
    budget: Budget,
    keys: Sequence[str],
    texts: Mapping[str, str],
    planned: Mapping[str, int],
    embedder: Cached,
    outcome: Outcome,
) -> None:
    """Embed as many of the texts of `keys`, in order, as the budget allows."""
    costs = await asyncio.to_thread(_costs, [texts[key] for key in keys], embedder)
    fitting = budget.reserve(costs)
    outcome.held.update(keys[fitting:])
    billed = 0
    try:
        if fitting:
            billed = await _request(keys[:fitting], texts, planned, embedder, outcome)
    finally:
        budget.settle(sum(costs[:fitting]), billed * embedder.price / 1e6)


def _costs(texts: Sequence[str], embedder: Cached) -> list[float]:
    """Tell what each text will be billed with, in US dollars."""
    return [embedder.bill(text, embedder.count(text)) * embedder.price / 1e6 for text in texts]


async def _request(
    keys: Sequence[str],
    texts: Mapping[str, str],
    planned: Mapping[str, int],
    embedder: Embedder,
    outcome: Outcome,
) -> int:
    """Embed the texts of `keys`, narrowing a refusal down to the texts that caused it; return the tokens billed."""
    billed = 0
    waiting = [list(keys)]
    while waiting:
        some = waiting.pop()
        if outcome.put_off:
            outcome.held.update(some)
            continue
        try:
            answer = await _call([texts[key] for key in some], embedder)
        except Transient as error:
            if later := _put_off(error):
                outcome.put_off = later
            outcome.failures.update(dict.fromkeys(some, ("transient", str(error))))
        except Rejected as error:
            guilty = {some[at] for at in error.inputs if 0 <= at < len(some)}
            if len(some) == 1:
                guilty = set(some)
            outcome.failures.update(dict.fromkeys(guilty, ("rejected", str(error))))
            rest = [key for key in some if key not in guilty]
            # Where the provider does not say which text it refuses, halving finds it in few requests.
            middle = len(rest) if guilty else len(rest) // 2
            waiting += [part for part in (rest[:middle], rest[middle:]) if part]
        else:
            _keep(some, answer, planned, outcome)
            billed += answer.tokens
    return billed


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
    return shares(answer.tokens, sizes) if answer.tokens else [0] * len(sizes)


def _put_off(error: Transient) -> str:
    """Say why nothing more is to be sent in this run; nothing where it may be."""
    if error.retry_after is None or error.retry_after <= TOLD_MOST:
        return ""
    return f"{error}; it is to be asked again in {error.retry_after / 60:.0f} minutes"


def wait(error: Transient, tries: int) -> bool | float:
    """Decide how many seconds to wait after so many tries; True leaves it to the usual backoff, False gives up."""
    told = error.retry_after
    if told is None:
        # Each failure twice the last one's wait, as the backoff does, but longer.
        return (
            min(WAIT_MOST, TOO_OFTEN * WAIT_FIRST * 2 ** (tries - 1)) if isinstance(error, TooMany) else True
        )
    # Told to come again at once, and failing again, the tries would be over at once.
    return max(told, WAIT_FIRST * 2 ** (tries - 2) if tries > 1 else 0.0) if told <= TOLD_MOST else False


async def _call(texts: Sequence[str], embedder: Embedder) -> Embedded:
    tries = count(1)

    def again(error: Exception) -> bool | float:
        if not isinstance(error, Transient):
            return False
        reached(RETRIED, reason=str(error))
        return wait(error, next(tries))

    async for attempt in stamina.retry_context(
        on=again, attempts=ATTEMPTS, timeout=None, wait_initial=WAIT_FIRST, wait_max=WAIT_MOST
    ):
        with attempt:
            return await embedder.embed(texts, purpose="document")
    message = "unreachable: the last attempt raises"
    raise AssertionError(message)
