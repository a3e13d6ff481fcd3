"""Embed texts now: each distinct text once, with retries and a limit on concurrent requests."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from flowbed.embedding.token_counts import share_tokens
from flowbed.errors import Error, Misconfigured, Rejected, Transient
from flowbed.lanes.budget import Budget, Payment
from flowbed.lanes.health import Health
from flowbed.lanes.outcome import Outcome, Paid
from flowbed.lanes.requests import Pending, cut
from flowbed.lanes.retries import (
    ATTEMPTS,
    CONFIRMATIONS,
    REFUSALS,
    RETRY_AFTER_MAX,
    call,
)
from flowbed.telemetry import PROGRESS, reached

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from flowbed.embedding.cache.cached import Cached
    from flowbed.records import Embedded

NOT_PLANNED: Final = MappingProxyType[str, int]({})


class Tier(Protocol):
    """A place that may already hold vectors, by text_hash: the index."""

    async def get_many(self, hashes: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        """Return the vectors of the hashes that it holds."""
        ...


async def embed(
    texts: Mapping[str, str],
    *,
    embedder: Cached,
    index: Tier | None,
    concurrency: int,
    budget: Budget | None = None,
    planned: Mapping[str, int] = NOT_PLANNED,
    health: Health | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Look up or compute the vector of every text (by text_hash); one that fails never stops the others.

    `planned` has the token count of each text. With a budget, a request that would exceed it is cut to the texts that
    still fit, and no other is sent. `health` is what earlier requests to the provider have shown, and is brought up to
    date. `monotonic` returns seconds.

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
    # Texts of similar length share a request, so that little of it is padding.
    todo = sorted(
        (key for key in missing if key not in outcome.vectors), key=lambda key: (len(texts[key]), key)
    )
    reached(PROGRESS, stage="embed", done=len(texts) - len(todo))
    lane = _Lane(texts, planned, embedder, outcome, budget, health or Health())
    parts = await embedder.parts([texts[key] for key in todo], purpose="document")
    pieces = cut(parts, concurrency=concurrency, per_minute=embedder.requests_per_minute)
    pending = Pending(parts, pieces)

    async def send() -> None:
        while taken := pending.take(limited=lane.health.limited):
            keys = [key for piece in taken for key in todo[piece]]
            began = monotonic()
            await lane.request(keys)
            reached(
                PROGRESS, stage="embed", done=len(keys), seconds=monotonic() - began, concurrency=concurrency
            )

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(pending))):
                group.create_task(send())
    except ExceptionGroup as several:
        # Of requests that failed together one says what to do; the others were cancelled or say the same.
        raise several.exceptions[0] from several
    return outcome


@dataclass(frozen=True)
class _Part:
    """Texts, by hash, that are sent in one request, with at most so many attempts."""

    keys: list[str]
    tries: int = ATTEMPTS


@dataclass(frozen=True)
class _Lane:
    """The state that the requests for some texts share."""

    texts: Mapping[str, str]
    planned: Mapping[str, int]
    embedder: Cached
    outcome: Outcome
    budget: Budget | None
    health: Health

    async def request(self, keys: Sequence[str]) -> None:
        """Embed the texts of `keys`, narrowing a failure down to the texts that caused it."""
        waiting = [_Part(list(keys))]
        began = self.health.answered
        while waiting:
            part = waiting.pop()
            if self.outcome.retry_later:
                self.outcome.unsent.update(part.keys)
                continue
            try:
                waiting += await self._paid(part, began)
            except Transient as error:
                # It answers nobody any more: what was not tried alone has not failed by itself.
                for each in (part, *waiting):
                    self._record(each.keys, "transient", str(error))
                return

    async def _paid(self, part: _Part, began: int) -> list[_Part]:
        """Embed as many of the texts of a part, in order, as the budget allows; return parts to be retried.

        `began` is how many requests were answered before the texts were sent for the first time.

        Raises:
            Transient: the provider fails on any text.
            Misconfigured: it refuses any text.
        """
        sizes = await self._sizes(part.keys)
        costs = [size * self.embedder.price / 1e6 for size in sizes]
        budget = self.budget or Budget()
        fitting = budget.reserve(costs)
        self.outcome.unsent.update(part.keys[fitting:])
        if not fitting:
            return []
        some, payment, cost = part.keys[:fitting], Payment(budget, costs[:fitting]), 0.0
        since = self.health.answered
        try:
            answer = await call(
                [self.texts[key] for key in some], self.embedder, payment, part.tries, self.health.failed
            )
            cost = answer.cost(self.embedder.price)
            self.outcome.cost_usd += cost
            self.health.answered += 1
            _keep(some, answer, self.planned, self.outcome)
        except (Transient, Misconfigured) as error:
            if not error.perhaps_input or payment.refused or _retry_later(error):
                self._record_failure(some, error, payment)
                return []
            failed = error
        except Rejected as error:
            return await self._split(some, error)
        else:
            return []
        finally:
            payment.settle(cost)
            self.outcome.perhaps_billed += payment.lost * sizes[:fitting]
        return await self._narrow(some, failed, since if len(some) == 1 else began)

    async def _narrow(self, keys: list[str], error: Transient | Misconfigured, since: int) -> list[_Part]:
        """Blame an error on a single text, or return halves to be retried, if other texts were answered `since`."""
        if await self._fault(keys, since) is not None:
            raise error
        if len(keys) == 1:
            reason = str(error).removesuffix(f"; {error.advice}" if isinstance(error, Misconfigured) else "")
            self._record(keys, "rejected", f"{reason}; the provider answers other texts")
        return _halved(keys, tries=CONFIRMATIONS)

    async def _fault(self, keys: Sequence[str], since: int) -> Error | None:
        """Return the error that any text meets now; None where others are answered."""
        error, tokens = await self.health.fault(since, keys[0], self.embedder, self.budget or Budget())
        self.outcome.perhaps_billed += tokens
        return error

    async def _sizes(self, keys: Sequence[str]) -> list[int]:
        """Return the tokens that each text will be billed: as planned, unless a budget depends on it."""
        if self.budget is None or self.budget.limit_usd == inf:
            return [self.planned.get(key, 0) for key in keys]
        embedder, texts = self.embedder, [self.texts[key] for key in keys]
        return await asyncio.to_thread(lambda: [embedder.bill(text, embedder.count(text)) for text in texts])

    def _record_failure(
        self, keys: Sequence[str], error: Transient | Misconfigured, payment: Payment
    ) -> None:
        """Record that texts have no vectors for now: the budget is spent, or the provider does not respond.

        Raises:
            Misconfigured: no text can have one.
        """
        if isinstance(error, Misconfigured):
            raise error
        if later := _retry_later(error):
            self.outcome.retry_later = later
        if payment.refused:
            self.outcome.unsent.update(keys)
        else:
            self._record(keys, "transient", str(error))

    async def _split(self, keys: list[str], error: Rejected) -> list[_Part]:
        """Record which texts were refused, as far as that is known, and return the others in parts to be retried.

        Raises:
            Misconfigured: every text is refused, even one that no provider should refuse.
        """
        refused = {keys[at] for at in error.inputs if 0 <= at < len(keys)}
        if len(keys) == 1:
            refused = set(keys)
            await self._refuse_all(keys[0], error)
        self._record(refused, "rejected", str(error))
        rest = [key for key in keys if key not in refused]
        # Where the provider does not say which text it refuses, halving finds it in few requests.
        if refused:
            return [_Part(rest)] if rest else []
        return _halved(rest)

    async def _refuse_all(self, key: str, error: Rejected) -> None:
        """Raise Misconfigured where single texts were refused and none accepted, and a harmless one is refused too."""
        self.health.refused += 1
        if self.health.answered or self.health.refused != REFUSALS:
            return
        if isinstance(await self._fault([key], self.health.answered), Rejected):
            raise Misconfigured(
                f"{error}; the provider refuses every text, so the request must be wrong",
                advice="check the model, base_url and the other options of its provider",
            ) from error

    def _record(self, keys: Collection[str], kind: str, reason: str) -> None:
        self.outcome.failures.update(dict.fromkeys(keys, (kind, reason)))


def _halved(keys: list[str], *, tries: int = ATTEMPTS) -> list[_Part]:
    """Split several texts into two parts; a part of more than one text that fails again is split again at once."""
    if len(keys) == 1:
        return []
    middle = len(keys) // 2
    return [
        _Part(half, ATTEMPTS if tries == ATTEMPTS else (tries if len(half) == 1 else 1))
        for half in (keys[:middle], keys[middle:])
    ]


def _keep(keys: Sequence[str], answer: Embedded, planned: Mapping[str, int], outcome: Outcome) -> None:
    """Record the vectors of a request, and what each of its texts cost."""
    # No search finds a vector of length 0, and one with a value that is not finite makes its delta unusable.
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(answer.vectors.astype(np.float64), axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    for key, vector, good in zip(keys, answer.vectors, usable, strict=True):
        if good:
            outcome.vectors[key] = vector
        else:
            outcome.failures[key] = ("rejected", "the model returned no usable vector for this text")
    outcome.truncated.update(keys[at] for at in answer.truncated)
    sizes = [planned.get(key, 0) for key in keys]
    for key, size, billed in zip(keys, sizes, _billed(answer, sizes), strict=True):
        outcome.paid[key] = Paid(size, billed)


def _billed(answer: Embedded, sizes: Sequence[int]) -> Sequence[int]:
    """Divide the billed tokens of a request among its texts: providers report their sum."""
    if sum(answer.counts) == answer.tokens and answer.counts:
        return answer.counts
    return share_tokens(answer.tokens, sizes) if answer.tokens else [0] * len(sizes)


def _retry_later(error: Transient | Misconfigured) -> str:
    """Say why no more requests are sent in this run; empty where they may be."""
    if isinstance(error, Misconfigured) or error.retry_after is None or error.retry_after <= RETRY_AFTER_MAX:
        return ""
    return f"{error}; it asks to be tried again in {error.retry_after / 60:.0f} minutes"
