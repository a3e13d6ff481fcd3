"""Files in a cache folder that several processes share."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from flowbed.errors import Misconfigured, OutOfSpace

FULL = (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, whatever ends this process or another one that writes it.

    Raises:
        OutOfSpace: the disk is full.
        Misconfigured: the folder cannot be written to.
    """
    import tempfile  # who only reads has no use for it

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)
    except OSError as error:
        if error.errno in FULL:
            raise OutOfSpace(f"no space left to write {path}; free some and run again") from error
        raise Misconfigured(
            f"{path} cannot be written ({error.strerror}); make its folder writable or choose another cache"
        ) from error


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where a folder can be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
