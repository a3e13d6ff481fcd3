"""The maintenance lease: saves the work of two compactions at once. It may be deleted at any moment without loss."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbed.errors import Conflict, NotFound, Transient
from flowbed.records import canonical

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from flowbed.storage import Store

TTL = 60.0  # seconds between renewals after which a holder counts as gone, unless set otherwise
# A rival must see the same body for longer than a holder may be silent, by the rival's own clock alone: the clocks of
# two machines are never compared.
PATIENCE = 1.2


@dataclass(frozen=True, kw_only=True)
class LeaseTimes:
    """How long a silent lease is respected, and how often it is renewed, in seconds; equal for all who share a store.

    A rival that waits for longer than the holder's lease lasts takes it over, which costs work and no data.
    """

    seconds: float = TTL
    heartbeat: float = TTL / 3


DEFAULT_TIMES = LeaseTimes()


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A lease as its holder knows it."""

    key: str
    owner: str
    epoch: int


@asynccontextmanager
async def held(
    store: Store,
    collection: str,
    *,
    owner: str,
    dead: Callable[[str], bool],
    monotonic: Callable[[], float],
    wait: bool,
    times: LeaseTimes | None = None,
) -> AsyncIterator[Lease]:
    """Hold the maintenance lease of a collection and renew it meanwhile; `dead` returns whether an owner has ended.

    Raises:
        Conflict: another owner holds it; with `wait`, wait until that owner releases it or falls silent.
    """
    key = f"{collection}/lease.json"
    times = times or DEFAULT_TIMES
    lease, etag = await _acquire(
        store, key, owner=owner, dead=dead, monotonic=monotonic, wait=wait, times=times
    )
    current = [etag]
    beat = asyncio.create_task(_renew(store, lease, current, times))
    try:
        yield lease
    finally:
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)
        # If it was taken over or deleted, there is nothing to release; if the store is unreachable, it expires.
        with contextlib.suppress(Conflict, NotFound, Transient):
            await _release(store, lease, current[0], times)


async def _acquire(
    store: Store,
    key: str,
    *,
    owner: str,
    dead: Callable[[str], bool],
    monotonic: Callable[[], float],
    wait: bool,
    times: LeaseTimes,
) -> tuple[Lease, str]:
    watched, since = "", monotonic()
    while True:
        try:
            stored = await store.get(key)
        except NotFound:
            lease = Lease(key=key, owner=owner, epoch=1)
            try:
                return lease, await store.create(key, _body(lease, times, seq=0))
            except Conflict:
                continue
        body = _read(stored.body)
        if stored.etag != watched:
            watched, since = stored.etag, monotonic()
        if body["released"] or dead(body["owner"]) or monotonic() - since >= PATIENCE * times.seconds:
            lease = Lease(key=key, owner=owner, epoch=body["epoch"] + 1)
            try:
                return lease, await store.replace(key, _body(lease, times, seq=0), etag=stored.etag)
            except Conflict:
                continue
        if not wait:
            raise Conflict(f"{body['owner']} is compacting; wait for it, or delete {key} if it is dead")
        await asyncio.sleep(times.seconds / 60)


async def _renew(store: Store, lease: Lease, current: list[str], times: LeaseTimes) -> None:
    seq = 0
    while True:
        await asyncio.sleep(times.heartbeat)
        seq += 1
        try:
            current[0] = await store.replace(lease.key, _body(lease, times, seq=seq), etag=current[0])
        except (Conflict, NotFound):
            return  # taken over: the work goes on, since the conditional commit keeps it correct
        except Transient:
            continue  # it is still valid; if this was written after all, the next renewal is a Conflict


async def _release(store: Store, lease: Lease, etag: str, times: LeaseTimes) -> None:
    body = _body(lease, times, seq=-1, released=True)
    try:
        await store.replace(lease.key, body, etag=etag)
    except Conflict:
        # A renewal in flight when the work ended may have been written after all.
        stored = await store.get(lease.key)
        said = _read(stored.body)
        if (said["owner"], said["epoch"], said["released"]) == (lease.owner, lease.epoch, False):
            await store.replace(lease.key, body, etag=stored.etag)


def _read(body: bytes) -> dict[str, Any]:
    """Parse a lease; a damaged one has no owner."""
    try:
        said = json.loads(body)
        return {"owner": str(said["owner"]), "epoch": int(said["epoch"]), "released": bool(said["released"])}
    except (ValueError, KeyError, TypeError):
        return {"owner": "nobody", "epoch": 0, "released": True}


def _body(lease: Lease, times: LeaseTimes, *, seq: int, released: bool = False) -> bytes:
    # Owner, epoch and seq together are unique, so an equal etag means an equal state.
    return canonical(
        {"owner": lease.owner, "epoch": lease.epoch, "seq": seq, "ttl_s": times.seconds, "released": released}
    )
