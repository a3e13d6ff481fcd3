"""Scratch folders of a project: each belongs to one piece of work, and those of killed processes are removed."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRATCH = Path(".flowbed") / "scratch"


@contextlib.contextmanager
def scratch(project: Path, *, keep: bool = False) -> Iterator[Path]:
    """Make an own scratch folder in the project, and delete it at the end, with those of processes that have ended.

    With `keep`, it stays until the next call.

    Raises:
        Misconfigured: it cannot be made.
    """
    place = project / SCRATCH
    name = process.worker().replace("/", "~")
    try:
        for other in sorted(place.iterdir()) if place.is_dir() else []:
            if process.dead(other.name.replace("~", "/")):
                shutil.rmtree(other, ignore_errors=True)
        (place / name).mkdir(parents=True)
    except OSError as error:
        raise Misconfigured(f"{place} cannot be written: {error.strerror}") from error
    try:
        yield place / name
    finally:
        if not keep:
            shutil.rmtree(place / name, ignore_errors=True)
