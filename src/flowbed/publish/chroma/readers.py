"""Leases of readers: garbage collection leaves a snapshot alone while a reader downloads it."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import Error, NotFound
from flowbed.publish.chroma import FOLDER, Snapshot, current_snapshot
from flowbed.records import canonical
from flowbed.telemetry import PULL_LEASED, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.storage import Store

READERS = "readers"
# A lease that was not renewed for this long is over. Its age is told by the store's own times.
TTL = timedelta(hours=1)
# Readers whose pointer moves while they lease start again; a pointer does not move ten times in that moment.
ATTEMPTS = 10


def readers_key(collection: str) -> str:
    """Return the prefix of the leases of a collection's readers."""
    return f"{collection}/{FOLDER}/{READERS}"


@asynccontextmanager
async def leased(store: Store, collection: str, reader: str) -> AsyncIterator[Snapshot]:
    """Hold a lease on the current snapshot; `reader` is an unused name.

    The pointer is read again after the lease was written: whoever collects garbage later sees the lease, and whoever
    did so before had seen the pointer. A reader that may not write into the store reads without a lease, and garbage
    collection keeps snapshots for a day after they were replaced.

    Raises:
        NotFound: there is no current snapshot.
    """
    key = f"{readers_key(collection)}/{reader}.json"
    snapshot = await current_snapshot(store, collection)
    try:
        for _ in range(ATTEMPTS):
            if not await _write(store, key, snapshot.version):
                break
            again = await current_snapshot(store, collection)
            if again.version == snapshot.version:
                break
            snapshot = again
        reached(PULL_LEASED, collection=collection, version=snapshot.version)
        renewing = asyncio.create_task(_renew(store, key, snapshot.version))
        try:
            yield snapshot
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
    finally:
        with contextlib.suppress(Error):  # otherwise it expires
            await store.delete([key])


async def leased_versions(store: Store, collection: str, *, now: int) -> set[str]:
    """Return the snapshots that readers hold at `now` (microseconds since 1970); a damaged lease holds nothing."""
    found = set()
    before = now - TTL // timedelta(microseconds=1)
    async for listed in store.list(readers_key(collection)):
        if listed.modified < before:
            continue
        with contextlib.suppress(NotFound, ValueError, KeyError, TypeError):
            found.add(str(orjson.loads((await store.get(listed.key)).body)["version"]))
    return found


async def _write(store: Store, key: str, version: str) -> bool:
    """Write a lease; return whether the store let it."""
    try:
        await store.put(key, canonical({"version": version}))
    except Error:
        return False
    return True


async def _renew(store: Store, key: str, version: str) -> None:
    while True:
        await asyncio.sleep(TTL.total_seconds() / 4)
        await _write(store, key, version)
