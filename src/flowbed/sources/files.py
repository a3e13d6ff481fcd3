"""Text files of a folder: one document per file."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pathspec import GitIgnoreSpec

from flowbed.errors import Misconfigured, Rejected
from flowbed.ledger.text import ID_BYTES
from flowbed.records import Document, Entry, Page, Problem
from flowbed.sources.decoding import UNUSABLE, decoded, why_not_text
from flowbed.sources.locations import located
from flowbed.sources.options import SourceOptions
from flowbed.sources.paging import in_pages, in_threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

KNOWN = ("include", "exclude", "ignore", "max_bytes", "title")
TITLES = ("none", "name")
MARKDOWN = (".md", ".markdown", ".mdx")

# Generated files, and a project's own settings. Hidden files and folders, such as `.git` and `.flowbed`, are skipped
# too.
SKIPPED = ("__pycache__", "node_modules", "flowbed.toml")

# Larger files are dumps and logs; a document is held in memory whole.
LARGEST_BYTES = 20_000_000

# A file may be written again within one tick of the file system's clock, 2 s on FAT; older times are reliable.
CLOCK_TICK_NS = 2_000_000_000

# How much of an overlong path a message shows.
SHOWN = 100

# How much of a file each listing reads to tell whether it is text: all of most files, and still little.
HEAD_BYTES = 64 * 1024


def open_files(
    location: str, *, folder: Path, options: Mapping[str, object], clock: Callable[[], int]
) -> Files:
    """Open a file, or a folder and everything in it.

    Options: `include` and `exclude` are patterns as in .gitignore; `ignore` names a file of such patterns at the top of
    the folder (`.flowbedignore`); `max_bytes` is the largest file that is read; `title` is `none`, or `name` to embed
    each file's name in front of its text.

    Raises:
        Misconfigured: an option is unknown or invalid.
    """
    values = SourceOptions("files", options, KNOWN)
    return Files(
        location=location,
        path=located(location, folder),
        include=values.strings("include"),
        exclude=values.strings("exclude"),
        ignore=values.string("ignore", ".flowbedignore"),
        max_bytes=values.positive_integer("max_bytes", LARGEST_BYTES),
        title=values.choice("title", TITLES),
        clock=clock,
    )


@dataclass(frozen=True, kw_only=True)
class Files:
    """A source of the text files in a folder; a document's id is its path below the folder.

    Links to files are followed if they stay inside the folder, links to folders never, since their target is listed
    itself. A problem that is not `skipped` has the document's id as its subject.
    """

    location: str
    path: Path
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    ignore: str
    max_bytes: int
    title: str
    clock: Callable[[], int]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:  # noqa: ARG002 - a listing is cheap and always whole
        """List every file."""
        async for page in in_threads(self._pages()):
            yield page

    def _pages(self) -> Iterator[Page]:
        oldest_unreliable = self.clock() * 1_000 - CLOCK_TICK_NS
        walk = _Walk(root=self.path, left_out_by=self._left_out_by())
        yield from in_pages((self._listed(file, oldest_unreliable), 0) for file in walk.files(self.location))
        yield Page(complete=True, empty=self._why_empty(walk))

    def _why_empty(self, walk: _Walk) -> str:
        """Say why a walk found no file."""
        unfit, excluded = walk.left_out["include"], walk.left_out["exclude"]
        ignored, hidden = walk.left_out["ignore"], walk.left_out["hidden"]
        said = (
            [f"0 of {_counted(unfit, 'file', 'files')} fit `include` ({', '.join(self.include)})"]
            if unfit
            else []
        )
        said += [f"`exclude` leaves out {_counted(excluded)}"] if excluded else []
        said += [f"{self.ignore} leaves out {_counted(ignored)}"] if ignored else []
        if hidden and not said:
            return f"{_counted(hidden)} in it, hidden or of a kind that is never read"
        return "; ".join(said) or "there are no files in it"

    def _left_out_by(self) -> Callable[[str], str]:
        """Build what names the option that leaves a path out, or returns ""; paths of folders end in `/`."""
        include = _patterns("include", self.include)
        exclude = _patterns("exclude", self.exclude)
        try:
            lines = (
                (self.path / self.ignore).read_text(encoding="utf-8-sig").splitlines() if self.ignore else []
            )
        except (FileNotFoundError, NotADirectoryError):
            lines = []
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(
                f"the ignore file {self.ignore} in {self.location} cannot be read: {error}"
            ) from error
        ignore = _patterns(self.ignore, lines)

        def left_out_by(name: str) -> str:
            if exclude.match_file(name):
                return "exclude"
            if ignore.match_file(name):
                return "ignore"
            return "" if name.endswith("/") or not self.include or include.match_file(name) else "include"

        return left_out_by

    def _listed(self, found: _File | Problem, oldest_unreliable: int) -> Entry | Problem:
        """Read the start of a file to tell whether it is text."""
        if isinstance(found, Problem):
            return found
        name, size = found.name, found.size
        if size > self.max_bytes:
            reason = (
                f"{size:,} bytes are more than max_bytes = {self.max_bytes:,}: raise it, or exclude the file"
            )
            return Problem(subject=name, reason=reason, document=name)
        try:
            with found.path.open("rb") as file:
                head = file.read(HEAD_BYTES)
                fault = why_not_text(head, final=len(head) < HEAD_BYTES)
                if fault:
                    return Problem(subject=name, reason=fault, skipped=True, document=name)
                # Programs can set the time of a file's content back, but not that of its last change.
                stamp = f"{size}-{found.modified}-{found.changed}-{found.inode}"
                if max(found.modified, found.changed) >= oldest_unreliable:
                    # Its time may not change if it is written again right now, so hash its content.
                    file.seek(0)
                    stamp = hashlib.file_digest(file, "sha256").hexdigest()[:32]
        except OSError as error:
            return Problem(subject=name, reason=f"cannot be read: {error.strerror}", document=name)
        return Entry(document=name, etag=f"{self.title}:{stamp}", read=partial(self._read, found))

    def _read(self, file: _File) -> Document:
        try:
            raw = file.path.read_bytes()
        except FileNotFoundError as error:
            raise Rejected("was removed after the folder was listed") from error
        except OSError as error:
            raise Rejected(f"cannot be read: {error.strerror}") from error
        path = PurePosixPath(file.name)
        return Document(
            id=file.name,
            kind="markdown" if path.suffix.lower() in MARKDOWN else "text",
            text=decoded(raw),
            title=path.stem if self.title == "name" else "",
            metadata={"path": file.name},
        )


@dataclass(frozen=True, kw_only=True)
class _File:
    """A regular file found by the walk."""

    name: str
    path: Path
    size: int
    modified: int
    changed: int
    inode: int


@dataclass(kw_only=True)
class _Walk:
    """One walk through a folder, in order of names; `left_out` counts what was not wanted, by what leaves it out."""

    root: Path
    left_out_by: Callable[[str], str]
    left_out: Counter[str] = field(default_factory=Counter)
    inside: Path = field(init=False)

    def files(self, location: str) -> Iterator[_File | Problem]:
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
    ) -> Iterator[_File | Problem | tuple[Iterator[os.DirEntry[str]], str]]:
        """Yield what is next in a folder; a subfolder as its own entries, and the start of their names."""
        for entry in entries:
            if entry.name.startswith(".") or entry.name in SKIPPED:
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

    def _file(self, entry: os.DirEntry[str], name: str) -> Iterator[_File | Problem]:
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


def _file(name: str, path: Path, status: os.stat_result) -> _File:
    return _File(
        name=name,
        path=path,
        size=status.st_size,
        modified=status.st_mtime_ns,
        changed=status.st_ctime_ns,
        inode=status.st_ino,
    )


def _counted(number: int, one: str = "entry", several: str = "entries") -> str:
    return f"{number:,} {one if number == 1 else several}"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _unusable(name: str) -> str:
    """Return what is wrong with a name that cannot be an id; Python marks bytes that are not UTF-8 as surrogates."""
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "its name is not UTF-8: rename it"
    return "its name contains control characters: rename it"


def _patterns(where: str, lines: tuple[str, ...] | list[str]) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise Misconfigured(f"invalid pattern in {where}: {error}") from error
