"""Objects in a store of obstore."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import MemoryStore

from flowbed.errors import Conflict, Misconfigured, NotFound, Rejected, Transient
from flowbed.storage import Listed, Location, Stored
from flowbed.storage.failures import first_line
from flowbed.storage.keys import checked, checked_prefix

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence

    from obstore.store import ObjectStore

# Largest piece of a stream, in bytes.
PIECE = 1 << 20

# Stores in memory by name, for the lifetime of the process: `memory://a` is the same store wherever it is opened.
_named: dict[str, Objects] = {}


def open_memory(url: str, *, folder: Path) -> Objects:  # noqa: ARG001 - every store on this machine is opened alike
    """Open the store in this process's memory that `url` names; `memory://` alone is a new one each time."""
    name = url.removeprefix("memory://").strip("/")
    if name not in _named:
        opened = Objects(url, MemoryStore())
        if not name:
            return opened
        _named[name] = opened
    return _named[name]


class Objects:
    """A store of obstore. If Lance cannot access it, Lance gets a temporary folder."""

    def __init__(self, url: str, objects: ObjectStore) -> None:
        """Store objects in `objects`; messages name it `url`."""
        self.url = url
        self._objects = objects
        self._folder: Path | None = None

    async def get(self, key: str) -> Stored:
        """Return an object; raises `NotFound`."""
        with self._translated(checked(key)):
            answer = await obstore.get_async(self._objects, key)
            return Stored(body=bytes(await answer.bytes_async()), etag=answer.meta["e_tag"] or "")

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """Iterate over the bytes of an object; raises `NotFound` at the first piece."""
        with self._translated(checked(key)):
            answer = await obstore.get_async(self._objects, key)
            async for answered in answer.stream():
                # A store in memory returns the whole object as one piece.
                view = memoryview(answered)
                for start in range(0, len(view), PIECE):
                    yield bytes(view[start : start + PIECE])

    async def put(self, key: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Write an object, replacing any existing one; a stream is never held in memory whole."""
        with self._translated(checked(key)):
            await obstore.put_async(self._objects, key, body)

    async def create(self, key: str, body: bytes) -> str:
        """Write a new object and return its etag; raises `Conflict` if the key exists."""
        with self._translated(checked(key)):
            put = await obstore.put_async(self._objects, key, body, mode="create")
            return put["e_tag"] or ""

    async def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Replace the object that has `etag`, return its new etag; raises `Conflict` if it changed or is gone."""
        with self._translated(checked(key)):
            put = await obstore.put_async(self._objects, key, body, mode={"e_tag": etag})
            return put["e_tag"] or ""

    async def list(self, prefix: str) -> AsyncIterator[Listed]:
        """Iterate over the objects below `prefix` in no particular order."""
        folder = checked_prefix(prefix)
        with self._translated(prefix):
            async for page in obstore.list(self._objects, folder or None):
                for found in page:
                    modified = int(found["last_modified"].timestamp() * 1_000_000)
                    yield Listed(key=found["path"], size=found["size"], modified=modified)

    async def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders directly below `prefix`, in order."""
        folder = checked_prefix(prefix)
        with self._translated(prefix):
            found = await obstore.list_with_delimiter_async(self._objects, folder or None)
        return sorted(each.rstrip("/").rpartition("/")[2] for each in found["common_prefixes"])

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; missing ones are ignored."""
        names = [checked(key) for key in keys]
        with self._translated(", ".join(names)), contextlib.suppress(FileNotFoundError):
            await obstore.delete_async(self._objects, names)

    def location(self, key: str) -> Location:
        """Return where Lance may keep a dataset under `key`: a folder that is removed when the process ends."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="flowbed-"))
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        return Location(uri=str(self._folder / checked(key)), options={})

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Translate the errors that obstore raises within."""
        what = f"{key!r} in {self.url}"
        try:
            yield
        except FileNotFoundError as error:
            raise NotFound(f"there is no {what}") from error
        except AlreadyExistsError as error:
            raise Conflict(f"{what} exists already") from error
        except PreconditionError as error:
            raise Conflict(f"{what} has changed since it was read") from error
        except InvalidPathError as error:
            raise Rejected(f"{what} is not a valid name: {first_line(error)}") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise Misconfigured(
                f"no permission for {what}: set credentials that may read and write it"
            ) from error
        except (BaseError, OSError) as error:
            raise Transient(f"cannot reach {what}: {first_line(error)}") from error
