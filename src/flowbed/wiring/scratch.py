"""Scratch folders of a project: each belongs to one piece of work, and those of killed processes are removed."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.errors import Error, Misconfigured, OutOfSpace, Transient
from flowbed.storage.atomic import FORBIDDEN, FULL
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRATCH = Path(".flowbed") / "scratch"


@contextlib.contextmanager
def scratch(project: Path, *, keep: bool = False) -> Iterator[Path]:
    """Make an own scratch folder in the project, and delete it at the end, with those of processes that have ended.

    With `keep`, it stays until the next call. An error of the operating system in the block is one of the folder.

    Raises:
        OutOfSpace: the disk is full.
        Misconfigured: it cannot be made or written.
        Transient: another error of the operating system.
    """
    place = project / SCRATCH
    name = process.worker().replace("/", "~")
    try:
        for other in sorted(place.iterdir()) if place.is_dir() else []:
            if process.dead(other.name.replace("~", "/")):
                shutil.rmtree(other, ignore_errors=True)
        (place / name).mkdir(parents=True)
    except OSError as error:
        raise _translated(error, place) from error
    try:
        yield place / name
    except OSError as error:
        if error.errno is None:  # not of the operating system, as a TimeoutError
            raise
        raise _translated(error, place) from error
    finally:
        if not keep:
            shutil.rmtree(place / name, ignore_errors=True)


def _translated(error: OSError, place: Path) -> Error:
    what = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    if error.errno in FULL:
        return OutOfSpace(f"no space left in {place} ({what}): nothing is lost, free some and run again")
    if error.errno in FORBIDDEN:
        return Misconfigured(f"{place} cannot be written ({what}): make the project's folder writable")
    return Transient(f"{place} cannot be used ({what}): run again")
