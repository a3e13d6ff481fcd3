"""List the files of a folder, and read those that changed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

import orjson
from pathspec import GitIgnoreSpec

from flowbed.errors import Error, Misconfigured, Rejected, Unreadable
from flowbed.records import Document, Entry, Page, Problem
from flowbed.records.extracts import CODE, EXTRACT
from flowbed.sources.decoding import UTF16, decoded_file, why_not_file
from flowbed.sources.files.formats import FORMATS, PDF_MAGIC, TEXT, UNREAD, missing
from flowbed.sources.files.kept_extracts import REVISION, Kept
from flowbed.sources.files.walk import File, Walk, never_read
from flowbed.sources.paging import in_pages, in_threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from flowbed.sources.extraction.process import Parsers
    from flowbed.sources.files.formats import Format
    from flowbed.sources.files.kept_extracts import KeptExtracts

# A file may be written again within one tick of the file system's clock, 2 s on FAT; older times are reliable.
CLOCK_TICK_NS = 2_000_000_000

# How much of a file each listing reads to tell whether it is text: all of most files, and still little.
HEAD_BYTES = 64 * 1024

# Documents have pictures, so they are larger than their text, which is what `max_bytes` limits. Larger ones are seldom
# documents, and take a parser's memory.
LARGEST_DOCUMENT = 500_000_000

# Larger files of code are data, or made by programs.
LARGEST_CODE = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Files:
    """A source of the files in a folder; a document's id is its path below the folder.

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
    url: str
    clock: Callable[[], int]
    parsers: Parsers
    kept: KeptExtracts

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:  # noqa: ARG002 - a listing is cheap and always whole
        """List every file."""
        async for page in in_threads(self._pages()):
            yield page

    def _pages(self) -> Iterator[Page]:
        oldest_unreliable = self.clock() * 1_000 - CLOCK_TICK_NS
        walk = Walk(root=self.path, left_out_by=self._left_out_by())
        parsed: set[str] = set()
        yield from in_pages(
            (self._listed(file, oldest_unreliable, parsed), 0) for file in walk.files(self.location)
        )
        self.parsers.close()
        self.kept.keep_only(parsed)
        failure = self.kept.failure
        problems = [Problem(subject=self.location, reason=failure, skipped=True)] if failure else []
        yield Page(complete=True, empty=self._why_empty(walk), problems=problems)

    def require_place(self) -> None:
        """Check that the folder or file is there; of a folder, the names at the top are read.

        Raises:
            Misconfigured: it does not exist or cannot be read.
        """
        next(Walk(root=self.path, left_out_by=lambda _: "unread").files(self.location), None)

    def unlisted(self, document: str) -> str | None:
        """Say why a file cannot be read, "" if it can; None if the folder has none of that name.

        Blocks; of the other files it reads the names alone, in the folders above this one.

        Raises:
            Misconfigured: the folder does not exist or cannot be read.
        """
        named = self._left_out_by()
        reasons: list[str] = []

        def left_out_by(name: str) -> str:
            if name != document and not (name.endswith("/") and document.startswith(name)):
                return "another file"
            if by := named(name):
                reasons.append(self._why_left_out(by))
            return by

        oldest_unreliable = self.clock() * 1_000 - CLOCK_TICK_NS
        for file in Walk(root=self.path, left_out_by=left_out_by).files(self.location):
            if (file.subject if isinstance(file, Problem) else file.name) != document:
                continue
            found = self._listed(file, oldest_unreliable, set())
            return found.reason if isinstance(found, Problem) else self._why_not_read(found)
        if reasons:
            return reasons[0]
        hidden = next(filter(None, map(never_read, document.split("/"))), None)
        return hidden if hidden and self._has(document) else None

    def _has(self, document: str) -> bool:
        """Return whether the folder has a file, also one that is never read; names that lead elsewhere are none."""
        if any(part in {"", ".", ".."} for part in document.split("/")):
            return False
        try:
            return (self.path / document).is_file()
        except ValueError:  # a NUL character
            return False

    def _why_left_out(self, by: str) -> str:
        """Say what an option that leaves a file out says."""
        if by == "include":
            return f"it fits no pattern of `include` ({', '.join(self.include)})"
        if by == "exclude":
            return f"`exclude` leaves it out: {', '.join(self.exclude)}"
        return f"{self.ignore} leaves it out"

    def _why_not_read(self, entry: Entry) -> str:
        """Say why a file that is listed cannot be read; empty if it can."""
        try:
            entry.read()
        except Error as error:
            return str(error)
        finally:
            self.parsers.close()
        return ""

    def _why_empty(self, walk: Walk) -> str:
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

    def _listed(self, found: File | Problem, oldest_unreliable: int, parsed: set[str]) -> Entry | Problem:
        """Read the start of a file to tell what it is; add documents to `parsed`."""
        if isinstance(found, Problem):
            return found
        name, form = found.name, self._format(found)
        if form.kind == EXTRACT:
            parsed.add(name)
        if reason := self._too_large(found, form):
            return Problem(subject=name, reason=reason, document=name)
        if form.kind == EXTRACT and (reason := missing(form) or ("" if found.size else "it is empty")):
            return Problem(subject=name, reason=reason, skipped=True, document=name)
        try:
            with found.path.open("rb") as file:
                head = file.read(HEAD_BYTES)
                fault = "" if form.kind == EXTRACT else _why_unread(found, head)
                if fault:
                    return Problem(subject=name, reason=fault, skipped=True, document=name)
                # Programs can set the time of a file's content back, but not that of its last change.
                stamp = f"{found.size}-{found.modified}-{found.changed}-{found.inode}"
                if max(found.modified, found.changed) >= oldest_unreliable:
                    # Its time may not change if it is written again right now, so hash its content.
                    file.seek(0)
                    stamp = hashlib.file_digest(file, "sha256").hexdigest()[:32]
        except OSError as error:
            return Problem(subject=name, reason=f"cannot be read: {error.strerror}", document=name)
        return Entry(
            document=name, etag=f"{self._mark(form)}:{stamp}", read=partial(self._read, found, form, stamp)
        )

    def _format(self, file: File) -> Format:
        """Return how to read a file; code is plain text where the packages for its language are missing."""
        form = FORMATS.get(PurePosixPath(file.name).suffix.lower(), TEXT)
        if form.kind == CODE and (file.size > LARGEST_CODE or missing(form)):
            return TEXT
        return form

    def _mark(self, form: Format) -> str:
        """Return what of the options and of the way to read a file changes its document."""
        parser = f":{form.language or form.parser}-{REVISION}" if form.parser else ""
        url = f":{self.url}" if self.url else ""
        return f"{self.title}{url}{parser}"

    def _too_large(self, file: File, form: Format) -> str:
        if form.kind == EXTRACT:
            if file.size <= max(self.max_bytes, LARGEST_DOCUMENT):
                return ""
            return f"{file.size:,} bytes are more than {LARGEST_DOCUMENT:,}: split it, or exclude it"
        if file.size <= self.max_bytes:
            return ""
        return (
            f"{file.size:,} bytes are more than max_bytes = {self.max_bytes:,}: raise it, or exclude the file"
        )

    def _read(self, file: File, form: Format, stamp: str) -> Document:
        try:
            if form.kind == EXTRACT:
                return self._document(file, form, stamp)
            raw = file.path.read_bytes()
        except FileNotFoundError as error:
            raise Rejected("was removed after the folder was listed") from error
        except OSError as error:
            raise Rejected(f"cannot be read: {error.strerror}") from error
        text = decoded_file(raw)
        if form.kind == CODE and raw.startswith(UTF16):
            form = TEXT  # parsers read UTF-8
        if form.kind == CODE:
            try:
                return self._built(file, CODE, self.parsers.extract(file.path, form.parser, form.language))
            except Unreadable:
                form = TEXT  # what is not in this language, such as a template, is still text
        return self._built(file, form.kind, text)

    def _document(self, file: File, form: Format, stamp: str) -> Document:
        made_by = f"{form.parser}-{REVISION}-{self.max_bytes}"

        def content() -> str:
            with file.path.open("rb") as opened:
                return f"{made_by}:{hashlib.file_digest(opened, 'sha256').hexdigest()}"

        kept = self.kept.get(file.name, stamp=f"{made_by}:{stamp}", content=content)
        if kept is None:
            before = content()
            kept = self._parsed(file, form)
            self.kept.put(file.name, kept, stamp=f"{made_by}:{stamp}", content=before)
        if kept.refused:
            raise Unreadable(kept.text)
        # Not parsed any further: a long document has a million blocks.
        fields = orjson.loads(kept.text)
        fields["url"] = self._url(file) or quote(file.name)
        return self._built(file, form.kind, orjson.dumps(fields).decode(), fields["title"])

    def _parsed(self, file: File, form: Format) -> Kept:
        try:
            return Kept(text=self.parsers.extract(file.path, form.parser), refused=False)
        except Unreadable as error:
            return Kept(text=str(error), refused=True)

    def _built(self, file: File, kind: str, text: str, title: str = "") -> Document:
        url = {"url": self._url(file)} if self.url and kind != EXTRACT else {}
        stem = PurePosixPath(file.name).stem
        return Document(
            id=file.name,
            kind=kind,
            text=text,
            title=stem if self.title == "name" else title,
            metadata={"path": file.name, **url},
        )

    def _url(self, file: File) -> str:
        return f"{self.url.rstrip('/')}/{quote(file.name)}" if self.url else ""


def _why_unread(file: File, head: bytes) -> str:
    """Return why a file cannot be read as text, empty if it can."""
    if head.startswith(PDF_MAGIC):
        return "its suffix is wrong: it is a PDF; call it .pdf"
    fault = why_not_file(head, final=len(head) < HEAD_BYTES)
    known = UNREAD.get(PurePosixPath(file.name).suffix.lower())
    return known if fault and known else fault


def _counted(number: int, one: str = "entry", several: str = "entries") -> str:
    return f"{number:,} {one if number == 1 else several}"


def _patterns(where: str, lines: tuple[str, ...] | list[str]) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise Misconfigured(f"invalid pattern in {where}: {error}") from error
