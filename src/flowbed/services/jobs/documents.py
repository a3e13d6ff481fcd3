"""The documents of one job, as a source lists them: sent with the job, or read from stored files."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.errors import NotFound
from flowbed.records import Document, Entry, Page, Problem, canonical
from flowbed.services.jobs.requests import JobDocument, JobFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from flowbed.ledger import FileRow
    from flowbed.records import Scalar
    from flowbed.services.files import FileService

# Documents of one page, and files on local disk at once.
PAGE, FILES_AT_ONCE = 256, 8


class InputDocuments:
    """`Source` of the documents of one job: it lists no others, so none is ever taken as deleted."""

    location = "documents that clients sent"

    def __init__(
        self,
        parts: Sequence[JobDocument | JobFile | str],
        files: FileService,
        *,
        owner: str,
        clock: Callable[[], int],
    ) -> None:
        """Take the input of a job; stored files are those of `owner`."""
        self._parts, self._files = parts, files
        self._owner, self._clock = owner, clock

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:  # noqa: ARG002 - the documents are named
        """List the documents to write, and those to remove."""
        sent = [each for each in self._parts if isinstance(each, JobDocument)]
        for start in range(0, len(sent), PAGE):
            yield Page(entries=[_entry(_document(each)) for each in sent[start : start + PAGE]])
        stored = [each for each in self._parts if isinstance(each, JobFile)]
        for start in range(0, len(stored), FILES_AT_ONCE):
            async for page in self._of_files(stored[start : start + FILES_AT_ONCE]):
                yield page
        removed = [each for each in self._parts if isinstance(each, str)]
        for start in range(0, len(removed), PAGE):
            yield Page(gone=removed[start : start + PAGE])

    async def _of_files(self, files: Sequence[JobFile]) -> AsyncIterator[Page]:
        """Copy files into a folder, and read them as a folder of files is read."""
        from flowbed.sources.files import open_files  # loads what parses documents

        problems: list[Problem] = []
        of_path: dict[str, JobFile] = {}
        with tempfile.TemporaryDirectory(prefix="flowbed-job-") as folder:
            for number, each in enumerate(files):
                try:
                    row = await self._files.get(self._owner, each.file)
                    of_path[await self._copied(row, Path(folder), number)] = each
                except NotFound as error:
                    problems.append(Problem(subject=each.id, reason=str(error), document=each.id))
            source = open_files(folder, folder=Path(folder), options={"ignore": ""}, clock=self._clock)
            async for page in source.fetch(""):
                yield Page(
                    entries=[_file_entry(of_path[entry.document], entry) for entry in page.entries],
                    problems=[_named(problem, of_path) for problem in page.problems] + problems,
                )
                problems = []

    async def _copied(self, row: FileRow, folder: Path, number: int) -> str:
        """Copy a stored file below `folder`, under a name that has its suffix; return its path there."""
        suffix = Path(row.filename).suffix.lower()
        name = f"{number:03d}{suffix if suffix.isascii() and suffix[1:].isalnum() else ''}"
        place = folder / name
        with await asyncio.to_thread(place.open, "wb") as copy:
            async for piece in self._files.content(row):
                await asyncio.to_thread(copy.write, piece)
        return name


def _document(each: JobDocument) -> Document:
    return Document(id=each.id, kind=each.kind, text=each.text, title=each.title, metadata=each.metadata)


def etag_of(each: JobDocument | JobFile) -> str:
    """Return what changes whenever a part of a job's input does; a stored file never changes."""
    if isinstance(each, JobDocument):
        return _document(each).hash
    return hashlib.sha256(canonical([each.file, each.id, dict(each.metadata)])).hexdigest()


def _entry(document: Document) -> Entry:
    return Entry(document=document.id, etag=document.hash, read=lambda: document)


def _file_entry(file: JobFile, entry: Entry) -> Entry:
    """List a file under the id and with the metadata that its client gave it."""

    def read() -> Document:
        document = entry.read()
        return replace(document, id=file.id, metadata=_metadata(file))

    return Entry(document=file.id, etag=etag_of(file), read=read)


def _metadata(file: JobFile) -> Mapping[str, Scalar]:
    return {**file.metadata, "file": file.file}


def _named(problem: Problem, of_path: Mapping[str, JobFile]) -> Problem:
    """Name the document that a problem with a copied file is about; none of a job's is skipped without a word."""
    file = of_path.get(problem.document)
    if file is None:
        return problem
    return replace(problem, subject=file.id, document=file.id, skipped=False)
