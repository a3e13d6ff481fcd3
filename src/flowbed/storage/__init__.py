"""Named bytes with conditional writes: `file://`, `memory://`, `s3://`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The bytes of one object and the tag that a conditional replacement must name."""

    body: bytes
    etag: str


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One object in a listing; `modified` is microseconds since 1970."""

    key: str
    size: int
    modified: int


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where another library may do its own I/O below a key: an address and that library's storage options."""

    uri: str
    options: Mapping[str, str]


class Store(Protocol):
    """Named bytes. Keys are relative, `/`-separated. Every write is whole or absent, whatever happens meanwhile.

    Every method raises `Transient` when the same call may succeed later and `OutOfSpace` when the disk is full.
    """

    url: str

    async def get(self, key: str) -> Stored:
        """Read an object whole; raises `NotFound`."""
        ...

    def stream(self, key: str) -> AsyncIterator[bytes]:
        """Read an object in pieces; raises `NotFound` at the first."""
        ...

    async def put(self, key: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Write an object, in the place of any that is there; a stream is never held whole in memory."""
        ...

    async def create(self, key: str, body: bytes) -> str:
        """Write an object that must not exist, and return its etag; raises `Conflict` when it does."""
        ...

    async def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Write an object in the place of the one with `etag`; raises `Conflict` when that is no longer there.

        Bodies of one key must all differ: equal bytes may carry an equal etag. `Transient` may also mean that it is
        not known whether the object was replaced.
        """
        ...

    def list(self, prefix: str) -> AsyncIterator[Listed]:
        """List the objects below `prefix` (a whole folder name, or nothing) in no particular order, in pages."""
        ...

    async def folders(self, prefix: str) -> Sequence[str]:
        """Name the folders right below `prefix`, in order, without going through what they hold."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        ...

    def location(self, key: str) -> Location:
        """Say where Lance may keep a dataset under `key`."""
        ...


# Loaded by name, so that a store in a folder costs no import of obstore. A URL without a scheme is a path.
KINDS = {
    "": "flowbed.storage.files:open_files",
    "file": "flowbed.storage.files:open_files",
    "memory": "flowbed.storage.objects:open_memory",
    "s3": "flowbed.storage.s3:open_s3",
}
LOCAL = {"", "file", "memory"}


def open_store(url: str, *, folder: Path, options: Mapping[str, str] | None = None) -> Store:
    """Open the store at `url`; a relative `file` path is taken below `folder`, and made where absent.

    `options` say where a server is and how it is spoken to; what is on this machine has none.

    Raises:
        Misconfigured: the scheme is not one that Flowbed stores on, the folder cannot be made, or an option is unknown.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    target = KINDS.get(scheme)
    if target is None:
        raise Misconfigured(
            f"store {url!r}: {scheme}:// is not built into this version; set the store to a folder, file://, memory://"
            " or s3://"
        )
    if options and scheme in LOCAL:
        raise Misconfigured(f"store_options: store {url!r} has none; take out {', '.join(sorted(options))}")
    module, _, attribute = target.partition(":")
    opener: Callable[..., Store] = getattr(import_module(module), attribute)
    return opener(url, folder=folder) if scheme in LOCAL else opener(url, options=options or {})
