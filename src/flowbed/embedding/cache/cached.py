"""An embedder with a cache in front: vectors that were paid for are reused wherever the same text occurs again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed import telemetry
from flowbed.embedding.cache.encoding import FLOAT, Layout
from flowbed.embedding.cache.tiers import Tiers
from flowbed.embedding.dimensions import is_padded
from flowbed.embedding.local.priority import BACKGROUND
from flowbed.embedding.splitting import split
from flowbed.embedding.token_counts import estimate_tokens, share_tokens
from flowbed.embedding.unicode import require_unicode
from flowbed.embedding.wrappers import Wrapper, copy_error
from flowbed.errors import Error, Misconfigured, Rejected, Transient
from flowbed.records import Embedded, vector_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.embedding import Embedder
    from flowbed.embedding.cache.tiers import VectorTier
    from flowbed.records import Purpose


# Most bytes, and so tokens, of one character.
MOST_BYTES = 4

# Requests of one call in flight at once; more would use up the provider's rate limit for other calls.
AT_ONCE = 4


class Cached(Wrapper):
    """An embedder that looks in `tiers`, nearest first, before it calls `embedder`.

    A paid embedder is called with one request's texts at a time, and every answer is kept: nothing is paid for again
    because another part of the same call failed.

    Within one process a text is sent once, however many calls want it at the same time. A tier that fails is skipped
    with a warning: the cache saves work, and never decides whether a call succeeds. Used from one event loop.
    """

    def __init__(
        self,
        embedder: Embedder,
        tiers: Sequence[VectorTier],
        *,
        counts: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wrap an embedder; with `counts` every answer has the tokens of each text. `clock` returns seconds.

        Raises:
            Misconfigured: the vectors are padded with zeros, which must not be stored.
        """
        super().__init__(embedder)
        if is_padded(self.space):
            raise Misconfigured(
                f"vectors of {self.space.model} padded with zeros are never stored; request other dimensions"
            )
        self._counts = counts
        space = self.space
        self._layout = Layout(space.dimensions, normalized=space.normalized and space.precision == "float32")
        self.tiers = Tiers(tiers, self._layout, clock=clock)
        # The keys that some call is looking up or embedding now.
        self._flights: dict[bytes, asyncio.Future[_FlightResult]] = {}
        # Those of background work on a free model, which may take long: interactive calls do not wait for them.
        self._background_flights: dict[bytes, asyncio.Future[_FlightResult]] = {}

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none; `tokens` counts only what this call sent, `counts` every text.

        `truncated` includes texts whose truncated vector came from the cache. `Rejected.inputs` are positions in
        `texts`.

        Raises:
            Transient, Rejected, Misconfigured: as the embedder does.
        """
        keys = self._keys(texts, purpose)
        wanted = dict(zip(keys, texts, strict=True))
        known = self.tiers.find(list(wanted))
        call = _Lookup(wanted=wanted, known=known)
        if len(known) < len(wanted):
            try:
                await self._complete(call, purpose)
            except _RejectedKeysError as error:
                places = [place for place, key in enumerate(keys) if key in error.keys]
                cause = error.cause
                refused = Rejected(str(cause), inputs=places, param=cause.param, code=cause.code)
                refused.perhaps_billed = cause.perhaps_billed or call.tokens > 0
                raise refused from cause
            except Error as error:
                # Other parts of the call may have been answered and kept; this tells the payer of their cost.
                error.perhaps_billed |= call.tokens > 0
                raise
        values = [known[key] for key in keys]
        return Embedded(
            vectors=self._layout.vectors(values),
            tokens=call.tokens,
            truncated=tuple(place for place, value in enumerate(values) if self._layout.is_cut_off(value)),
            counts=await self._counted(keys, call, purpose) if self._counts else (),
            cached=sum(key not in call.sent for key in keys) if call.sent else len(keys),
            provider=call.provider,
            price=call.price,
        )

    async def lookup(self, texts: Sequence[str], *, purpose: Purpose) -> dict[str, NDArray[np.float32]]:
        """Return the cached vectors, without embedding; texts that are not cached are missing.

        Raises:
            Rejected: a text is not valid Unicode.
        """
        wanted = dict(zip(self._keys(texts, purpose), texts, strict=True))
        found = await self.tiers.lookup(list(wanted))
        if not found:
            return {}
        vectors = self._layout.vectors(found.values())
        return {wanted[key]: vector.copy() for key, vector in zip(found, vectors, strict=True)}

    async def known(self, texts: Sequence[str], *, purpose: Purpose) -> set[str]:
        """Return which texts have a vector in the cache, without reading it into an array.

        Raises:
            Rejected: a text is not valid Unicode.
        """
        wanted = dict(zip(self._keys(texts, purpose), texts, strict=True))
        return {wanted[key] for key in await self.tiers.lookup(list(wanted), keep=False)}

    async def keep(self, texts: Sequence[str], embedded: Embedded, *, purpose: Purpose) -> None:
        """Store vectors from elsewhere, such as a provider's Batch API.

        Raises:
            Rejected: a text is not valid Unicode.
            Misconfigured: the vectors are of another space.
        """
        await self.tiers.put(self._encode(self._keys(texts, purpose), embedded, embedded.counts))

    async def parts(self, texts: Sequence[str], *, purpose: Purpose) -> list[slice]:
        """Split texts, in order, into parts of one request each, which the embedder answers or fails as a whole."""
        if len(texts) <= self.items and sum(map(len, texts)) * MOST_BYTES <= self.tokens:
            return [slice(0, len(texts))] if texts else []
        if self.price:
            sizes = await asyncio.to_thread(lambda: [self._size(text, purpose) for text in texts])
        else:
            # Counting takes a tenth of a local model's time.
            sizes = [estimate_tokens(text) for text in texts]
        return split(sizes, items=self.items, tokens=self.tokens)

    async def clear(self) -> None:
        """Empty the tiers that can be cleared; vectors on disk were paid for, and stay."""
        await self.tiers.clear()

    def _keys(self, texts: Sequence[str], purpose: Purpose) -> list[bytes]:
        require_unicode(texts)
        return vector_keys(self.space, purpose, texts)

    @property
    def _in_background(self) -> bool:
        """Whether this is background work on a free model; a paid text is never embedded twice for speed."""
        return BACKGROUND.get() and not self.price

    async def _complete(self, call: _Lookup, purpose: Purpose) -> None:
        """Find or embed what a call does not have yet."""
        while left := [key for key in call.wanted if key not in call.known]:
            under_way = (
                {**self._background_flights, **self._flights} if self._in_background else self._flights
            )
            in_flight = {key: under_way[key] for key in left if key in under_way}
            mine = {key: call.wanted[key] for key in left if key not in in_flight}
            if mine:
                await self._resolve(mine, call, purpose)
            # A call waits only after its own keys are settled, so no two calls wait for each other.
            if in_flight:
                await asyncio.wait(in_flight.values())
                call.join({key: flight.result() for key, flight in in_flight.items()})

    async def _resolve(self, mine: Mapping[bytes, str], call: _Lookup, purpose: Purpose) -> None:
        """Look `mine` up, embed what is not cached, and tell the calls that wait for these keys."""
        loop = asyncio.get_running_loop()
        flights = {key: loop.create_future() for key in mine}
        registry = self._background_flights if self._in_background else self._flights
        registry.update(flights)
        failure: _FlightResult = None
        refused_keys: set[bytes] = set()
        try:
            call.known.update(await self.tiers.lookup(list(mine)))
            sent = {key: text for key, text in mine.items() if key not in call.known}
            if sent:
                await self._send(sent, call, purpose)
        except _RejectedKeysError as error:
            refused_keys = error.keys
            failure = error.cause
            raise
        except (Transient, Misconfigured) as error:
            refused_keys = set(mine)
            failure = error
            raise
        finally:
            # Also after an error or a cancellation, so that no call waits for ever.
            for key, flight in flights.items():
                del registry[key]
                flight.set_result(call.known.get(key, failure if key in refused_keys else None))

    async def _send(self, sent: Mapping[bytes, str], call: _Lookup, purpose: Purpose) -> None:
        """Embed `sent` in as many requests as needed, and keep the vectors; a failure starts no further request."""
        order, texts = list(sent), list(sent.values())
        # A free model may lose work, and splits calls by itself.
        parts = await self.parts(texts, purpose=purpose) if self.price else []
        if len(parts) <= 1:
            return await self._request(order, texts, call, purpose)
        waiting = iter(parts)
        failures: list[Exception] = []

        async def work() -> None:
            for part in waiting:
                try:
                    await self._request(order[part], texts[part], call, purpose)
                except Exception as error:  # noqa: BLE001 - requests in flight are paid for, and end
                    failures.append(error)
                if failures:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(parts))):
                group.create_task(work())
        if failures:
            raise failures[0]
        return None

    async def _request(
        self, order: Sequence[bytes], texts: Sequence[str], call: _Lookup, purpose: Purpose
    ) -> None:
        """Embed the texts of the keys in `order` in one request, and keep the vectors."""
        telemetry.reached(telemetry.REQUEST_SENT, texts=len(texts))
        try:
            embedded = await self._embedder.embed(texts, purpose=purpose)
        except Rejected as error:
            # A refused request of one text can only mean that text.
            places = error.inputs or ((0,) if len(order) == 1 else ())
            raise _RejectedKeysError(error, {order[place] for place in places}) from error
        telemetry.reached(
            telemetry.REQUEST_ANSWERED,
            texts=len(texts),
            model=self.space.model,
            tokens=embedded.tokens,
            price=self.price if embedded.price is None else embedded.price,
        )
        call.bill(embedded, self.price)
        call.sent.update(order)
        call.provider = embedded.provider or call.provider
        counts = embedded.counts
        if self._counts and not counts:
            # A single text has all billed tokens, and need not be counted.
            alone = len(texts) == 1 and embedded.tokens > 0
            sizes = [1] if alone else [self._size(text, purpose) for text in texts]
            counts = share_tokens(embedded.tokens, sizes)
        stored = self._encode(order, embedded, counts)
        call.known.update(stored)
        await self.tiers.put(stored)

    async def _counted(self, keys: Sequence[bytes], call: _Lookup, purpose: Purpose) -> tuple[int, ...]:
        """Return the tokens of each text; count those whose cached vector came without, and store the count."""
        counts: dict[bytes, int] = {}
        missing: dict[bytes, bytes] = {}
        for key, value in call.known.items():
            count = self._layout.count(value)
            if count is None:
                count = self._size(call.wanted[key], purpose)
                missing[key] = self._layout.counted(value, count)
            counts[key] = count
        if missing:
            await self.tiers.put(missing, tiers=1)
        return tuple([counts[key] for key in keys])

    def _size(self, text: str, purpose: Purpose) -> int:
        """Return the tokens of a text, as exactly as possible without embedding it."""
        tokens = self.count(text)
        return self.bill(text, tokens) if purpose == "document" else tokens

    def _encode(self, keys: Sequence[bytes], embedded: Embedded, counts: Sequence[int]) -> dict[bytes, bytes]:
        """Encode vectors as the tiers store them."""
        import numpy as np

        shape = (len(keys), self.space.dimensions)
        if embedded.vectors.shape != shape:
            raise Misconfigured(
                f"model {self.space.model} returned vectors of shape {embedded.vectors.shape}, not {shape}; set its "
                "option dimensions to match"
            )
        rows = np.ascontiguousarray(embedded.vectors, dtype=FLOAT)
        cut_off = set(embedded.truncated)
        return {
            key: self._layout.pack(
                rows[place], count=counts[place] if counts else None, cut_off=place in cut_off
            )
            for place, key in enumerate(keys)
        }


# What another call found for a key: a vector, a failure, or None if it cannot tell.
_FlightResult = bytes | Transient | Rejected | Misconfigured | None


@dataclass
class _Lookup:
    """The texts that one call wants, by key, and the vectors it has."""

    wanted: Mapping[bytes, str]
    known: dict[bytes, bytes]
    tokens: int = 0
    cost_usd: float = 0.0
    several_prices: bool = False
    provider: str = ""
    sent: set[bytes] = field(default_factory=set)
    failed: bool = False

    @property
    def price(self) -> float | None:
        """The price of its tokens, on the average of its requests; None where it is the embedder's."""
        return self.cost_usd * 1e6 / self.tokens if self.several_prices and self.tokens else None

    def bill(self, embedded: Embedded, price: float) -> None:
        """Add what a request cost; `price` is that of the embedder."""
        self.tokens += embedded.tokens
        self.cost_usd += embedded.cost(price)
        self.several_prices |= embedded.price is not None

    def join(self, results: Mapping[bytes, _FlightResult]) -> None:
        """Take over the results of other calls.

        If the shared request failed, this call tries once itself instead of queueing behind every other waiter; a
        second shared failure is raised.
        """
        refused = {key: error for key, error in results.items() if isinstance(error, Rejected)}
        if refused:
            raise _RejectedKeysError(next(iter(refused.values())), set(refused))
        self.known.update({key: value for key, value in results.items() if isinstance(value, bytes)})
        failures = [error for error in results.values() if isinstance(error, (Transient, Misconfigured))]
        if not failures:
            return
        if self.failed:
            raise copy_error(failures[0]) from failures[0]
        self.failed = True


class _RejectedKeysError(Exception):
    """The embedder refused texts, identified by key, since only some texts of the call were sent to it."""

    def __init__(self, cause: Rejected, keys: set[bytes]) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.keys = keys
