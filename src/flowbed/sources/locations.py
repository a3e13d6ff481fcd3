"""Where a source's files are: paths as people write them, and the files of a folder however deep."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def located(location: str, folder: Path) -> Path:
    """Return the path of a location: below `folder` if it is relative, below a home folder after `~`."""
    path = folder / location
    if location.startswith("~") and not path.exists():
        try:
            return Path(location).expanduser()
        except RuntimeError:  # nobody has that name, or the home folder is unknown
            return path
    return path


def matching(location: str, folder: Path) -> list[Path]:
    """Return the paths that match the pattern `location`, in order; the names of `folder` are no pattern.

    Raises:
        Misconfigured: a folder below it is too deep to search.
    """
    pattern = str(located(location, folder)) if location.startswith("~") else location
    try:
        found = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 - pathlib knows no root_dir
    except RecursionError as error:
        raise Misconfigured(
            f"{location} matches folders that are too deep to search; name the folder that holds the files"
        ) from error
    return sorted(folder / match for match in found)


def files_below(folder: Path, unlistable: Callable[[Path, OSError], None]) -> Iterator[Path]:
    """Yield every file of a folder and its visible subfolders; `unlistable` is told of those that cannot be listed."""
    # A list instead of recursion, since folders may be deeper than Python's stack.
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                found = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            unlistable(here, error)
            continue
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif entry.is_file():
                yield Path(entry.path)
