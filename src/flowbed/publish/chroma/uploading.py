"""Uploads snapshots: a claim first, then the files, and the file list last."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from flowbed.errors import Conflict, NotFound, Rejected, Transient
from flowbed.publish.chroma import (
    FOLDER,
    LIST,
    VERSION,
    Pointer,
    Snapshot,
    SnapshotFile,
    read_snapshot,
    snapshot_key,
    snapshots_key,
    version_at,
)
from flowbed.publish.chroma.files import upload
from flowbed.records import canonical
from flowbed.telemetry import SNAPSHOT_CLAIMED, SNAPSHOT_FILE_UPLOADED, SNAPSHOT_LISTED, reached

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.publish import PublishContext
    from flowbed.storage import Store

CLAIMS = "building"
# Garbage collection leaves the files of a claim alone for this long; an upload that takes half of it gives up.
CLAIMED_FOR = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The name of a snapshot that only one publisher may upload, since `moment`."""

    key: str
    version: str
    moment: int


def claims_key(collection: str) -> str:
    """Return the prefix of the claims of a collection's snapshots."""
    return f"{collection}/{FOLDER}/{CLAIMS}"


async def claim(context: PublishContext, collection: str, *, after: Pointer | None) -> Claim:
    """Claim a name for a new snapshot that sorts after the current one, and after all there are."""
    store, moment = context.store, context.clock()
    known = [each for each in await store.folders(snapshots_key(collection)) if VERSION.fullmatch(each)]
    for each in [*known[-1:], *([after.version] if after is not None else [])]:
        moment = max(moment, _moment(each) + 1)
    while True:
        version = version_at(moment)
        key = f"{claims_key(collection)}/{version}.json"
        try:
            await store.create(key, canonical({"worker": context.worker, "since": moment}))
        except Conflict:
            moment += 1
            continue
        # A claim is deleted with the end of its publication: the name may be taken nevertheless.
        if [each async for each in store.list(snapshot_key(collection, version))]:
            await store.delete([key])
            moment += 1
            continue
        reached(SNAPSHOT_CLAIMED, collection=collection, version=version)
        return Claim(key=key, version=version, moment=context.clock())


async def upload_snapshot(context: PublishContext, snapshot: Snapshot, directory: Path) -> None:
    """Upload the files and then their list.

    Raises:
        Transient: a file did not arrive whole.
    """
    prefix = snapshot_key(snapshot.collection, snapshot.version)
    for name in snapshot.files:
        await upload(context.store, f"{prefix}/{name}", directory / name)
        reached(SNAPSHOT_FILE_UPLOADED, collection=snapshot.collection, file=name)
    sizes = {
        listed.key.removeprefix(f"{prefix}/"): listed.size async for listed in context.store.list(prefix)
    }
    for name, file in snapshot.files.items():
        if sizes.get(name) != file.size:
            raise Transient(
                f"{prefix}/{name} has {sizes.get(name)} bytes in {context.store.url} instead of {file.size}: run again"
            )
    await context.store.create(f"{prefix}/{LIST}", snapshot.to_json())
    reached(SNAPSHOT_LISTED, collection=snapshot.collection, version=snapshot.version)


async def still_claimed(context: PublishContext, claimed: Claim) -> None:
    """Refuse to publish what garbage collection may be deleting: the upload took too long, or the claim is gone.

    Raises:
        Transient: it may; nothing was published.
    """
    took = (context.clock() - claimed.moment) * MICROSECOND
    try:
        await context.store.get(claimed.key)
    except NotFound as error:
        raise Transient(f"the claim {claimed.key} is gone, and nothing was published: run again") from error
    if took > CLAIMED_FOR / 2:
        raise Transient(f"uploading {claimed.version} took {took}, and nothing was published: run again")


async def wrong_in_store(store: Store, collection: str, version: str) -> str:
    """Read every file of a snapshot, and say what is wrong with them; an empty text if nothing is."""
    try:
        snapshot = await read_snapshot(store, collection, version)
        if not snapshot.files:
            return f"snapshot {version} has no files"
        for name, wanted in snapshot.files.items():
            if await _hashed(store, f"{snapshot_key(collection, version)}/{name}") != wanted:
                return f"{name} of snapshot {version} is damaged in the store"
    except (NotFound, Rejected) as error:
        return f"snapshot {version} is not complete: {error}"
    return ""


async def _hashed(store: Store, key: str) -> SnapshotFile:
    digest, size = hashlib.sha256(), 0
    async for piece in store.stream(key):
        await asyncio.to_thread(digest.update, piece)
        size += len(piece)
    return SnapshotFile(size=size, sha256=digest.hexdigest())


def _moment(version: str) -> int:
    """Return the microseconds since 1970 that a version names."""
    at = datetime.strptime(f"{version}+0000", "%Y%m%d_%H%M%S_%f%z")
    return int(at.timestamp()) * 1_000_000 + at.microsecond
