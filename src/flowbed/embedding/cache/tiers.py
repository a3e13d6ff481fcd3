"""Tiers of the vector cache: searched in order, and skipped while they fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from flowbed import telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.embedding.cache.encoding import Layout

# Seconds that a failed tier is skipped: a full disk or a lost server then costs one warning and one timeout a minute,
# not one in each call.
PAUSE = 60.0


class VectorTier(Protocol):
    """Stores values by 32-byte key: little-endian float32 numbers and the extra bytes of `encoding`."""

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look keys up; unknown keys are missing from the result."""
        ...

    async def put_many(self, vectors: Mapping[bytes, bytes]) -> None:
        """Store values; the tier may drop any of them at any time."""
        ...


@runtime_checkable
class Instant(Protocol):
    """A tier that answers without waiting, as memory does."""

    def find(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look keys up; unknown keys are missing from the result."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A tier that knows which vectors were used last, also by processes that have ended."""

    async def recent(self, most: int) -> dict[bytes, bytes]:
        """Return the vectors that were used last, up to `most`."""
        ...


@runtime_checkable
class Clearable(Protocol):
    """A tier that can be emptied."""

    async def clear(self) -> None:
        """Drop everything."""
        ...


class Forgetful(Protocol):
    """A tier that processes share, and from which single vectors can be deleted."""

    async def forget(self, keys: Sequence[bytes]) -> int:
        """Delete vectors, and return how many there were."""
        ...


@dataclass(kw_only=True)
class TierStats:
    """Hits and misses of one tier."""

    tier: str
    hits: int = 0
    misses: int = 0


class Tiers:
    """The tiers of one space, nearest first. A failure in them becomes a warning, nothing else."""

    def __init__(self, tiers: Sequence[VectorTier], layout: Layout, *, clock: Callable[[], float]) -> None:
        """Store values of `layout`; `clock` returns seconds."""
        # A tier that wraps another has the other's name.
        self.stats = [TierStats(tier=getattr(tier, "name", type(tier).__name__)) for tier in tiers]
        self._tiers = tuple(tiers)
        self._instant = tiers[0] if tiers and isinstance(tiers[0], Instant) else None
        self._layout = layout
        self._clock = clock
        self._paused_until = [float("-inf")] * len(self._tiers)

    def find(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look keys up in the nearest tier, if it answers without waiting."""
        return {} if self._instant is None else self._valid(0, self._instant.find(keys))

    async def lookup(self, keys: Sequence[bytes], *, keep: bool = True) -> dict[bytes, bytes]:
        """Search the tiers in order; with `keep`, copy what a far one has to the nearer ones."""
        found: dict[bytes, bytes] = {}
        for place, tier in enumerate(self._tiers):
            left = [key for key in keys if key not in found]
            if not left:
                break
            if self._paused(place):
                continue
            try:
                answer = await tier.get_many(left)
            except Exception as error:  # noqa: BLE001 - embedding works without the tier
                self._pause(place, error)
                continue
            valid = self._valid(place, answer, numpy=keep)
            self.stats[place].misses += len(left) - len(valid)
            found.update(valid)
            if valid and keep:
                await self.put(valid, tiers=place)
        return found

    def _valid(self, place: int, answer: Mapping[bytes, bytes], *, numpy: bool = True) -> dict[bytes, bytes]:
        """Return the values that are vectors of this space; others count as missing.

        Without `numpy`, which finding work does not load, this takes five times as long.
        """
        fitting = {key: value for key, value in answer.items() if self._layout.is_valid(value)}
        if numpy:
            usable = self._layout.usable(list(fitting.values())) if fitting else []
        else:
            usable = list(map(self._layout.is_usable, fitting.values()))
        valid = {key: value for (key, value), good in zip(fitting.items(), usable, strict=True) if good}
        self.stats[place].hits += len(valid)
        if damaged := len(answer) - len(valid):
            telemetry.log.warning(
                "%d vectors in the cache %s are damaged, and are not used", damaged, self.stats[place].tier
            )
        return valid

    async def put(self, vectors: Mapping[bytes, bytes], *, tiers: int | None = None) -> None:
        """Store values in the first `tiers` tiers, or in all."""
        # A vector that is not finite would otherwise be returned for ever.
        whole = {key: value for key, value in vectors.items() if self._layout.is_finite(value)}
        for place, tier in enumerate(self._tiers[:tiers]):
            if self._paused(place) or not whole:
                continue
            try:
                await tier.put_many(whole)
            except Exception as error:  # noqa: BLE001 - embedding works without the tier
                self._pause(place, error)
        if tiers is None and whole:
            telemetry.reached(telemetry.VECTORS_KEPT, vectors=len(whole))

    def _paused(self, place: int) -> bool:
        return self._clock() < self._paused_until[place]

    def _pause(self, place: int, error: Exception) -> None:
        self._paused_until[place] = self._clock() + PAUSE
        telemetry.log.warning("vector cache %s is skipped for %d s: %s", self.stats[place].tier, PAUSE, error)

    async def clear(self) -> None:
        """Empty the tiers that can be cleared; vectors on disk were paid for, and stay."""
        for place, tier in enumerate(self._tiers):
            if not isinstance(tier, Clearable) or self._paused(place):
                continue
            try:
                await tier.clear()
            except Exception as error:  # noqa: BLE001 - embedding works without the tier
                self._pause(place, error)
