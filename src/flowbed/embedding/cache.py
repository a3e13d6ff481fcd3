"""Vectors that were paid for once, given back wherever the same text is embedded again."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flowbed import telemetry
from flowbed.embedding import Bills
from flowbed.embedding.unicode import require_unicode
from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Embedded, vector_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from flowbed.embedding import Embedder
    from flowbed.records import Purpose

FLOAT = np.dtype("<f4")

# Stored behind the floats of a text whose end was cut off, so that giving the vector back says so again. A reader
# that does not know of it sees a value of the wrong length, and ignores it.
CUT_OFF = b"\x01"

# Seconds for which a tier that failed is left alone: a full disk or a lost server then costs one warning and one
# timeout a minute, not one in each call.
PAUSE = 60.0


class VectorTier(Protocol):
    """One place that keeps vectors: 32-byte key to little-endian float32 bytes."""

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look keys up; those that are not kept are missing from the answer."""
        ...

    async def put_many(self, vectors: Mapping[bytes, bytes]) -> None:
        """Keep vectors; the tier may drop any of them whenever it likes."""
        ...


class Cached:
    """An embedder that asks `tiers`, nearest first, before it asks `embedder`.

    Within one process a text is sent once, however many calls want it at the same time. A tier that fails is passed
    over with a warning: the cache saves work, and never decides whether a call succeeds. Used from one event loop.
    """

    def __init__(
        self, embedder: Embedder, tiers: Sequence[VectorTier], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Wrap an embedder; `clock` gives seconds."""
        self.space = embedder.space
        self.items = embedder.items
        self.tokens = embedder.tokens
        self.price = embedder.price
        self._embedder = embedder
        # Found out once: such a question takes longer than most answers to it.
        self._bills = embedder if isinstance(embedder, Bills) else None
        self._tiers = tuple(tiers)
        self._clock = clock
        self._paused_until = [float("-inf")] * len(self._tiers)
        self._bytes = self.space.dimensions * FLOAT.itemsize
        # A key is here while some call looks it up or embeds it. The value is None where that call failed.
        self._flights: dict[bytes, asyncio.Future[bytes | None]] = {}

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none; `tokens` counts only what this call had sent.

        `truncated` also holds texts whose cut-off vector came from the cache. `Rejected.inputs` are positions in
        `texts`, whatever part of them was sent.

        Raises:
            Transient, Rejected, Misconfigured: as the embedder does.

        """
        keys = self._keys(texts, purpose)
        wanted = dict(zip(keys, texts, strict=True))
        known: dict[bytes, bytes] = {}
        tokens = 0
        while len(known) < len(wanted):
            left = [key for key in wanted if key not in known]
            elsewhere = {key: self._flights[key] for key in left if key in self._flights}
            mine = {key: wanted[key] for key in left if key not in elsewhere}
            if mine:
                try:
                    tokens += await self._resolve(mine, known, purpose)
                except _RejectedKeysError as error:
                    places = [place for place, key in enumerate(keys) if key in error.keys]
                    raise Rejected(str(error), inputs=places) from error.__cause__
            # Only after its own keys are settled does a call wait, so no two calls wait for each other. A failure
            # of the other call is not this one's: what is still unknown is tried again, by this call itself.
            if elsewhere:
                await asyncio.wait(elsewhere.values())
                for key, flight in elsewhere.items():
                    value = flight.result()
                    if value is not None:
                        known[key] = value
        cut_off = tuple(place for place, key in enumerate(keys) if len(known[key]) > self._bytes)
        return Embedded(vectors=self._vectors(known[key] for key in keys), tokens=tokens, truncated=cut_off)

    def count(self, text: str) -> int:
        """Count tokens as the embedder does."""
        return self._embedder.count(text)

    def bill(self, text: str, tokens: int) -> int:
        """Tell what embedding `text` as a document is billed with, where it is not kept; `tokens` is its own count."""
        return tokens if self._bills is None else self._bills.bill(text, tokens)

    async def lookup(self, texts: Sequence[str], *, purpose: Purpose) -> dict[str, NDArray[np.float32]]:
        """Find the vectors that are kept already, without embedding any; texts not kept are missing.

        Raises:
            Rejected: a text is not valid Unicode.

        """
        wanted = dict(zip(self._keys(texts, purpose), texts, strict=True))
        found = await self._look(list(wanted))
        if not found:
            return {}
        vectors = self._vectors(found.values())
        return {wanted[key]: vector.copy() for key, vector in zip(found, vectors, strict=True)}

    async def keep(self, texts: Sequence[str], embedded: Embedded, *, purpose: Purpose) -> None:
        """Keep vectors that came another way, as from a provider's Batch API.

        Raises:
            Rejected: a text is not valid Unicode.
            Misconfigured: the vectors are of another space.

        """
        await self._put(self._stored(self._keys(texts, purpose), embedded))

    def _keys(self, texts: Sequence[str], purpose: Purpose) -> list[bytes]:
        require_unicode(texts)
        return [vector_key(self.space, purpose, text) for text in texts]

    async def _resolve(self, mine: Mapping[bytes, str], known: dict[bytes, bytes], purpose: Purpose) -> int:
        """Look `mine` up, embed what is not kept, add both to `known` and tell whoever waits; answer the tokens."""
        loop = asyncio.get_running_loop()
        flights = {key: loop.create_future() for key in mine}
        self._flights.update(flights)
        tokens = 0
        try:
            known.update(await self._look(list(mine)))
            sent = {key: text for key, text in mine.items() if key not in known}
            if sent:
                telemetry.reached(telemetry.REQUEST_SENT, texts=len(sent))
                try:
                    embedded = await self._embedder.embed(list(sent.values()), purpose=purpose)
                except Rejected as error:
                    order = list(sent)
                    raise _RejectedKeysError(str(error), {order[place] for place in error.inputs}) from error
                telemetry.reached(telemetry.REQUEST_ANSWERED, texts=len(sent))
                tokens = embedded.tokens
                stored = self._stored(list(sent), embedded)
                known.update(stored)
                await self._put(stored)
        finally:
            # Also after an error or a cancellation, so that nobody waits for ever.
            for key, flight in flights.items():
                del self._flights[key]
                flight.set_result(known.get(key))
        return tokens

    def _stored(self, keys: Sequence[bytes], embedded: Embedded) -> dict[bytes, bytes]:
        """Write vectors as tiers keep them."""
        shape = (len(keys), self.space.dimensions)
        if embedded.vectors.shape != shape:
            message = (
                f"model {self.space.model} answered vectors of shape {embedded.vectors.shape}, not {shape}; set its "
                "dimensions to what it answers"
            )
            raise Misconfigured(message)
        rows = np.ascontiguousarray(embedded.vectors, dtype=FLOAT)
        cut_off = set(embedded.truncated)
        return {
            key: rows[place].tobytes() + (CUT_OFF if place in cut_off else b"")
            for place, key in enumerate(keys)
        }

    def _vectors(self, stored: Iterable[bytes]) -> NDArray[np.float32]:
        """Read stored vectors into a new array, which belongs to the caller alone."""
        joined = b"".join(value[: self._bytes] for value in stored)
        return np.frombuffer(joined, dtype=FLOAT).reshape(-1, self.space.dimensions).astype(np.float32)

    async def _look(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Ask the tiers one after another, and bring what a far one holds to the nearer ones."""
        found: dict[bytes, bytes] = {}
        for place, tier in enumerate(self._tiers):
            left = [key for key in keys if key not in found]
            if not left:
                break
            if self._paused(place):
                continue
            try:
                answer = await tier.get_many(left)
            except Exception as error:  # noqa: BLE001 - whatever a tier raises, embedding goes on without it
                self._pause(place, error)
                continue
            valid = {key: value for key, value in answer.items() if self._valid(value)}
            found.update(valid)
            if valid:
                await self._put(valid, tiers=place)
        return found

    async def _put(self, vectors: Mapping[bytes, bytes], *, tiers: int | None = None) -> None:
        """Keep vectors in the first `tiers` tiers, or in all."""
        # A vector with a hole in it would otherwise be given back for ever.
        whole = {key: value for key, value in vectors.items() if self._finite(value)}
        for place, tier in enumerate(self._tiers[:tiers]):
            if self._paused(place) or not whole:
                continue
            try:
                await tier.put_many(whole)
            except Exception as error:  # noqa: BLE001 - whatever a tier raises, embedding goes on without it
                self._pause(place, error)
        if tiers is None and whole:
            telemetry.reached(telemetry.VECTORS_KEPT, vectors=len(whole))

    def _valid(self, value: bytes) -> bool:
        return len(value) == self._bytes or (len(value) == self._bytes + 1 and value.endswith(CUT_OFF))

    def _finite(self, value: bytes) -> bool:
        return bool(np.isfinite(np.frombuffer(value, dtype=FLOAT, count=self.space.dimensions)).all())

    def _paused(self, place: int) -> bool:
        return self._clock() < self._paused_until[place]

    def _pause(self, place: int, error: Exception) -> None:
        self._paused_until[place] = self._clock() + PAUSE
        telemetry.log.warning(
            "vector cache %s is left alone for %d s: %s", type(self._tiers[place]).__name__, PAUSE, error
        )


class _RejectedKeysError(Exception):
    """The embedder refused texts, named here by key, since only some texts of the call were sent to it."""

    def __init__(self, message: str, keys: set[bytes]) -> None:
        super().__init__(message)
        self.keys = keys
