"""Quotas of each key: requests per minute, tokens per day, and embeddings per day, which are leased from the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

from flowbed.embedding.wrappers.buckets import Gcra
from flowbed.embedding.wrappers.request_rates import MemoryRates
from flowbed.errors import Exhausted, Misconfigured, TooMany
from flowbed.records.serving import Allowance, TierLimits
from flowbed.records.values import count
from flowbed.services.embedding.quota import EmbeddingQuota
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.embedding.wrappers.request_rates import RequestRates
    from flowbed.ledger import Ledger
    from flowbed.records.serving import Caller

# Seconds between two writes of the counts: a killed server loses this much, and servers see each other this late.
EVERY = 1.0
# Seconds between two writes of when each key was last used, which people read by the day.
SEEN_EVERY = 60.0
KEPT_DAYS = 90

MINUTE = 60.0
DAY_US = 86_400_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNLIMITED = TierLimits()


@dataclass(slots=True)
class _Use:
    """Use of one key on one day: `total` over all servers as far as known, `unwritten` by this one.

    `held` is reserved for running requests: the most that they can cost.
    """

    total: int = 0
    unwritten: int = 0
    held: int = 0


class QuotaService:
    """What callers have used and have left; for one event loop.

    A caller without a key is neither limited nor counted.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        tiers: Mapping[str, TierLimits],
        clock: Callable[[], int],
        rates: RequestRates | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep counts in `ledger`; `clock` returns microseconds since 1970, `monotonic` seconds.

        `rates` count the requests of a minute, None for those of this process alone.
        """
        self._ledger = ledger
        self._tiers = tiers
        self._clock = clock
        self._monotonic = monotonic
        self._day = self._tidied = -1
        self._uses: dict[str, _Use] = {}
        # Counts of past days that are not written yet.
        self._earlier: list[tuple[str, dict[str, int]]] = []
        self._rates = MemoryRates(monotonic) if rates is None else rates
        self._requests = Gcra(monotonic)  # as the rates said last
        self._embeddings = EmbeddingQuota(ledger.quotas, monotonic=monotonic)
        self._seen: dict[str, int] = {}
        self._seen_at = 0.0
        self._writing, self._loading = asyncio.Lock(), asyncio.Lock()
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start writing counts every second."""
        self._task = asyncio.create_task(self._write_on(), name="quotas")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write the remaining counts."""
        # Not cancelled: a write in progress would complete anyway, and then be repeated.
        self._ended.set()
        if self._task is not None:
            await self._task
        await self._embeddings.release(idle=0.0)
        await self.write(seen=True)

    async def admit(self, caller: Caller) -> None:
        """Admit one request of a caller.

        Raises:
            TooMany: its requests of this minute are used up.
            Misconfigured: its tier is no longer in the settings.
            Transient: its use of today cannot be read.
        """
        if caller.key is None:
            return
        tier = self._tier(caller)
        if tier.requests is not None and not caller.background:
            await self._take(caller.key, tier.requests)
        self._seen[caller.key] = self._clock()
        if tier.tokens is not None and self._use(caller.key) is None:
            async with self._loading:  # concurrent callers read the ledger once
                await self._load(caller.key)

    def left(self, caller: Caller) -> int | None:
        """Return how many of today's tokens are left and not reserved, or None without a limit."""
        quota = None if caller.key is None else self._tier(caller).tokens
        if caller.key is None or quota is None:
            return None
        use = self._use(caller.key)
        return quota if use is None else max(0, quota - use.total - use.held)

    def hold(self, caller: Caller, tokens: int) -> None:
        """Reserve the most that a request can cost, until `settle` reports what it did cost.

        A request may thus be refused because of running requests that turn out cheaper, but the quota is never
        exceeded.

        Raises:
            Exhausted: fewer tokens are left today.
        """
        left = self.left(caller)
        if caller.key is None or left is None:
            return
        if tokens > left:
            raise Exhausted(
                f"You exceeded your current quota: {left:,} of {self._tier(caller).tokens:,} tokens a day are left, and"
                f" this request needs {tokens:,}. The quota resets at midnight UTC, in"
                f" {self._until_midnight() / 3600:.1f} hours.",
                code="insufficient_quota",
            )
        (self._use(caller.key) or self._begin(caller.key)).held += tokens

    def settle(self, caller: Caller, *, held: int, tokens: int) -> None:
        """Replace the reservation of a request by what it used."""
        if caller.key is None:
            return
        use = self._use(caller.key) or self._begin(caller.key)
        use.held = max(0, use.held - held)  # nothing was held without a limit
        use.total += tokens
        use.unwritten += tokens

    async def take_embeddings(self, caller: Caller, wanted: int, *, least: int | None = None) -> int:
        """Take embeddings of a caller's day before they are made; return how many: `wanted`, or at least `least`.

        All servers together never grant more than the quota. `settle_embeddings` gives back what was not made.

        Raises:
            Exhausted: fewer are left.
            Misconfigured: its tier is no longer in the settings.
            Transient: the ledger cannot be reached.
        """
        most = None if caller.key is None else self._tier(caller).embeddings
        if caller.key is None or most is None or not wanted:
            return wanted
        needed = wanted if least is None else least
        day = self._name(self._today())
        granted = await self._embeddings.take(caller.key, day, wanted, least=needed, most=most)
        if granted < needed:
            raise Exhausted(
                f"You exceeded your current quota: {self._embeddings.left(caller.key, day, most):,} of {most:,}"
                f" embeddings a day are left, and this request needs {needed:,}. The quota resets at midnight UTC, in"
                f" {self._until_midnight() / 3600:.1f} hours.",
                code="insufficient_quota",
            )
        return granted

    def settle_embeddings(self, caller: Caller, *, taken: int, made: int) -> None:
        """Give back what was taken and not made: vectors from the cache, and what failed."""
        if caller.key is not None and made < taken:
            self._embeddings.give_back(caller.key, self._name(self._today()), taken - made)

    @property
    def midnight(self) -> int:
        """When the quotas of the day begin again (µs since 1970)."""
        return (self._today() + 1) * DAY_US

    def allowance(self, caller: Caller) -> Allowance:
        """Return what a caller has left, as far as this server knows."""
        tier = self._tiers.get(caller.tier)
        if caller.key is None or tier is None:
            return Allowance()
        left, reset, tokens_left, embeddings_left = None, 0.0, None, None
        if tier.embeddings is not None:
            embeddings_left = self._embeddings.left(caller.key, self._name(self._today()), tier.embeddings)
        if tier.requests is not None:
            reset = self._requests.backlog(caller.key)
            left = max(0, int(tier.requests - reset * tier.requests / MINUTE + 1e-6))
        if tier.tokens is not None:
            use = self._use(caller.key)
            tokens_left = max(0, tier.tokens - (use.total + use.held if use else 0))
        return Allowance(
            requests=tier.requests,
            requests_left=left,
            requests_reset=reset,
            tokens=tier.tokens,
            tokens_left=tokens_left,
            tokens_reset=0.0 if tier.tokens is None else self._until_midnight(),
            embeddings=tier.embeddings,
            embeddings_left=embeddings_left,
            embeddings_reset=0.0 if tier.embeddings is None else self._until_midnight(),
        )

    async def write(self, *, seen: bool = False) -> None:
        """Write the counts since the last write; if the ledger fails, they are written next time."""
        async with self._writing:
            self._turn()
            try:
                await self._write_tokens()
                if self._tidied != self._day:
                    oldest = self._name(self._day - KEPT_DAYS)
                    await self._ledger.quotas.forget(before=oldest)
                    self._tidied = self._day
                if self._seen and (seen or self._monotonic() - self._seen_at >= SEEN_EVERY):
                    self._seen_at = self._monotonic()
                    times = dict(self._seen)
                    await self._ledger.keys.use(times)
                    self._seen = {key: at for key, at in self._seen.items() if times.get(key) != at}
            except Exception as error:  # noqa: BLE001 - counting continues, and is written the next time
                log.warning("cannot write the use of keys, will try again: %s", error)

    async def _write_tokens(self) -> None:
        while self._earlier:
            day, tokens = self._earlier[0]
            await self._ledger.quotas.add(day, tokens)
            self._earlier.pop(0)
        day = self._name(self._day)
        tokens = {key: use.unwritten for key, use in self._uses.items() if use.unwritten}
        if not tokens:
            return
        totals = await self._ledger.quotas.add(day, tokens)
        for key, written in tokens.items():
            use = self._uses.get(key)
            if use is not None and day == self._name(self._day):
                use.unwritten -= written
                # Other servers count too: the ledger's total, plus what was counted here meanwhile.
                use.total = totals[key] + use.unwritten
            else:  # midnight passed meanwhile, and the day's remainder includes these tokens again
                self._earlier = [
                    (other, {**rest, key: rest[key] - written} if other == day else rest)
                    for other, rest in self._earlier
                ]

    async def _write_on(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), EVERY)
            await self.write()
            await self._embeddings.release()

    async def _load(self, key: str) -> None:
        if self._use(key) is not None:
            return
        day = self._name(self._day)
        used = await self._ledger.quotas.used(day, [key])
        if self._use(key) is None and day == self._name(self._day):
            self._begin(key).total = used.get(key, 0)

    async def _take(self, key: str, requests: int) -> None:
        """Take one request, of the up to `requests` that a minute holds."""
        taken = await self._rates.take(key, cost=MINUTE / requests, most=MINUTE)
        self._requests.set(key, taken.backlog)
        if taken.wait:
            raise TooMany(
                f"Rate limit reached: {count(requests, 'request')} a minute. Please try again in {taken.wait:.3g} s.",
                retry_after=taken.wait,
            )

    def _tier(self, caller: Caller) -> TierLimits:
        tier = self._tiers.get(caller.tier)
        if tier is None:
            if caller.tier == "default":
                return UNLIMITED
            raise Misconfigured(
                f"key {caller.key} has tier {caller.tier!r}, which is not in the settings: add"
                f" [serve.tiers.{caller.tier}], or create a key of another tier"
            )
        return tier

    def _use(self, key: str) -> _Use | None:
        if self._clock() // DAY_US != self._day:
            self._turn()
        return self._uses.get(key)

    def _begin(self, key: str) -> _Use:
        return self._uses.setdefault(key, _Use())

    def _turn(self) -> None:
        """Start a new day after midnight."""
        today = self._clock() // DAY_US
        if today == self._day:
            return
        left = {key: use.unwritten for key, use in self._uses.items() if use.unwritten}
        if left:
            self._earlier.append((self._name(self._day), left))
        # Running requests, and their reservations, count for the day on which they end.
        self._uses = {key: _Use(held=use.held) for key, use in self._uses.items() if use.held}
        self._day = today

    def _today(self) -> int:
        return self._clock() // DAY_US

    def _name(self, day: int) -> str:
        return (EPOCH + timedelta(days=max(day, 0))).date().isoformat()

    def _until_midnight(self) -> float:
        return (DAY_US - self._clock() % DAY_US) / 1e6
