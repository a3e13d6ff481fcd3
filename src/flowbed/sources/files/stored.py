"""Files in the project's store that are attached to a collection: each is a document."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.errors import NotFound
from flowbed.records import Document, Entry, Page, Problem
from flowbed.sources.files import LARGEST_BYTES
from flowbed.sources.files.single import read_single

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from flowbed.records import Scalar
    from flowbed.sources.extraction.process import Parsers
    from flowbed.storage import Store


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file: the id of its document, where its bytes are, its name, and the metadata of its chunks."""

    document: str
    key: str
    filename: str
    etag: str
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


class StoredFiles:
    """`Source` of the files named, and of documents that are gone: it lists no others."""

    location = "files of the server"

    def __init__(
        self,
        store: Store,
        files: Sequence[StoredFile],
        *,
        gone: Sequence[str] = (),
        parsers: Parsers,
        scratch: Path | None = None,
    ) -> None:
        """Read `files` from the store; their bytes lie below `scratch` while they are read, one at a time."""
        self._store, self._files, self._gone = store, files, gone
        self._parsers, self._scratch = parsers, scratch

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:  # noqa: ARG002 - the files are named
        """List the files, one a page: its bytes are on local disk until the next one is asked for."""
        if self._gone:
            yield Page(gone=self._gone)
        for file in self._files:
            with tempfile.TemporaryDirectory(prefix="flowbed-", dir=self._scratch) as folder:
                path = Path(folder) / "file"
                try:
                    await self._download(file.key, path)
                except NotFound:
                    yield Page(
                        problems=[
                            Problem(
                                subject=file.document,
                                reason="its bytes are not there any more: upload it again",
                                document=file.document,
                            )
                        ]
                    )
                    continue
                read = partial(self._read, path, file)
                yield Page(entries=[Entry(document=file.document, etag=file.etag, read=read)])

    async def _download(self, key: str, path: Path) -> None:
        with path.open("wb") as file:
            async for piece in self._store.stream(key):
                await asyncio.to_thread(file.write, piece)

    def _read(self, path: Path, file: StoredFile) -> Document:
        found = read_single(path, file.filename, parsers=self._parsers, max_bytes=LARGEST_BYTES)
        return Document(
            id=file.document, kind=found.kind, text=found.text, title=found.title, metadata=file.metadata
        )
