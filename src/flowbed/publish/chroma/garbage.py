"""Snapshots that nothing needs: replaced or never finished, and held by neither pointer, reader nor publisher."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import Misconfigured, NotFound, Rejected
from flowbed.publish.chroma import (
    FOLDER,
    LIST,
    VERSION,
    pointer_key,
    read_pointer,
    read_snapshot,
    snapshot_key,
    snapshots_key,
)
from flowbed.publish.chroma.readers import leased_versions
from flowbed.publish.chroma.uploading import CLAIMED_FOR, claims_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from flowbed.storage import Listed, Store

MICROSECOND = timedelta(microseconds=1)
REPLACED, UNFINISHED = "a newer snapshot has replaced it", "its publisher was killed or overtaken"


@dataclass(frozen=True, kw_only=True)
class UnneededSnapshot:
    """A snapshot to delete: everything below `key`, and its `claim` if it has one."""

    key: str
    claim: str
    objects: int
    bytes: int
    why: str


async def unneeded_snapshots(
    store: Store, collection: str, *, now: int, before: int, dead: Callable[[str], bool]
) -> AsyncIterator[UnneededSnapshot]:
    """Find snapshots that were replaced or given up before a time (microseconds since 1970).

    Without a pointer that can be read nothing is found: which snapshot is needed is then unknown.
    """
    # In this order. A claim ends after the pointer has moved, so a snapshot without one is named by the pointer or was
    # given up; and a reader has written its lease before it reads the pointer for the last time.
    objects = await _objects(store, collection)
    claimed = await _claimed(store, collection, now=now, dead=dead)
    try:
        pointer = await read_pointer(store, collection)
    except Misconfigured:
        return
    if pointer is None:
        return
    replaced = await _replaced(store, collection, pointer.version, objects)
    kept = {pointer.version, *claimed, *await leased_versions(store, collection, now=now)}
    for version, listed in sorted(objects.items()):
        # One that no other was made from was never current, unless the snapshot after it is gone.
        since = max(replaced.get(version, replaced[""]), *(each.modified for each in listed))
        if version in kept or since >= before:
            continue
        whole = any(each.key.endswith(f"/{LIST}") for each in listed)
        yield UnneededSnapshot(
            key=snapshot_key(collection, version),
            claim=f"{claims_key(collection)}/{version}.json",
            objects=len(listed),
            bytes=sum(each.size for each in listed),
            why=REPLACED if whole and version < pointer.version else UNFINISHED,
        )


async def delete_snapshot(store: Store, key: str) -> None:
    """Delete a snapshot: first its list, so that no reader begins with it, then its files and its claim."""
    collection, _, rest = key.partition(f"/{FOLDER}/")
    await store.delete([f"{key}/{LIST}"])
    await store.delete([listed.key async for listed in store.list(key)])
    await store.delete([f"{claims_key(collection)}/{rest.rpartition('/')[2]}.json"])


async def _objects(store: Store, collection: str) -> dict[str, list[Listed]]:
    found = defaultdict[str, list["Listed"]](list)
    prefix = snapshots_key(collection)
    async for listed in store.list(prefix):
        version = listed.key.removeprefix(f"{prefix}/").partition("/")[0]
        if VERSION.fullmatch(version):
            found[version].append(listed)
    return found


async def _replaced(
    store: Store, collection: str, current: str, objects: Mapping[str, Sequence[Listed]]
) -> dict[str, int]:
    """Return when each snapshot that another was made from was replaced, and as "" the earliest of these times."""
    pointers = [
        each.modified
        async for each in store.list(f"{collection}/{FOLDER}")
        if each.key == pointer_key(collection)
    ]
    moved = max(pointers, default=0)
    found: dict[str, int] = {"": moved}
    version = current
    while True:
        try:
            parent = (await read_snapshot(store, collection, version)).parent
        except (NotFound, Rejected):
            return found
        if parent is None or parent in found:
            return found
        listed = [each.modified for each in objects.get(version, ()) if each.key.endswith(f"/{LIST}")]
        found[parent] = moved if version == current else max(listed, default=moved)
        found[""] = min(found.values())
        version = parent


async def _claimed(store: Store, collection: str, *, now: int, dead: Callable[[str], bool]) -> set[str]:
    """Return the snapshots that a publisher may still be uploading."""
    found = set()
    async for listed in store.list(claims_key(collection)):
        if listed.modified < now - CLAIMED_FOR // MICROSECOND:
            continue
        try:
            worker = str(orjson.loads((await store.get(listed.key)).body)["worker"])
        except (NotFound, ValueError, KeyError, TypeError):
            continue
        if not dead(worker):
            found.add(listed.key.rpartition("/")[2].removesuffix(".json"))
    return found
