"""Chroma directories as snapshots in the store: the file list of each, and the pointer to the current one."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Misconfigured, NotFound, Rejected
from flowbed.records import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.storage import Store

FOLDER, TIMESTAMPED, POINTER = "snapshot", "timestamped", "latest-pointer.txt"
# The file list lies in the directory that it describes; Chroma ignores files that are not its own.
LIST = "snapshot.json"
VERSION = re.compile(r"[0-9]{8}_[0-9]{6}_[0-9]{6}")
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SnapshotFile:
    """A file of a snapshot, by its path within."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The file list of a snapshot: what it holds, and what made it.

    `name` is Chroma's name of the collection, and `graph` the settings of its graph. `index_version` is the version of
    the index of `space` (a fingerprint) that it holds. `superseded` counts vectors of deleted and changed rows that the
    graph still holds. `parent` is the snapshot it was made from, if any. `index_identity` names the write that made the
    version of the index: an index that was dropped and built again reaches the same numbers.
    """

    version: str
    collection: str
    name: str
    graph: Mapping[str, int]
    index_version: int
    space: str
    model: str
    dimensions: int
    rows: int
    superseded: int
    chromadb: str
    created: int
    parent: str | None
    index_identity: str = ""
    files: Mapping[str, SnapshotFile] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The bytes of all its files."""
        return sum(each.size for each in self.files.values())

    def to_json(self) -> bytes:
        """Return the file list as it is stored."""
        return canonical({"format": FORMAT, **asdict(self)})


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """The pointer of a collection: the version it names, and the etag of this state of it."""

    version: str
    etag: str


def pointer_key(collection: str) -> str:
    """Return the key of a collection's pointer."""
    return f"{collection}/{FOLDER}/{POINTER}"


def snapshots_key(collection: str) -> str:
    """Return the prefix of a collection's snapshots."""
    return f"{collection}/{FOLDER}/{TIMESTAMPED}"


def snapshot_key(collection: str, version: str) -> str:
    """Return the prefix of a snapshot's files."""
    return f"{snapshots_key(collection)}/{version}"


def version_at(moment: int) -> str:
    """Return the name of a snapshot made at `moment` (microseconds since 1970): a sortable timestamp."""
    at = datetime.fromtimestamp(moment // 1_000_000, UTC)
    return f"{at:%Y%m%d_%H%M%S}_{moment % 1_000_000:06d}"


async def read_pointer(store: Store, collection: str) -> Pointer | None:
    """Read which snapshot is the current one; None if there is no pointer, which does not mean that nothing exists.

    Raises:
        Misconfigured: the pointer is damaged.
    """
    key = pointer_key(collection)
    try:
        stored = await store.get(key)
    except NotFound:
        return None
    version = stored.body.decode("ascii", "replace").strip()
    if not VERSION.fullmatch(version):
        raise Misconfigured(
            f"{key} names no snapshot ({version[:60]!r}): delete it, and `flowbed publish {collection}` writes it again"
        )
    return Pointer(version=version, etag=stored.etag)


async def read_snapshot(store: Store, collection: str, version: str) -> Snapshot:
    """Read the file list of a snapshot.

    Raises:
        NotFound: it does not exist, or was never completed.
        Rejected: its file list is damaged.
    """
    key = f"{snapshot_key(collection, version)}/{LIST}"
    found = parsed((await store.get(key)).body, key)
    # Its names become folders of whoever pulls it.
    if (found.version, found.collection) != (version, collection):
        raise Rejected(f"{key} is damaged: it describes {found.collection[:100]!r} {found.version[:100]!r}")
    return found


def parsed(body: bytes, key: str) -> Snapshot:
    """Parse a file list.

    Raises:
        Rejected: it is damaged, or of a newer format.
    """
    try:
        said: dict[str, Any] = orjson.loads(body)
        if said.pop("format") != FORMAT:
            raise Rejected(f"{key} was written by a newer version of Flowbed; update this one")
        files = {name: SnapshotFile(**each) for name, each in said.pop("files").items()}
        found = Snapshot(files=files, **said)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Rejected(f"{key} is damaged ({error})") from error
    for name in found.files:
        checked_path(name, key)
    return found


def checked_path(name: str, key: str) -> None:
    """Refuse a path that would lead out of the snapshot's directory.

    Raises:
        Rejected: the path is absolute, has a parent folder in it, or is the file list itself.
    """
    if (
        name == LIST
        or any(part in {"", ".", ".."} for part in name.split("/"))
        or "\\" in name
        or "\0" in name
    ):
        raise Rejected(f"{key} names the file {name!r}, which cannot be part of a snapshot")


async def complete_snapshots(store: Store, collection: str) -> list[Snapshot]:
    """Read the file lists of all snapshots that were uploaded completely, oldest first."""
    found = []
    for version in await store.folders(snapshots_key(collection)):
        try:
            found.append(await read_snapshot(store, collection, version))
        except (NotFound, Rejected):
            continue
    return found


async def move_pointer(store: Store, collection: str, version: str, *, before: Pointer | None) -> None:
    """Make a snapshot the current one, if the pointer is still as it was read `before`.

    Raises:
        Conflict: it was moved, created or deleted meanwhile; nothing was changed.
        Transient: it is unknown whether it was moved; read it again.
    """
    key, body = pointer_key(collection), version.encode()
    if before is None:
        await store.create(key, body)
    else:
        await store.replace(key, body, etag=before.etag)


async def current_snapshot(store: Store, collection: str) -> Snapshot:
    """Read the file list of the snapshot that the pointer names.

    Raises:
        NotFound: there is no pointer, or its snapshot is gone; the message says what to do.
    """
    for _ in range(2):
        pointer = await read_pointer(store, collection)
        if pointer is None:
            known = await store.folders(snapshots_key(collection))
            there = f"although {len(known)} snapshots exist" if known else "and no snapshot"
            raise NotFound(
                f"collection {collection!r} has no {POINTER} in {store.url}, {there};"
                f' a publication of kind "chroma" in flowbed.toml and `flowbed publish {collection}` make one'
            )
        try:
            return await read_snapshot(store, collection, pointer.version)
        except NotFound:
            missing = pointer.version  # the pointer may have moved since
    raise NotFound(
        f"the pointer of {collection!r} names {missing}, which is gone from {store.url};"
        f" `flowbed publish {collection} --reconcile` publishes a new one"
    )
