"""Atomic writes of single files outside a store: settings, local models, caches."""

from __future__ import annotations

import errno
import os
import secrets
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, OutOfSpace

if TYPE_CHECKING:
    from pathlib import Path

# Texts and vectors are for the owner of a project, whatever the umask.
OWNER_FOLDER, OWNER_FILE = 0o700, 0o600
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # a disk, a quota, the size a file may have
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: readers find the old content or the new, never a part, even after a crash.

    Raises:
        OutOfSpace: the disk is full.
        Misconfigured: the folder is not writable.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in FULL:
            raise OutOfSpace(f"no space left to write {path}: free some and run again") from error
        raise Misconfigured(
            f"{path} cannot be written ({error.strerror}): make its folder writable, or choose another"
        ) from error


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, so that a rename survives a power cut."""
    if os.name != "posix":
        return  # a folder cannot be opened there
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_private_file(path: Path) -> None:
    """Create an empty file for its owner alone, unless there is one; its folder too.

    Raises:
        OSError: it cannot be created.
    """
    path.parent.mkdir(mode=OWNER_FOLDER, parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, OWNER_FILE))
