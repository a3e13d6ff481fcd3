"""Chroma snapshots that compaction has published, on the file system that their readers share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, NotFound
from flowbed.telemetry import log
from flowbed.wiring.publications import configured, storage_mode

if TYPE_CHECKING:
    from flowbed.bed import Flowbed

CHROMA = "chroma"


async def copy_snapshots(bed: Flowbed) -> int:
    """Copy the current snapshot of each published collection to `CHROMA_ROOT`, and return how many were copied.

    That is what `CHROMADB_STORAGE_MODE` asks for: `efs` does, `auto` does where the file system can be written, and
    `s3` leaves snapshots in the store. One that is there already is not copied again.

    Raises:
        Misconfigured: the mode is unknown, or `efs` without a file system that can be written.
    """
    publications = [each for each in configured(bed.settings) if each.kind == CHROMA]
    if not publications:
        return 0
    mode, root = storage_mode(None)
    if mode == "s3" or (mode == "auto" and root is None):
        return 0
    from flowbed.publish.chroma.pull import copy_to_mount
    from flowbed.publish.due import collections_of

    if root is None or not await asyncio.to_thread(root.is_dir):
        return _without_mount(mode, f"{root or 'CHROMA_ROOT'} is not a folder")
    copied = 0
    for each in publications:
        for collection in await collections_of(each, bed.store):
            try:
                copied += bool((await copy_to_mount(bed.store, collection, root)).downloaded)
            except NotFound:
                continue  # not published yet, or replaced just now: the next call copies it
            except OSError as error:
                return _without_mount(mode, f"{root} cannot be written: {error.strerror or error}")
    return copied


def _without_mount(mode: str, why: str) -> int:
    if mode == "auto":
        log.warning("snapshots stay in the store: %s", why)
        return 0
    raise Misconfigured(
        f"snapshots are published, but storage mode efs needs a mounted file system: {why}; set CHROMA_ROOT, or"
        " CHROMADB_STORAGE_MODE to auto"
    )
