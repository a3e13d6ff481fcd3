"""Downloads the current snapshot: checked, whole or absent, continued where it was interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flowbed.errors import Misconfigured, NotFound, OutOfSpace, Rejected, Transient
from flowbed.publish.chroma import LIST, VERSION, Snapshot, parsed
from flowbed.publish.chroma.files import Torn, copy_checked, download, hashed, sync_tree
from flowbed.publish.chroma.readers import leased
from flowbed.storage.atomic import FULL, sync_folder, write_whole
from flowbed.telemetry import PULL_FILE_READY, PULL_PLACED, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.storage import Store

StorageMode = Literal["s3", "efs", "auto"]
MODES: tuple[StorageMode, ...] = ("s3", "efs", "auto")
# The folder of a download that is not whole yet; the link to the newest snapshot; the lock of those who write.
PARTIAL, LATEST, LOCK = ".partial-", "latest", ".lock"
KEPT = 2  # the newest snapshot, and the one that a reader may still have open
# Downloads that find their snapshot deleted start again with the current one.
ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A snapshot on this machine: the directory to open, what it holds, and how many of its bytes were transferred."""

    path: Path
    version: str
    index_version: int
    rows: int
    downloaded: int
    reused: int


async def pull(
    store: Store,
    collection: str,
    directory: Path,
    *,
    mode: StorageMode = "s3",
    root: Path | None = None,
    reader: str = "",
) -> Pulled:
    """Bring the current snapshot of a collection into `directory`/VERSION, and point `directory`/latest to it.

    `mode` says where it comes from: `s3`, the store; `efs`, a shared file system mounted at `root`, into which the
    first reader copies it from the store; `auto`, `efs` where `root` is given and usable, the store otherwise.

    Raises:
        NotFound: there is no current snapshot.
        Transient: the store cannot be reached, or snapshots are replaced faster than they are downloaded.
        Misconfigured: mode `efs` without a mounted `root`, or the folder cannot be written.
        OutOfSpace: the disk is full.
    """
    # Never created here: without its file system it would be a folder on this machine's disk.
    mounted = root is not None and await asyncio.to_thread(root.is_dir)
    if mode == "efs" and not mounted:
        raise Misconfigured(
            f"storage mode efs needs a mounted file system: {root or 'CHROMA_ROOT'} is not a folder; set CHROMA_ROOT"
        )
    shared = _on_mount(root, collection) if root is not None and mounted and mode != "s3" else None
    error: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            async with leased(store, collection, reader or secrets.token_hex(8)) as snapshot:
                return await _pull(store, snapshot, directory, shared, fallback=mode == "auto")
        except Torn as torn:
            error = torn
        except OSError as refused:
            if refused.errno in FULL:
                raise OutOfSpace(
                    f"no space left for {collection} in {directory}: free some and pull again"
                ) from refused
            raise Misconfigured(
                f"{collection} cannot be pulled into {directory} ({refused.strerror or refused}:"
                f" {refused.filename2 or refused.filename}): choose a folder that can be written"
            ) from refused
    raise Transient(
        f"{collection} could not be pulled ({error}); `flowbed publish {collection} --reconcile` checks it"
    )


async def copy_to_mount(store: Store, collection: str, root: Path) -> Pulled:
    """Bring the current snapshot of a collection to the file system mounted at `root`, where mode `efs` looks for it.

    Raises:
        NotFound: there is no current snapshot.
        Transient: the store cannot be reached, or the snapshot was replaced meanwhile.
        OSError: the file system cannot be written.
    """
    async with leased(store, collection, secrets.token_hex(8)) as snapshot:
        return await _place(store, snapshot, _on_mount(root, collection), None)


def _on_mount(root: Path, collection: str) -> Path:
    return root / "snapshots" / collection


async def _pull(
    store: Store, snapshot: Snapshot, directory: Path, shared: Path | None, *, fallback: bool
) -> Pulled:
    source: Path | None = None
    downloaded = 0
    if shared is not None:
        try:
            on_mount = await _place(store, snapshot, shared, None)
            source, downloaded = on_mount.path, on_mount.downloaded
        except (OSError, Transient) as error:
            if not fallback or isinstance(error, Torn):
                raise
    placed = await _place(store, snapshot, directory, source)
    if source is not None:
        return Pulled(**{**vars(placed), "downloaded": downloaded + placed.downloaded})
    return placed


async def _place(store: Store, snapshot: Snapshot, directory: Path, source: Path | None) -> Pulled:
    """Put a snapshot into a directory of snapshots, from a local `source` of the same or from the store."""
    final = directory / snapshot.version
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    async with _locked(directory):
        reused, downloaded = 0, 0
        if not await asyncio.to_thread(_is_whole, final, snapshot):
            partial = directory / f"{PARTIAL}{snapshot.version}"
            for name, wanted in snapshot.files.items():
                if await asyncio.to_thread(_have, partial / name, name, snapshot, directory, source):
                    reused += wanted.size
                else:
                    await download(store, snapshot, name, partial / name)
                    downloaded += wanted.size
                reached(PULL_FILE_READY, collection=snapshot.collection, file=name)
            await asyncio.to_thread(_finish, partial, final, snapshot)
        await asyncio.to_thread(_link, directory, snapshot.version)
        reached(PULL_PLACED, collection=snapshot.collection, version=snapshot.version)
        await asyncio.to_thread(_tidy, directory, snapshot.version)
    return Pulled(
        path=final,
        version=snapshot.version,
        index_version=snapshot.index_version,
        rows=snapshot.rows,
        downloaded=downloaded,
        reused=reused,
    )


@asynccontextmanager
async def _locked(directory: Path) -> AsyncIterator[None]:
    """Let one process at a time write into a directory of snapshots."""
    handle = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.05)
        yield
    finally:
        os.close(handle)


def _is_whole(final: Path, snapshot: Snapshot) -> bool:
    """Return whether a snapshot was placed and has all of its files; a reader may have changed them since."""
    try:
        placed = parsed((final / LIST).read_bytes(), str(final / LIST)) == snapshot
        return placed and all((final / name).is_file() for name in snapshot.files)
    except (OSError, Rejected):
        return False


def _have(target: Path, name: str, snapshot: Snapshot, directory: Path, source: Path | None) -> bool:
    """Make sure that a file is there without a download: from before, from the mount, or from another snapshot."""
    wanted = snapshot.files[name]
    with contextlib.suppress(FileNotFoundError):
        if target.stat().st_size == wanted.size and hashed(target) == wanted:
            return True
    if source is not None:
        return copy_checked(source / name, target, wanted)
    for other in _versions(directory):
        with contextlib.suppress(OSError, Rejected):
            known = parsed((directory / other / LIST).read_bytes(), other).files
            if known.get(name) == wanted and copy_checked(directory / other / name, target, wanted):
                return True
    return False


def _finish(partial: Path, final: Path, snapshot: Snapshot) -> None:
    """Complete a partial directory and give it its name."""
    for path in sorted(partial.rglob("*")):
        if path.is_file() and path.relative_to(partial).as_posix() not in snapshot.files:
            path.unlink()
    write_whole(partial / LIST, snapshot.to_json())
    sync_tree(partial)
    if final.exists():  # placed before, and damaged since
        shutil.rmtree(final)
    partial.rename(final)
    sync_folder(final.parent)


def _link(directory: Path, version: str) -> None:
    """Point `latest` to a version, unless it points to a newer one."""
    link = directory / LATEST
    with contextlib.suppress(OSError):
        if (now := str(link.readlink())) >= version and VERSION.fullmatch(now):
            return
    draft = directory / f".{LATEST}.{secrets.token_hex(4)}"
    draft.symlink_to(version)
    try:
        draft.replace(link)
    except OSError:  # a folder has the name
        draft.unlink()
        raise


def _tidy(directory: Path, version: str) -> None:
    """Remove old snapshots, and downloads that were given up."""
    for old in _versions(directory)[:-KEPT]:
        if old != version:
            shutil.rmtree(directory / old, ignore_errors=True)
    for partial in directory.glob(f"{PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)


def _versions(directory: Path) -> list[str]:
    """Return the snapshots in a directory, oldest first."""
    return sorted(each.name for each in directory.iterdir() if VERSION.fullmatch(each.name))


def latest(directory: Path) -> Path:
    """Return the snapshot that was pulled last.

    Raises:
        NotFound: none was.
    """
    try:
        return directory / (directory / LATEST).readlink()
    except OSError as error:
        raise NotFound(f"no snapshot was pulled into {directory}; `flowbed pull` does it") from error
