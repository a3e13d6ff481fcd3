"""The documents of one job, as a source lists them: sent with the job, or read from stored files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from flowbed.errors import NotFound
from flowbed.records import Document, Entry, Page, Problem, canonical
from flowbed.services.jobs.requests import JobDocument, JobFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flowbed.services.files import FileService
    from flowbed.storage import Store

# Documents of one page.
PAGE = 256


class InputDocuments:
    """`Source` of the documents of one job: it lists no others, so none is ever taken as deleted."""

    location = "documents that clients sent"

    def __init__(
        self,
        parts: Sequence[JobDocument | JobFile | str],
        files: FileService,
        store: Store,
        *,
        owner: str,
    ) -> None:
        """Take the input of a job; stored files are those of `owner`."""
        self._parts, self._files, self._store, self._owner = parts, files, store, owner

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:  # noqa: ARG002 - the documents are named
        """List the documents to write, and those to remove."""
        sent = [each for each in self._parts if isinstance(each, JobDocument)]
        for start in range(0, len(sent), PAGE):
            yield Page(entries=[_entry(_document(each)) for each in sent[start : start + PAGE]])
        stored = [each for each in self._parts if isinstance(each, JobFile)]
        async for page in self._of_files(stored):
            yield page
        removed = [each for each in self._parts if isinstance(each, str)]
        for start in range(0, len(removed), PAGE):
            yield Page(gone=removed[start : start + PAGE])

    async def _of_files(self, files: Sequence[JobFile]) -> AsyncIterator[Page]:
        """List stored files, which are read as a folder of files is."""
        if not files:
            return
        from flowbed.sources.extraction.process import Limits, Parsers  # loads what parses documents
        from flowbed.sources.files.stored import StoredFile, StoredFiles

        found: list[StoredFile] = []
        for each in files:
            try:
                row = await self._files.get(self._owner, each.file)
            except NotFound as error:
                yield Page(problems=[Problem(subject=each.id, reason=str(error), document=each.id)])
                continue
            found.append(
                StoredFile(
                    document=each.id,
                    key=row.key,
                    filename=row.filename,
                    etag=etag_of(each),
                    metadata={**each.metadata, "filename": row.filename},
                )
            )
        parsers = Parsers(Limits())
        try:
            async for page in StoredFiles(self._store, found, parsers=parsers).fetch(""):
                yield page
        finally:
            parsers.close()


def etag_of(each: JobDocument | JobFile) -> str:
    """Return what changes whenever a part of a job's input does; a stored file never changes."""
    if isinstance(each, JobDocument):
        return _document(each).hash
    return hashlib.sha256(canonical([each.file, each.id, dict(each.metadata)])).hexdigest()


def _document(each: JobDocument) -> Document:
    return Document(id=each.id, kind=each.kind, text=each.text, title=each.title, metadata=each.metadata)


def _entry(document: Document) -> Entry:
    return Entry(document=document.id, etag=document.hash, read=lambda: document)
