"""The files of the Files API: bytes in the store, the rest in the ledger, each file its owner's alone."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.errors import NotFound, Rejected
from flowbed.ledger import FileRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable

    from flowbed.ledger import Files as FileRows
    from flowbed.storage import Store

FOLDER = "files"
BATCH, BATCH_OUTPUT = "batch", "batch_output"
# What a file can be sent for, as OpenAI's API has it; only `batch` is of any use to this server.
PURPOSES = ("assistants", BATCH, "evals", "fine-tune", "user_data", "vision")
# https://platform.openai.com/docs/api-reference/files/create
FILE_BYTES, BATCH_BYTES = 512 * 2**20, 200 * 2**20
KEPT_LEAST, KEPT_MOST = 3_600, 2_592_000  # seconds: an hour, and 30 days
NAME_MOST = 255
# Of the 43 characters of a secret, as many as nobody can guess: 144 bits.
ID = 24
IDS = re.compile(r"[A-Za-z0-9_-]{1,80}")
# Bytes that nobody has recorded for so long are left by a process that was killed before it did.
ORPHANED_US = 86_400_000_000
PAGE = 100


@dataclass(frozen=True, kw_only=True)
class Described:
    """What is said of a file that is sent; it is kept for `seconds`, None where nothing is said of that."""

    purpose: str
    filename: str
    seconds: int | None = None


class Files:
    """Files of many owners; an owner is the id of an API key, or empty."""

    def __init__(
        self, store: Store, rows: FileRows, *, clock: Callable[[], int], secret: Callable[[], str]
    ) -> None:
        """Take where bytes and rows are kept; `clock` tells µs since 1970, `secret` makes 32 random bytes as text."""
        self._store, self._rows = store, rows
        self._clock, self._secret = clock, secret
        # Held while it is found out whether a file fits beside its owner's others.
        self._recording = asyncio.Lock()

    async def create(
        self,
        owner: str,
        pieces: AsyncIterable[bytes],
        *,
        described: Callable[[], Described],
        most: int | None = None,
    ) -> FileRow:
        """Keep a file, never whole in memory; `described` is asked once it is here: what is said may follow the bytes.

        Its owner may keep `most` bytes in all. Of what is refused or breaks off nothing stays.

        Raises:
            Rejected: it is larger than a file of its purpose may be, or does not fit beside the owner's others.
        """
        id = new_id("file-", self._secret())  # noqa: A001 - the record's own field
        room = None if most is None else _Room(most, await self._stored(owner))
        measured = _Measured(pieces, room)
        try:
            await self._store.put(_key(id), measured)
            said = described()
            _require_fit(said, measured.bytes)
        except BaseException as error:
            await self._store.delete([_key(id)])
            # A store tells of what it reads in words of its own.
            if measured.failure is not None and error is not measured.failure:
                raise measured.failure from error
            raise
        now = self._clock()
        seconds = KEPT_MOST if said.seconds is None and said.purpose == BATCH else said.seconds
        row = FileRow(
            id=id,
            owner=owner,
            purpose=said.purpose,
            filename=said.filename,
            bytes=measured.bytes,
            key=_key(id),
            created=now,
            expires=0 if seconds is None else now + seconds * 1_000_000,
        )
        if most is None:
            await self._rows.create(row)
        else:
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
        """Keep what a job has made under an id that is settled; the same again is left as it is."""
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
        """Describe a file.

        Raises:
            NotFound: there is none of that id, or it is somebody else's, or its time is over.
        """
        row = await self._rows.get(id) if IDS.fullmatch(id) else None
        if row is None or row.owner != owner or self._is_over(row):
            raise NotFound(f"No such File object: {id}", param="id")
        return row

    def content(self, row: FileRow) -> AsyncIterator[bytes]:
        """Read a file in pieces; raises `NotFound` at the first where its bytes are gone."""
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
        """List files of an owner in order of time, and tell whether more follow.

        Raises:
            NotFound: there is no file `after`.
        """
        if after is not None:
            await self.get(owner, after)
        rows = await self._rows.list(
            owner, purpose=purpose, after=after, limit=limit + 1, descending=descending, now=self._clock()
        )
        return list(rows[:limit]), len(rows) > limit

    async def delete(self, owner: str, id: str) -> None:  # noqa: A002
        """Forget a file, and remove its bytes.

        Raises:
            NotFound: as `get`.
        """
        await self._remove(await self.get(owner, id))

    async def sweep(self) -> int:
        """Remove the files whose time is over, and bytes that belong to none; return how many."""
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

    async def _record(self, row: FileRow, most: int) -> None:
        """Record a file whose bytes are here, if it fits beside those that have come since it began."""
        # One after the other, so that of two that fit alone one is kept; two servers may keep a little too much.
        async with self._recording:
            try:
                _Room(most, await self._stored(row.owner)).require(row.bytes)
            except BaseException:
                await self._store.delete([row.key])
                raise
            await self._rows.create(row)

    async def _remove(self, row: FileRow) -> None:
        # In this order, what a killed process leaves is bytes that nobody is told of, and that are swept.
        await self._rows.remove(row.id)
        await self._store.delete([row.key])

    def _is_over(self, row: FileRow) -> bool:
        return 0 < row.expires <= self._clock()


def new_id(prefix: str, secret: str) -> str:
    """Make an id of a secret."""
    return f"{prefix}{secret[-ID:]}"


def _require_fit(said: Described, size: int) -> None:
    if said.purpose == BATCH and size > BATCH_BYTES:
        raise Rejected(
            f"The file has {size:,} bytes; one for the Batch API may have {BATCH_BYTES:,}: send it in parts, each a"
            " batch of its own.",
            param="file",
            code="file_too_large",
        )


def _key(id: str) -> str:  # noqa: A002
    return f"{FOLDER}/{id}/content"


@dataclass(frozen=True)
class _Room:
    """The bytes that one owner may keep, and how many are taken."""

    most: int
    taken: int

    def require(self, size: int) -> None:
        """Let so many bytes through as there is room for."""
        if self.taken + size > self.most:
            raise Rejected(
                f"The file does not fit: the files of a key may have {self.most:,} bytes together, those that batches"
                f" made among them, and {self.taken:,} are there. Delete some that are not needed any more.",
                param="file",
                code="storage_limit_exceeded",
            )


class _Measured:
    """Pieces that are counted, no more than there is room for, and whose failure is remembered."""

    def __init__(self, pieces: AsyncIterable[bytes], room: _Room | None = None) -> None:
        self._pieces, self._room = pieces, room
        self.bytes = 0
        self.failure: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._pieces:
                self.bytes += len(piece)
                if self._room is not None:
                    self._room.require(self.bytes)
                yield piece
        except Exception as error:
            self.failure = error
            raise
