"""Files of the Files API: bytes in the store, metadata in the ledger; each file is visible to its owner only."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.errors import NotFound, Rejected
from flowbed.ledger import FileRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence

    from flowbed.ledger import Files as FileRows
    from flowbed.storage import Store

FOLDER = "files"
BATCH, BATCH_OUTPUT = "batch", "batch_output"
# Purposes of OpenAI's API; this server only uses `batch`.
PURPOSES = ("assistants", BATCH, "evals", "fine-tune", "user_data", "vision")
# https://platform.openai.com/docs/api-reference/files/create
FILE_BYTES, BATCH_BYTES = 512 * 2**20, 200 * 2**20
KEPT_LEAST, KEPT_MOST = 3_600, 2_592_000  # seconds: an hour, and 30 days
NAME_MOST = 255
# Files of one owner: two batches an hour for 30 days, with input, output and errors, are half of it. Without a limit,
# empty files would fill the ledger.
FILES_MOST = 10_000
# 144 bits of a secret: enough that ids cannot be guessed.
ID = 24
IDS = re.compile(r"[A-Za-z0-9_-]{1,80}")
# Bytes without a ledger row for this long belong to a process that was killed before it recorded them.
ORPHANED_US = 86_400_000_000
PAGE = 100


@dataclass(frozen=True, kw_only=True)
class FileDescription:
    """Description of an uploaded file; `seconds` is how long to keep it, or None for the default."""

    purpose: str
    filename: str
    seconds: int | None = None


class FileService:
    """Files of many owners; an owner is the id of an API key, or ""."""

    def __init__(
        self,
        store: Store,
        rows: FileRows,
        *,
        clock: Callable[[], int],
        secret: Callable[[], str],
        detach: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        """Keep bytes in `store` and rows in the ledger; `clock` returns µs since 1970, `secret` 32 bytes as text.

        `detach` takes a file that is to be deleted out of what uses it.
        """
        self._detach = detach
        self._store, self._rows = store, rows
        self._clock, self._secret = clock, secret
        # Uploads in progress of each owner, and their bytes so far: several at once must fit together.
        self._arriving: dict[str, list[_Measured]] = {}
        # Held while checking whether a file fits into its owner's storage.
        self._recording = asyncio.Lock()

    async def create(
        self,
        owner: str,
        pieces: AsyncIterable[bytes],
        *,
        described: Callable[[], FileDescription],
        most: int | None = None,
    ) -> FileRow:
        """Store a file piece by piece; `described` is called after the upload, since form fields may follow the bytes.

        The owner may keep `most` bytes in all, and `FILES_MOST` files. A rejected or interrupted upload leaves nothing
        behind.

        Raises:
            Rejected: the file exceeds the limit of its purpose or the owner's storage, or the owner has too many files.
        """
        arriving = self._arriving.setdefault(owner, [])
        measured = _Measured(pieces, arriving)
        arriving.append(measured)
        try:
            return await self._create(owner, measured, described=described, most=most)
        finally:
            arriving.remove(measured)
            if not arriving:
                self._arriving.pop(owner, None)

    async def _create(
        self, owner: str, measured: _Measured, *, described: Callable[[], FileDescription], most: int | None
    ) -> FileRow:
        id = new_id("file-", self._secret())  # noqa: A001 - the record's own field
        await self._require_few(owner, len(self._arriving[owner]))
        measured.room = None if most is None else _StorageLimit(most, await self._stored(owner))
        try:
            await self._store.put(_key(id), measured)
            description = described()
            _require_fit(description, measured.bytes)
        except BaseException as error:
            await self._store.delete([_key(id)])
            # Stores wrap errors of what they read; report the original one.
            if measured.failure is not None and error is not measured.failure:
                raise measured.failure from error
            raise
        now = self._clock()
        seconds = (
            KEPT_MOST if description.seconds is None and description.purpose == BATCH else description.seconds
        )
        row = FileRow(
            id=id,
            owner=owner,
            purpose=description.purpose,
            filename=description.filename,
            bytes=measured.bytes,
            key=_key(id),
            created=now,
            expires=0 if seconds is None else now + seconds * 1_000_000,
        )
        await self._record(row, most)
        return row

    async def write(
        self,
        owner: str,
        *,
        id: str,  # noqa: A002
        filename: str,
        pieces: AsyncIterable[bytes],
        expires: int,
    ) -> FileRow:
        """Store a result of a job under a fixed id; an existing file is left unchanged."""
        known = await self._rows.get(id)
        if known is not None:
            return known
        measured = _Measured(pieces)
        await self._store.put(_key(id), measured)
        row = FileRow(
            id=id,
            owner=owner,
            purpose=BATCH_OUTPUT,
            filename=filename,
            bytes=measured.bytes,
            key=_key(id),
            created=self._clock(),
            expires=expires,
        )
        await self._rows.create(row)
        return row

    async def get(self, owner: str, id: str) -> FileRow:  # noqa: A002
        """Return a file.

        Raises:
            NotFound: the owner has no file of that id, or it has expired.
        """
        row = await self._rows.get(id) if IDS.fullmatch(id) else None
        if row is None or row.owner != owner or self._is_over(row):
            raise NotFound(f"No such File object: {id}", param="id")
        return row

    def content(self, row: FileRow) -> AsyncIterator[bytes]:
        """Read a file in pieces; the first raises `NotFound` if the bytes are gone."""
        return self._store.stream(row.key)

    async def list(
        self,
        owner: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int,
        descending: bool,
    ) -> tuple[list[FileRow], bool]:
        """List files of an owner by creation time, and tell whether more follow.

        Raises:
            NotFound: the file `after` does not exist.
        """
        if after is not None:
            await self.get(owner, after)
        rows = await self._rows.list(
            owner, purpose=purpose, after=after, limit=limit + 1, descending=descending, now=self._clock()
        )
        return list(rows[:limit]), len(rows) > limit

    async def delete(self, owner: str, id: str) -> None:  # noqa: A002
        """Delete a file and its bytes.

        Raises:
            NotFound: the owner has no file of that id.
        """
        await self._remove(await self.get(owner, id))

    async def sweep(self) -> int:
        """Delete expired files, and bytes that belong to no file; return how many."""
        removed = 0
        while rows := await self._rows.expired(now=self._clock(), limit=PAGE):
            for row in rows:
                await self._remove(row)
            removed += len(rows)
        before = self._clock() - ORPHANED_US
        async for listed in self._store.list(FOLDER):
            if listed.modified < before and await self._rows.get(listed.key.split("/")[1]) is None:
                await self._store.delete([listed.key])
                removed += 1
        return removed

    async def _stored(self, owner: str) -> int:
        return await self._rows.stored(owner, now=self._clock())

    async def _require_few(self, owner: str, more: int) -> None:
        if await self._rows.count(owner, now=self._clock()) + more > FILES_MOST:
            raise Rejected(
                f"A key may have {FILES_MOST:,} files, results of batches included. Delete files that are no longer"
                " needed.",
                param="file",
                code="too_many_files",
            )

    async def _record(self, row: FileRow, most: int | None) -> None:
        """Record a stored file if it still fits into the owner's storage."""
        # Serialized, so that of two files that fit only alone one is kept; two servers may keep slightly too much.
        async with self._recording:
            try:
                await self._require_few(row.owner, 1)
                if most is not None:
                    _StorageLimit(most, await self._stored(row.owner)).require(row.bytes)
            except BaseException:
                await self._store.delete([row.key])
                raise
            await self._rows.create(row)

    async def _remove(self, row: FileRow) -> None:
        if self._detach is not None:
            await self._detach(row.id)
        # In this order a killed process leaves unreachable bytes, which are swept.
        await self._rows.remove(row.id)
        await self._store.delete([row.key])

    def _is_over(self, row: FileRow) -> bool:
        return 0 < row.expires <= self._clock()


def new_id(prefix: str, secret: str) -> str:
    """Make an id from a secret."""
    return f"{prefix}{secret[-ID:]}"


def _require_fit(description: FileDescription, size: int) -> None:
    if description.purpose == BATCH and size > BATCH_BYTES:
        raise Rejected(
            f"The file has {size:,} bytes; one for the Batch API may have {BATCH_BYTES:,}: split it into several"
            " batches.",
            param="file",
            code="file_too_large",
        )


def _key(id: str) -> str:  # noqa: A002
    return f"{FOLDER}/{id}/content"


@dataclass(frozen=True)
class _StorageLimit:
    """The bytes that one owner may keep, and how many are used."""

    most: int
    taken: int

    def require(self, size: int) -> None:
        """Refuse a file that does not fit."""
        if self.taken + size > self.most:
            raise Rejected(
                f"The file does not fit: the files of a key, results of batches included, may have {self.most:,} bytes"
                f" in total, and {self.taken:,} are in use. Delete files that are no longer needed.",
                param="file",
                code="storage_limit_exceeded",
            )


class _Measured:
    """Pieces that are counted against a limit; remembers why reading them failed."""

    def __init__(self, pieces: AsyncIterable[bytes], together: Sequence[_Measured] = ()) -> None:
        """Count `pieces`; the uploads of `together`, this one among them, have to fit into `room`."""
        self._pieces, self._together = pieces, together
        self.room: _StorageLimit | None = None
        self.bytes = 0
        self.failure: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._pieces:
                self.bytes += len(piece)
                if self.room is not None:
                    self.room.require(sum(each.bytes for each in self._together))
                yield piece
        except Exception as error:
            self.failure = error
            raise
