"""A store in a folder, safe against concurrent processes, `kill -9` and power loss.

obstore's local store is not enough: it cannot replace by etag, does not sync its writes, leaves the unfinished files of
killed processes behind, and rejects names that end in `#` and digits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from flowbed.errors import Conflict, Error, Misconfigured, NotFound, OutOfSpace, Rejected, Transient
from flowbed.storage import Listed, Location, Stored
from flowbed.storage.atomic import FORBIDDEN, FULL, OWNER_FOLDER, sync_folder
from flowbed.storage.keys import RESERVED, checked, checked_prefix
from flowbed.storage.writing import AtomicFile, locked, prune, sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterator, Sequence

Result = TypeVar("Result")

# Bytes per read and write: so large that switching threads costs nothing in comparison.
PIECE = 1 << 20

# Objects per page of a listing, as in S3.
PAGE = 1000

MISNAMED = {errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENOTEMPTY}

# What reading a missing file raises, including when a parent is a file or the path is a folder.
ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def open_files(path: str, *, folder: Path) -> Files:
    """Open the store in a folder, given as a path or a `file://` URL; it is created if absent.

    Raises:
        Misconfigured: the folder cannot be created.
    """
    plain = unquote(path.removeprefix("file://")) if path.startswith("file://") else path
    root = Path(os.path.abspath(folder / plain))  # noqa: PTH100 - resolve() would follow links that may yet be moved
    try:
        root.mkdir(OWNER_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(
            f"store {path!r} cannot be created at {root}: {error.strerror}; set another folder"
        ) from error
    return Files(root)


class Files:
    """A store in a folder of this machine, shared by any number of processes.

    An etag is the SHA-256 of the body, so that neither clock nor inode can make two bodies look alike. A cancelled call
    waits for the operating system to finish, so that nothing is written after it has returned.
    """

    def __init__(self, root: Path) -> None:
        """Store objects below `root`, which exists."""
        self.root = root
        self.url = root.as_uri()
        self._own = root / RESERVED
        self._swept = False

    async def get(self, key: str) -> Stored:
        """Return an object; raises `NotFound`."""
        path = self._path(key)

        def read() -> Stored:
            body = path.read_bytes()
            return Stored(body=body, etag=_etag(body))

        return await self._read(key, read)

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """Iterate over the bytes of an object; raises `NotFound` at the first piece."""
        path = self._path(key)
        file = await self._read(key, lambda: path.open("rb", buffering=0))
        try:
            while piece := await self._read(key, lambda: file.read(PIECE)):
                yield piece
        finally:
            file.close()

    async def put(self, key: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Write an object, replacing any existing one; a stream is never held in memory whole."""
        path = self._path(key)
        if isinstance(body, bytes):
            await self._write(key, body)
            return
        writing = await self._call(key, self._begin)
        try:
            async for piece in _pieces(body):
                await self._call(key, writing.write, piece)
            await self._call(key, writing.place, path)
        finally:
            await self._call(key, writing.discard)

    async def create(self, key: str, body: bytes) -> str:
        """Write a new object and return its etag; raises `Conflict` if the key exists."""
        path = self._path(key)

        def absent() -> None:
            if path.exists():
                raise Conflict(f"{key!r} exists already in {self.url}")

        await self._write(key, body, only_if=absent)
        return _etag(body)

    async def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Replace the object that has `etag`, return its new etag; raises `Conflict` if it changed or is gone."""
        path = self._path(key)

        def unchanged() -> None:
            try:
                present = _etag(path.read_bytes())
            except ABSENT as error:
                raise Conflict(f"{key!r} in {self.url} was deleted since it was read") from error
            if present != etag:
                raise Conflict(f"{key!r} in {self.url} has changed since it was read")

        await self._write(key, body, only_if=unchanged)
        return _etag(body)

    async def list(self, prefix: str) -> AsyncIterator[Listed]:
        """Iterate over the objects below `prefix` in no particular order."""
        found = self._walk(checked_prefix(prefix))
        while page := await self._call(prefix, lambda: list(islice(found, PAGE))):
            for listed in page:
                yield listed

    async def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders directly below `prefix`, in order."""
        place = self.root / checked_prefix(prefix)

        def look() -> list[str]:
            try:
                return sorted(each.name for each in place.iterdir() if each.is_dir() and each != self._own)
            except ABSENT:
                return []

        return await self._call(prefix, look)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; missing ones are ignored."""
        paths = {key: self._path(key) for key in keys}
        for key, path in paths.items():
            await self._call(key, self._remove, path)
        for folder in {path.parent for path in paths.values()}:
            await self._call(str(folder), self._settle, folder)

    def location(self, key: str) -> Location:
        """Return where Lance may keep a dataset under `key`.

        Lance gives its files the modes of the umask, so the folder above them is made here, for the owner alone.
        """
        path = self._path(key)
        with contextlib.suppress(OSError):  # a reader may not write; a writer gets Lance's own error
            path.parent.mkdir(OWNER_FOLDER, parents=True, exist_ok=True)
        return Location(uri=str(path), options={})

    def _path(self, key: str) -> Path:
        return self.root / checked(key)

    async def _read(self, key: str, call: Callable[[], Result]) -> Result:
        try:
            return await self._call(key, call)
        except Error as error:
            if isinstance(error.__cause__, ABSENT):
                raise NotFound(f"there is no {key!r} in {self.url}") from error.__cause__
            raise

    async def _write(self, key: str, body: bytes, *, only_if: Callable[[], None] | None = None) -> None:
        path = self._path(key)

        def write() -> None:
            writing = self._begin()
            try:
                writing.write(body)
                writing.place(path, only_if=only_if)
            finally:
                writing.discard()

        await self._call(key, write)

    async def _call(self, key: str, call: Callable[..., Result], *args: object) -> Result:
        """Run a call in a thread, and translate errors of the operating system."""
        try:
            return await _finished(asyncio.to_thread(call, *args))
        except OSError as error:
            raise self._translated(key, error) from error

    def _translated(self, key: str, error: OSError) -> Error:
        what = f"{key!r} in {self.url}"
        if error.errno in FULL:
            return OutOfSpace(
                f"no space to write {what} ({error.strerror}): nothing stored before is lost; free space and run again"
            )
        if error.errno in FORBIDDEN:
            return Misconfigured(
                f"no permission for {what} ({error.strerror}: {error.filename}): "
                "grant it, or set the store to a folder that can be read and written"
            )
        if error.errno in MISNAMED:
            return Rejected(
                f"{what} cannot be a file ({error.strerror}): objects and folders have different names here"
            )
        return Transient(f"cannot reach {what}: {error}")

    def _begin(self) -> AtomicFile:
        if not self._swept:
            sweep(self._own)
            self._swept = True
        return AtomicFile(self._own)

    def _remove(self, path: Path) -> None:
        try:
            with locked(self._own, path):
                path.unlink()
        except ABSENT:
            return

    def _settle(self, folder: Path) -> None:
        """Sync removals to disk, so that deleted objects stay deleted, and remove empty folders."""
        try:
            sync_folder(folder)
        except ABSENT:
            return
        prune(folder, root=self.root)

    def _walk(self, prefix: str) -> Iterator[Listed]:
        folders = [prefix]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self.root / folder) as found:
                    entries = list(found)
            except ABSENT:
                continue
            for entry in entries:
                key = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if key != RESERVED:
                        folders.append(key)
                elif (listed := _listed(key, entry)) is not None:
                    yield listed


def _listed(key: str, entry: os.DirEntry[str]) -> Listed | None:
    try:
        status = entry.stat()
    except FileNotFoundError:  # removed since the folder was listed
        return None
    return Listed(key=key, size=status.st_size, modified=status.st_mtime_ns // 1000)


def _etag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def _pieces(body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Join small pieces into ones that are worth a switch of threads."""
    gathered = bytearray()
    async for piece in body:
        gathered += piece
        if len(gathered) >= PIECE:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


async def _finished(work: Coroutine[Any, Any, Result]) -> Result:
    """Await a thread until it ends, even if the caller is cancelled: threads cannot be."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # only the cancellation is reported
        raise
