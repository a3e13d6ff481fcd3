"""Follow folders and files as they change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from watchfiles import Change

# Milliseconds in which changes are gathered, and after which a quiet folder is reported as followed.
GATHER, QUIET = 400, 500
# Seconds before a folder that cannot be followed is tried again.
AGAIN = 30.0
HIDDEN = ".flowbed"


async def follow(
    places: Mapping[str, Path],
    changed: Callable[[str], None],
    *,
    polling: bool,
    failed: Callable[[str], None],
) -> None:
    """Call `changed` with the name of each place once it is followed, and whenever something below it changes.

    A place that does not exist yet, or vanishes, is tried again. `polling` looks at every file again and again, for
    network drives, which report no changes. `failed` is called with why nothing can be followed.
    """
    folders = {name: path for name, path in places.items() if path.is_dir()}
    # A file that is replaced is another file: its folder is followed.
    files = {name: path for name, path in places.items() if name not in folders}
    async with asyncio.TaskGroup() as group:
        for each, recursive in ((folders, True), (files, False)):
            if each:
                group.create_task(_follow(each, changed, recursive=recursive, polling=polling, failed=failed))


async def _follow(
    places: Mapping[str, Path],
    changed: Callable[[str], None],
    *,
    recursive: bool,
    polling: bool,
    failed: Callable[[str], None],
) -> None:
    from watchfiles import awatch

    def is_ours(_: Change, path: str) -> bool:
        return f"/{HIDDEN}/" not in f"{path}/"

    roots = {path if recursive else path.parent for path in places.values()}
    while True:
        if not (there := _existing(roots)):
            await asyncio.sleep(AGAIN)
            continue
        changes = awatch(
            *there,
            watch_filter=is_ours,
            debounce=GATHER,
            rust_timeout=QUIET,
            yield_on_timeout=True,
            recursive=recursive,
            force_polling=polling or None,
        )
        followed = False
        try:
            async for some in changes:
                for name in _touched(places, {path for _, path in some}) if followed else places:
                    changed(name)
                followed = True
                if _existing(roots) != there:
                    break
        except OSError as error:
            failed(
                f"folders cannot be followed: {error}; raise fs.inotify.max_user_watches, or set polling = true in"
                " [watch]"
            )
        await asyncio.sleep(AGAIN)


def _existing(roots: Iterable[Path]) -> list[Path]:
    return sorted(root for root in roots if root.is_dir())


def _touched(places: Mapping[str, Path], paths: Collection[str]) -> list[str]:
    """Return the places that contain a path, or lie below one."""
    return [name for name, place in places.items() if any(_is_below(path, str(place)) for path in paths)]


def _is_below(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/") or place.startswith(f"{path}/")
