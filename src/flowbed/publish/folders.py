"""Folders on this machine in which something is made before it is published, each the property of one process."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbed.publish import PublishContext

BUILDING, OWNER = "building-", "owner"


def new_folder(scratch: Path, context: PublishContext) -> Path:
    """Create a folder for one build, and remove those of processes that have ended; blocks."""
    scratch.mkdir(parents=True, exist_ok=True)
    for old in scratch.glob(f"{BUILDING}*"):
        with contextlib.suppress(OSError):
            if context.dead((old / OWNER).read_text("utf-8")):
                shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=BUILDING, dir=scratch))
    (folder / OWNER).write_text(context.worker, "utf-8")
    return folder
