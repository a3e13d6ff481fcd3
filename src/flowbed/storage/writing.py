"""Writing a file whole or not at all, whatever ends the process or the power meanwhile.

A write goes to a file under `writing/`, is synced, and is renamed into place while the lock of its path is held. Both
are locked by the operating system, which lets go when the process ends: what is unlocked under `writing/` was left by a
process that was killed, and is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
from typing import TYPE_CHECKING

from flowbed.storage.atomic import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Paths share this many lock files, so that these do not pile up; two paths that share one merely wait for each other.
LOCKS = 64

# Another process may prune an emptied folder just as a write makes it again. Losing this often is something else.
ATTEMPTS = 100


class Writing:
    """A file being written, unseen until it is placed; `discard` it in any case."""

    def __init__(self, folder: Path) -> None:
        """Begin a file under `folder`, which keeps unfinished files and locks."""
        self.folder = folder
        unfinished = folder / "writing"
        unfinished.mkdir(parents=True, exist_ok=True)
        self.path, self._handle = _unfinished(unfinished)

    def write(self, piece: bytes) -> None:
        """Append to the file."""
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(self._handle, rest) :]

    def place(self, path: Path, *, only_if: Callable[[], None] | None = None) -> None:
        """Make this the file at `path`, on disk for good, unless `only_if`, called under the lock of `path`, raises."""
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
        """Let go of the file, and remove it unless it was placed."""
        self.path.unlink(missing_ok=True)
        os.close(self._handle)


@contextlib.contextmanager
def locked(folder: Path, path: Path) -> Iterator[None]:
    """Keep every other process and thread from writing or removing `path` meanwhile."""
    locks = folder / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    number = int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8]) % LOCKS
    handle = os.open(locks / f"{number:02d}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the unfinished files of processes that are no more."""
    for path in (folder / "writing").glob("*"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError, PermissionError):
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)


def prune(folder: Path, *, root: Path) -> None:
    """Remove `folder` and the folders above it, below `root`, as far as they are empty."""
    while folder != root:
        try:
            folder.rmdir()
        except OSError:  # it holds something, or is gone already: either way there is no more to do
            return
        folder = folder.parent


def _unfinished(folder: Path) -> tuple[Path, int]:
    while True:
        path = folder / secrets.token_hex(16)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if path.exists():
            return path, handle
        os.close(handle)  # another process swept it between its making and its locking


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    # A file in a folder whose own name was never synced would be lost with that name.
    with contextlib.suppress(FileNotFoundError):
        sync_folder(folder.parent)
