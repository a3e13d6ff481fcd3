"""The maintenance lease: it saves work when two compact at once. Nothing is lost when it is deleted at any moment."""

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

TTL = 60.0  # seconds that a holder may be silent
# A rival must see the very same body for longer than the holder could be silent, by the rival's own clock alone:
# no two machines' wall clocks are ever compared.
PATIENCE = TTL * 1.2


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
) -> AsyncIterator[Lease]:
    """Hold the maintenance lease of a collection, renewed meanwhile; `dead` knows of owners that have ended.

    Raises:
        Conflict: someone else holds it, and has not been silent for long enough (`wait` waits until that is so).
    """
    key = f"{collection}/lease.json"
    lease, etag = await _acquire(store, key, owner=owner, dead=dead, monotonic=monotonic, wait=wait)
    current = [etag]
    beat = asyncio.create_task(_renew(store, lease, current))
    try:
        yield lease
    finally:
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)
        # Taken over or deleted, there is nothing left to give back; out of reach, it expires by itself.
        with contextlib.suppress(Conflict, NotFound, Transient):
            await _release(store, lease, current[0])


async def _acquire(
    store: Store,
    key: str,
    *,
    owner: str,
    dead: Callable[[str], bool],
    monotonic: Callable[[], float],
    wait: bool,
) -> tuple[Lease, str]:
    watched, since = "", monotonic()
    while True:
        try:
            stored = await store.get(key)
        except NotFound:
            lease = Lease(key=key, owner=owner, epoch=1)
            try:
                return lease, await store.create(key, _body(lease, seq=0))
            except Conflict:
                continue
        body = _read(stored.body)
        if stored.etag != watched:
            watched, since = stored.etag, monotonic()
        if body["released"] or dead(body["owner"]) or monotonic() - since >= PATIENCE:
            lease = Lease(key=key, owner=owner, epoch=body["epoch"] + 1)
            try:
                return lease, await store.replace(key, _body(lease, seq=0), etag=stored.etag)
            except Conflict:
                continue
        if not wait:
            raise Conflict(f"{body['owner']} is compacting; wait for it, or delete {key} if it is dead")
        await asyncio.sleep(TTL / 60)


async def _renew(store: Store, lease: Lease, current: list[str]) -> None:
    seq = 0
    while True:
        await asyncio.sleep(TTL / 3)
        seq += 1
        try:
            current[0] = await store.replace(lease.key, _body(lease, seq=seq), etag=current[0])
        except (Conflict, NotFound):
            return  # taken over: the work goes on, since it is the conditional commit that keeps it correct
        except Transient:
            continue  # it holds for a while yet; should this have been written all the same, the next one is a Conflict


async def _release(store: Store, lease: Lease, etag: str) -> None:
    body = _body(lease, seq=-1, released=True)
    try:
        await store.replace(lease.key, body, etag=etag)
    except Conflict:
        # A renewal that was under way when the work ended may have been written after all.
        stored = await store.get(lease.key)
        said = _read(stored.body)
        if (said["owner"], said["epoch"], said["released"]) == (lease.owner, lease.epoch, False):
            await store.replace(lease.key, body, etag=stored.etag)


def _read(body: bytes) -> dict[str, Any]:
    """Read a lease; one that is damaged is nobody's."""
    try:
        said = json.loads(body)
        return {"owner": str(said["owner"]), "epoch": int(said["epoch"]), "released": bool(said["released"])}
    except (ValueError, KeyError, TypeError):
        return {"owner": "nobody", "epoch": 0, "released": True}


def _body(lease: Lease, *, seq: int, released: bool = False) -> bytes:
    # Owner, epoch and seq together are unique, so that an equal etag always means an equal state.
    return canonical(
        {"owner": lease.owner, "epoch": lease.epoch, "seq": seq, "ttl_s": TTL, "released": released}
    )
