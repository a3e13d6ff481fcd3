"""Atomic writes of a store's files, safe against crashes and power loss.

A write goes to a file under `writing/`, is synced, and is renamed into place under the lock of its path. The operating
system locks both files and releases them when the process ends, so an unlocked file under `writing/` was left by a
killed process, and is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
from typing import TYPE_CHECKING

from flowbed.storage.atomic import OWNER_FILE, OWNER_FOLDER, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Number of lock files. Paths share them, so that they do not accumulate; paths that share one wait for each other.
LOCKS = 64

# Another process may prune a folder just as a write creates it. Losing this race so often has another cause.
ATTEMPTS = 100


class AtomicFile:
    """A file being written, invisible until it is placed; always `discard` it at the end."""

    def __init__(self, folder: Path) -> None:
        """Create an unfinished file; `folder` holds unfinished files and locks."""
        self.folder = folder
        unfinished = folder / "writing"
        _make_own(folder, unfinished)
        self.path, self._handle = _unfinished(unfinished)

    def write(self, piece: bytes) -> None:
        """Append to the file."""
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(self._handle, rest) :]

    def place(self, path: Path, *, only_if: Callable[[], None] | None = None) -> None:
        """Sync the file and rename it to `path`, unless `only_if`, called under the lock of `path`, raises."""
        os.fsync(self._handle)
        for attempt in range(ATTEMPTS):
            try:
                _make_folder(path.parent)
                with locked(self.folder, path):
                    if only_if is not None:
                        only_if()
                    self.path.rename(path)
                    sync_folder(path.parent)
            except FileNotFoundError:  # the folder was pruned in between
                if attempt == ATTEMPTS - 1 or not self.path.exists():
                    raise
            else:
                return

    def discard(self) -> None:
        """Close the file, and remove it unless it was placed."""
        self.path.unlink(missing_ok=True)
        os.close(self._handle)


@contextlib.contextmanager
def locked(folder: Path, path: Path) -> Iterator[None]:
    """Lock `path` against writes and removals by other processes and threads."""
    locks = folder / "locks"
    _make_own(folder, locks)
    number = int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8]) % LOCKS
    handle = os.open(locks / f"{number:02d}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_FILE)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the unfinished files of processes that have ended."""
    for path in (folder / "writing").glob("*"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError, PermissionError):
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)


def prune(folder: Path, *, root: Path) -> None:
    """Remove `folder` and its parents below `root` as long as they are empty."""
    while folder != root:
        try:
            folder.rmdir()
        except OSError:  # not empty, or already gone
            return
        folder = folder.parent


def _unfinished(folder: Path) -> tuple[Path, int]:
    while True:
        path = folder / secrets.token_hex(16)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_FILE)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if path.exists():
            return path, handle
        os.close(handle)  # another process removed it before it was locked


def _make_own(folder: Path, part: Path) -> None:
    """Create a folder of the store's own, in one that may be missing too."""
    for each in (folder, part):
        each.mkdir(OWNER_FOLDER, parents=True, exist_ok=True)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(OWNER_FOLDER)
    # Without this, a power cut could lose the folder's own name, and every file in it.
    with contextlib.suppress(FileNotFoundError):
        sync_folder(folder.parent)
