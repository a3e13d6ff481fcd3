"""Objects in a store that obstore speaks to."""

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

# Objects are handed on in pieces of at most this many bytes.
PIECE = 1 << 20

# Stores in memory by name, for as long as the process lives: `memory://a` is the same store wherever it is opened.
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
    """A store of obstore's; where it has no place for Lance, Lance gets a temporary folder."""

    def __init__(self, url: str, objects: ObjectStore) -> None:
        """Keep objects in `objects`, and call it `url` in messages."""
        self.url = url
        self._objects = objects
        self._folder: Path | None = None

    async def get(self, key: str) -> Stored:
        """Read an object whole; raises `NotFound`."""
        with self._translated(checked(key)):
            answer = await obstore.get_async(self._objects, key)
            return Stored(body=bytes(await answer.bytes_async()), etag=answer.meta["e_tag"] or "")

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """Read an object in pieces; raises `NotFound` at the first."""
        with self._translated(checked(key)):
            answer = await obstore.get_async(self._objects, key)
            async for answered in answer.stream():
                # A store in memory answers with the whole object at once.
                view = memoryview(answered)
                for start in range(0, len(view), PIECE):
                    yield bytes(view[start : start + PIECE])

    async def put(self, key: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Write an object, in the place of any that is there; a stream is never held whole in memory."""
        with self._translated(checked(key)):
            await obstore.put_async(self._objects, key, body)

    async def create(self, key: str, body: bytes) -> str:
        """Write an object that must not exist, and return its etag; raises `Conflict` when it does."""
        with self._translated(checked(key)):
            put = await obstore.put_async(self._objects, key, body, mode="create")
            return put["e_tag"] or ""

    async def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Write an object in the place of the one with `etag`; raises `Conflict` when that is no longer there."""
        with self._translated(checked(key)):
            put = await obstore.put_async(self._objects, key, body, mode={"e_tag": etag})
            return put["e_tag"] or ""

    async def list(self, prefix: str) -> AsyncIterator[Listed]:
        """List the objects below `prefix` in no particular order, in pages."""
        folder = checked_prefix(prefix)
        with self._translated(prefix):
            async for page in obstore.list(self._objects, folder or None):
                for found in page:
                    modified = int(found["last_modified"].timestamp() * 1_000_000)
                    yield Listed(key=found["path"], size=found["size"], modified=modified)

    async def folders(self, prefix: str) -> Sequence[str]:
        """Name the folders right below `prefix`, in order."""
        folder = checked_prefix(prefix)
        with self._translated(prefix):
            found = await obstore.list_with_delimiter_async(self._objects, folder or None)
        return sorted(each.rstrip("/").rpartition("/")[2] for each in found["common_prefixes"])

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        names = [checked(key) for key in keys]
        with self._translated(", ".join(names)), contextlib.suppress(FileNotFoundError):
            await obstore.delete_async(self._objects, names)

    def location(self, key: str) -> Location:
        """Say where Lance may keep a dataset under `key`: in a folder that goes when the process ends."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="flowbed-"))
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        return Location(uri=str(self._folder / checked(key)), options={})

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Say in Flowbed's own errors what obstore raises within."""
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
            raise Rejected(f"{what} cannot be named so: {first_line(error)}") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise Misconfigured(
                f"no permission for {what}: set credentials that may read and write there"
            ) from error
        except (BaseError, OSError) as error:
            raise Transient(f"cannot reach {what}: {first_line(error)}") from error
