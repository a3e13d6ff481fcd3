"""Files of snapshots on this machine: hashed, copied, uploaded and downloaded."""

from __future__ import annotations

import asyncio
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.errors import NotFound, OutOfSpace, Transient
from flowbed.publish.chroma import LIST, Snapshot, SnapshotFile, snapshot_key
from flowbed.storage.atomic import FULL, sync_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import BinaryIO

    from flowbed.storage import Store

PIECE = 1 << 20


class Torn(NotFound):
    """A file of a snapshot is missing in the store, or its bytes are not those of its file list."""


def file_list(directory: Path) -> dict[str, SnapshotFile]:
    """Hash every file below a directory, by its path within; blocks."""
    paths = [each for each in sorted(directory.rglob("*")) if each.is_file() and each.name != LIST]
    # Two are much larger than the others: the database, and the vectors.
    with ThreadPoolExecutor(2) as hashing:
        names = [each.relative_to(directory).as_posix() for each in paths]
        return dict(zip(names, hashing.map(hashed, paths), strict=True))


def hashed(path: Path) -> SnapshotFile:
    """Hash one file; blocks."""
    digest, size = hashlib.sha256(), 0
    for piece in _read(path):
        digest.update(piece)
        size += len(piece)
    return SnapshotFile(size=size, sha256=digest.hexdigest())


def copy_checked(source: Path, target: Path, wanted: SnapshotFile) -> bool:
    """Copy a file if it has the size and hash `wanted`, and sync it; return whether it has; blocks.

    Raises:
        OutOfSpace: the disk is full.
    """
    try:
        if source.stat().st_size != wanted.size:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("wb") as file:
            for piece in _read(source):
                digest.update(piece)
                file.write(piece)
            _flushed(file)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        target.unlink(missing_ok=True)
        raise _translated(error, target) from error
    if digest.hexdigest() != wanted.sha256:
        target.unlink(missing_ok=True)
        return False
    return True


async def download(store: Store, snapshot: Snapshot, name: str, target: Path) -> None:
    """Download one file of a snapshot, check its size and hash, and sync it; on failure there is no file.

    Raises:
        Torn: the store does not have the file that the list describes.
        OutOfSpace: the disk is full.
    """
    key = f"{snapshot_key(snapshot.collection, snapshot.version)}/{name}"
    try:
        wanted = snapshot.files[name]
        if (found := await _save(store, key, target, most=wanted.size)) != wanted:
            raise Torn(  # noqa: TRY301 - the file is removed below
                f"{key} in {store.url} is not the file of its list: {found.size:,} bytes instead of {wanted.size:,}"
            )
    except BaseException as error:
        await asyncio.to_thread(target.unlink, missing_ok=True)
        if isinstance(error, NotFound) and not isinstance(error, Torn):
            raise Torn(f"{key} is missing in {store.url}") from error
        if isinstance(error, OSError):
            raise _translated(error, target) from error
        raise


async def _save(store: Store, key: str, target: Path, *, most: int) -> SnapshotFile:
    digest, size = hashlib.sha256(), 0
    await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
    with target.open("wb") as file:
        async for piece in store.stream(key):
            digest.update(piece)
            size += len(piece)
            if size > most:
                raise Torn(f"{key} in {store.url} is longer than the {most:,} bytes of its list")
            await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(_flushed, file)
    return SnapshotFile(size=size, sha256=digest.hexdigest())


async def upload(store: Store, key: str, path: Path) -> None:
    """Upload a file in pieces."""
    await store.put(key, _pieces(path))


def sync_tree(directory: Path) -> None:
    """Flush the names of a directory's files to disk; blocks."""
    for folder, _, _ in os.walk(directory):
        sync_folder(Path(folder))


def _flushed(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _translated(error: OSError, path: Path) -> Exception:
    if error.errno in FULL:
        return OutOfSpace(f"no space left to write {path}: free some and run again")
    return Transient(f"{path} cannot be written: {error}")
