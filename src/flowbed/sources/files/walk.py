"""Walk through a folder: which of its entries are files to read."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.ledger.text import ID_BYTES
from flowbed.records import Problem
from flowbed.sources.decoding import UNUSABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Generated files, and a project's own settings. Hidden files and folders, such as `.git` and `.flowbed`, are skipped
# too.
SKIPPED = ("__pycache__", "node_modules", "flowbed.toml")

# How much of an overlong path a message shows.
SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class File:
    """A regular file found by the walk."""

    name: str
    path: Path
    size: int
    modified: int
    changed: int
    inode: int


@dataclass(kw_only=True)
class Walk:
    """One walk through a folder, in order of names; `left_out` counts what was not wanted, by what leaves it out."""

    root: Path
    left_out_by: Callable[[str], str]
    left_out: Counter[str] = field(default_factory=Counter)
    inside: Path = field(init=False)

    def files(self, location: str) -> Iterator[File | Problem]:
        """Walk from the top, which may be a single file."""
        try:
            top = self.root.stat()
            if stat.S_ISDIR(top.st_mode):
                self.inside = self.root.resolve()
                entries = _entries(self.root)
            elif stat.S_ISREG(top.st_mode):
                yield _file(self.root.name, self.root, top)
                return
            else:
                raise Misconfigured(f"{location} is neither a file nor a folder")
        except FileNotFoundError as error:
            raise Misconfigured(f"{location} does not exist; give the path of a file or folder") from error
        except OSError as error:
            raise Misconfigured(f"{location} cannot be read: {error.strerror}") from error
        # A list of folders that are being walked instead of recursion, since they may be deeper than Python's stack.
        walking = [(iter(entries), "")]
        while walking:
            here, above = walking[-1]
            for found in self._listed(here, above):
                if isinstance(found, tuple):
                    walking.append(found)
                    break
                yield found
            else:
                walking.pop()

    def _listed(
        self, entries: Iterator[os.DirEntry[str]], above: str
    ) -> Iterator[File | Problem | tuple[Iterator[os.DirEntry[str]], str]]:
        """Yield what is next in a folder; a subfolder as its own entries, and the start of their names."""
        for entry in entries:
            if never_read(entry.name):
                self.left_out["hidden"] += 1
                continue
            name = above + entry.name
            folder = entry.is_dir(follow_symlinks=False)
            if UNUSABLE.search(name):
                # A file with such a name was never indexed, but a folder may contain files that were, before it was
                # renamed.
                yield Problem(
                    subject=ascii(name)[1:-1],
                    reason=_unusable(name),
                    document="" if folder else ascii(name)[1:-1],
                )
                continue
            if by := self.left_out_by(f"{name}/" if folder else name):
                self.left_out[by] += 1
                continue
            if not folder:
                yield from self._file(entry, name)
                continue
            yield from self._folder(entry, f"{name}/")

    def _folder(
        self, entry: os.DirEntry[str], name: str
    ) -> Iterator[Problem | tuple[Iterator[os.DirEntry[str]], str]]:
        """Yield a subfolder's entries, or why it is left out: it may hold any document whose id begins with `name`."""
        if len(name.encode()) > ID_BYTES:
            reason = f"its path is longer than {ID_BYTES:,} bytes, so nothing below it is indexed: move it up"
            yield Problem(subject=f"{name[:SHOWN]}...", reason=reason, folder=name)
            return
        try:
            inner = _entries(Path(entry.path))
        except FileNotFoundError:
            return
        except OSError as error:
            yield Problem(subject=name, reason=f"cannot be listed: {error.strerror}", folder=name)
            return
        yield iter(inner), name

    def _file(self, entry: os.DirEntry[str], name: str) -> Iterator[File | Problem]:
        try:
            status = entry.stat()
            outside = entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(self.inside)
        except OSError as error:
            if entry.is_symlink():
                yield Problem(subject=name, reason=f"a broken link: {error.strerror}", skipped=True)
            # Otherwise it was removed after its folder was listed.
            return
        if stat.S_ISDIR(status.st_mode):
            yield Problem(subject=name, reason="a link to a folder, which is not followed", skipped=True)
        elif outside:
            yield Problem(subject=name, reason="a link that leads out of the folder", skipped=True)
        elif not stat.S_ISREG(status.st_mode):
            yield Problem(subject=name, reason="not a regular file", skipped=True)
        else:
            yield _file(name, Path(entry.path), status)


def never_read(name: str) -> str:
    """Say why a file or folder of this name is never read; empty if it may be."""
    if name.startswith("."):
        return "hidden files are never read"
    return f"{name} is never read" if name in SKIPPED else ""


def _file(name: str, path: Path, status: os.stat_result) -> File:
    return File(
        name=name,
        path=path,
        size=status.st_size,
        modified=status.st_mtime_ns,
        changed=status.st_ctime_ns,
        inode=status.st_ino,
    )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _unusable(name: str) -> str:
    """Return what is wrong with a name that cannot be an id; Python marks bytes that are not UTF-8 as surrogates."""
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "its name is not UTF-8: rename it"
    return "its name contains control characters: rename it"
