"""Files of vector stores, and file batches, as the owners of the stores see them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import NotFound, Rejected
from flowbed.ledger.vector_stores import (
    CANCELLED,
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    FileBatchRow,
    VectorStoreFileRow,
)
from flowbed.records.written import documents_source
from flowbed.services.files import IDS, new_id
from flowbed.services.vector_stores.stores import counted, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.index.search.reader import IndexReader
    from flowbed.ledger import FileRow, Ledger
    from flowbed.ledger.vector_stores import VectorStoreRow, Window
    from flowbed.records import Scalar
    from flowbed.services.files import FileService
    from flowbed.services.vector_stores.stores import Counts, StoreService

# https://platform.openai.com/docs/api-reference/vector-stores-file-batches/createBatch
BATCH_FILES = 2_000
AT_ONCE = 64  # files that are looked up at a time
# Files that are read, embedded and committed together: a commit takes as long for one as for a hundred. Then another
# store gets its turn, and what workers that die later had done counts as done.
FILES_TOGETHER = 128
# The code of a file that failed for no reason of its own.
FAULT = "server_error"


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A file to attach; `chunking` is the strategy as it was sent, empty for `auto`."""

    file: str
    attributes: Mapping[str, Scalar]
    chunking: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FileBatch:
    """A file batch with the counts of its files."""

    row: FileBatchRow
    counts: Counts

    @property
    def status(self) -> str:
        """Return OpenAI's status; a batch has failed if none of its files was indexed and one failed."""
        if self.counts.in_progress:
            return IN_PROGRESS
        if self.row.cancelled:
            return CANCELLED
        return FAILED if self.counts.failed and not self.counts.completed else COMPLETED


class AttachedFiles:
    """Files of the stores of many owners."""

    def __init__(
        self,
        ledger: Ledger,
        stores: StoreService,
        files: FileService,
        reader: Callable[[], IndexReader],
        *,
        clock: Callable[[], int],
        secret: Callable[[], str],
    ) -> None:
        """Attach `files` to `stores`; `clock` returns µs since 1970, `secret` 32 random bytes as text."""
        self._rows, self._chunks = ledger.vector_store_files, ledger.chunks
        self._stores, self._files, self._reader = stores, files, reader
        self._clock, self._secret = clock, secret

    async def attach(self, store: VectorStoreRow, attachment: Attachment) -> VectorStoreFileRow:
        """Attach a file, which is indexed later; one that is attached already stays as it is.

        A file that failed or was cancelled is tried again.

        Raises:
            NotFound: the owner of the store has no file of that id.
            Rejected: the store has expired.
        """
        files = [await self._file(store.owner, attachment.file, "file_id")]
        await self._attach(store, files, [attachment], batch="")
        return await self.get(store, attachment.file)

    async def attach_batch(self, store: VectorStoreRow, attachments: Sequence[Attachment]) -> FileBatch:
        """Attach several files, which are indexed later.

        Raises:
            NotFound: the owner of the store has no file of one of the ids; nothing was attached.
            Rejected: the store has expired.
        """
        once = {each.file: each for each in attachments}
        files = await self.require_files(store.owner, list(once))
        row = FileBatchRow(
            id=new_id("vsfb_", self._secret()),
            store=store.id,
            created=self._clock(),
            files=orjson.dumps(list(once)).decode(),
        )
        await self._rows.create_batch(row)
        await self._attach(store, files, list(once.values()), batch=row.id)
        return await self.batch(store, row.id)

    async def require_files(self, owner: str, files: Sequence[str]) -> Sequence[FileRow]:
        """Return the files of an owner with these ids, before anything is made for them.

        Raises:
            NotFound: there is none of one of the ids.
        """
        found: list[FileRow] = []
        for start in range(0, len(files), AT_ONCE):
            some = files[start : start + AT_ONCE]
            found += await asyncio.gather(*(self._file(owner, each, "file_ids") for each in some))
        return found

    async def get(self, store: VectorStoreRow, file: str) -> VectorStoreFileRow:
        """Return a file of a store.

        Raises:
            NotFound: it is not attached.
        """
        found = await self._rows.get(store.id, [file]) if IDS.fullmatch(file) else {}
        row = found.get(file)
        if row is None or row.work == "remove":
            raise NotFound(f"No file found with id '{file}' in vector store '{store.id}'.", param="file_id")
        return row

    async def list(
        self, store: VectorStoreRow, window: Window, *, status: str = "", among: Sequence[str] | None = None
    ) -> tuple[Sequence[VectorStoreFileRow], bool]:
        """List files of a store, of a status, `among` these, and tell whether more follow.

        Raises:
            NotFound: the file after, or before, which to list is not attached.
        """
        for cursor in (window.after, window.before):
            if cursor is not None:
                await self.get(store, cursor)
        wider = replace(window, limit=window.limit + 1)
        return cut(await self._rows.list(store.id, wider, status=status, among=among), window)

    async def describe(
        self, store: VectorStoreRow, file: str, attributes: Mapping[str, Scalar]
    ) -> VectorStoreFileRow:
        """Replace the attributes of a file; searches filter by them soon after.

        Raises:
            NotFound: it is not attached.
        """
        await self.get(store, file)
        row = await self._rows.describe(store.id, file, orjson.dumps(dict(attributes)).decode())
        self._stores.tell(store.id)
        return row if row is not None else await self.get(store, file)

    async def remove(self, store: VectorStoreRow, file: str) -> None:
        """Take a file out of a store: no search finds it from now on. The file itself stays.

        Raises:
            NotFound: it is not attached.
        """
        await self.get(store, file)
        await self._rows.remove(store.id, file=file)
        self._stores.tell(store.id)

    async def content(self, store: VectorStoreRow, file: str) -> Sequence[str]:
        """Return the texts of a file's chunks, in order; none while it is in progress.

        Raises:
            NotFound: it is not attached.
        """
        row = await self.get(store, file)
        if row.status != COMPLETED:
            return []
        texts = await read_texts(self._reader(), store.id, await self.chunks(store.id, [file]))
        return list(texts.values())

    async def chunks(self, store: str, files: Sequence[str]) -> Sequence[str]:
        """Return the ids of the chunks of files, in order."""
        rows = await self._chunks.of(documents_source(store), files)
        kept = sorted((row for row in rows if not row.deleted), key=lambda row: (row.document, row.ordinal))
        return [row.id for row in kept]

    async def batch(self, store: VectorStoreRow, batch: str) -> FileBatch:
        """Return a batch of a store.

        Raises:
            NotFound: the store has no batch of that id.
        """
        row = await self._rows.batch(batch) if IDS.fullmatch(batch) else None
        if row is None or row.store != store.id:
            raise NotFound(
                f"No file batch found with id '{batch}' in vector store '{store.id}'.", param="batch_id"
            )
        among = orjson.loads(row.files)
        return FileBatch(row=row, counts=counted(await self._rows.counts(store.id, among=among)))

    async def cancel_batch(self, store: VectorStoreRow, batch: str) -> FileBatch:
        """Cancel what is in progress of a batch; files that are completed stay. A batch that has ended stays as it is.

        Raises:
            NotFound: the store has no batch of that id.
        """
        found = await self.batch(store, batch)
        if found.counts.in_progress:
            await self._rows.cancel_batch(batch, at=self._clock())
            await self._rows.cancel(store.id, batch=batch)
            self._stores.tell(store.id)
        return await self.batch(store, batch)

    async def _attach(
        self,
        store: VectorStoreRow,
        files: Sequence[FileRow],
        attachments: Sequence[Attachment],
        *,
        batch: str,
    ) -> None:
        if self._stores.is_expired(store):
            raise Rejected(
                f"Vector store '{store.id}' has expired: create another one, or update its expires_after.",
                param="vector_store_id",
                code="vector_store_expired",
            )
        now = self._clock()
        rows = [
            VectorStoreFileRow(
                store=store.id,
                file=file.id,
                filename=file.filename,
                key=file.key,
                created=now + place,  # in the order of the request
                batch=batch,
                attributes=orjson.dumps(dict(each.attributes)).decode(),
                chunking=orjson.dumps(dict(each.chunking)).decode(),
            )
            for place, (file, each) in enumerate(zip(files, attachments, strict=True))
        ]
        await self._rows.attach(rows)
        await self._stores.touch(store)
        self._stores.tell(store.id)

    async def _file(self, owner: str, file: str, param: str) -> FileRow:
        try:
            return await self._files.get(owner, file)
        except NotFound as error:
            raise NotFound(str(error), param=param) from error


async def read_texts(reader: IndexReader, collection: str, chunks: Sequence[str]) -> dict[str, str]:
    """Return the texts of chunks by id, in the order given; those that are not in the index are missing."""
    from flowbed.index.search.rows import BLOCK  # loads numpy and lance

    live = await reader.live(collection) if chunks else None
    selection = None if live is None else await reader.rows.select(live, ids=chunks)
    found: dict[str, str] = {}
    for first in range(0, 0 if selection is None else len(selection), BLOCK):
        assert selection is not None  # noqa: S101 - without one there is no block
        names = await selection.strings("id", first=first)
        texts = await selection.strings("document", first=first)
        found.update(zip(names, texts, strict=True))
    return {chunk: found[chunk] for chunk in chunks if chunk in found}
