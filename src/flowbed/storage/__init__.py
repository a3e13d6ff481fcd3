"""Object stores with conditional writes: `file://`, `memory://`, `s3://`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote_to_bytes

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The bytes of an object, and the etag that names this state of it."""

    body: bytes
    etag: str


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An object in a listing; `modified` is microseconds since 1970."""

    key: str
    size: int
    modified: int


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where another library may do its own I/O: a URI, and that library's storage options."""

    uri: str
    options: Mapping[str, str]


class Store(Protocol):
    """An object store. Keys are relative and `/`-separated. Every write is atomic: whole or absent, even after a crash.

    Every method raises `Transient` if the same call may succeed later, and `OutOfSpace` if the disk is full.
    """

    url: str

    async def get(self, key: str) -> Stored:
        """Return an object; raises `NotFound`."""
        ...

    def stream(self, key: str) -> AsyncIterator[bytes]:
        """Iterate over the bytes of an object; raises `NotFound` at the first piece."""
        ...

    async def put(self, key: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Write an object, replacing any existing one; a stream is never held in memory whole."""
        ...

    async def create(self, key: str, body: bytes) -> str:
        """Write a new object and return its etag; raises `Conflict` if the key exists."""
        ...

    async def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Replace the object that has `etag` and return the new etag; raises `Conflict` if it has changed or is gone.

        All bodies of a key must differ, since equal bytes may have equal etags. `Transient` may also mean that it is
        unknown whether the object was replaced.
        """
        ...

    def list(self, prefix: str) -> AsyncIterator[Listed]:
        """Iterate over the objects below `prefix` (a whole folder name, or "" for all) in no particular order."""
        ...

    async def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders directly below `prefix`, in order, without listing their contents."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; missing ones are ignored."""
        ...

    def location(self, key: str) -> Location:
        """Return where Lance may keep a dataset under `key`."""
        ...


# Loaded by name, so that a store in a folder does not import obstore. A URL without a scheme is a path.
KINDS = {
    "": "flowbed.storage.files:open_files",
    "file": "flowbed.storage.files:open_files",
    "memory": "flowbed.storage.objects:open_memory",
    "s3": "flowbed.storage.s3:open_s3",
}
LOCAL = {"", "file", "memory"}


def folder_of(url: str) -> Path | None:
    """Return the folder of a store on this machine, given its `url`; None for any other store."""
    if not url.startswith("file://"):
        return None
    return Path(os.fsdecode(unquote_to_bytes(url.removeprefix("file://"))))


def bucket_of(url: str) -> tuple[str, str]:
    """Return the bucket of a store and the prefix of its keys; "" for a store that is in no bucket."""
    if not url.startswith("s3://"):
        return "", ""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def open_store(url: str, *, folder: Path, options: Mapping[str, str] | None = None) -> Store:
    """Open the store at `url`; a relative `file` path is below `folder`, and is created if absent.

    `options` are those of a remote store; stores on this machine have none.

    Raises:
        Misconfigured: the scheme or an option is unknown, or the folder cannot be created.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    start = url.partition(":")[0]
    if start and start != url and start in KINDS and not scheme:
        raise Misconfigured(f"store {url!r} lacks the slashes after {start}: write {start}://...")
    target = KINDS.get(scheme)
    if target is None:
        raise Misconfigured(
            f"store {url!r}: {scheme}:// is not built into this version; set the store to a folder, file://, memory://"
            " or s3://"
        )
    if options and scheme in LOCAL:
        raise Misconfigured(
            f"store_options: store {url!r} takes no options; remove {', '.join(sorted(options))}"
        )
    module, _, attribute = target.partition(":")
    opener: Callable[..., Store] = getattr(import_module(module), attribute)
    return opener(url, folder=folder) if scheme in LOCAL else opener(url, options=options or {})
