"""Versions of a collection and its newest state; `history` tags and restores, `retention` says which are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, cast

from flowbed.errors import Error, NotFound
from flowbed.index.datasets import blocking

if TYPE_CHECKING:
    from datetime import datetime

    import lance

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.storage import Store

# How Lance names the manifest of a version (its "V2" scheme, the default since 0.17).
MANIFESTS, MANIFEST = "_versions", ".manifest"
DIGITS, COUNTED_FROM = 20, 2**64 - 1
LISTINGS: Final = 10  # rollbacks add and remove tags; ten in a row do not all hit one listing


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a collection; `created` is microseconds since 1970.

    `rows` are live rows from `versions`, and include tombstones from `versions_of`, which is faster.
    """

    version: int
    created: int
    rows: int
    bytes: int
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The object that holds a version; `modified` is microseconds since 1970, by the store's clock."""

    version: int
    modified: int


@dataclass(frozen=True, kw_only=True)
class State:
    """The newest state of a collection: its live rows, and how many of them are not in the vector index."""

    rows: int
    tombstones: int
    unindexed_rows: int
    fragments: int
    version: int


async def newest_version(live: Live, *, store: Store) -> int | None:
    """Read the number of the newest version off the names of Lance's manifests, without opening the dataset.

    None where the store does not list them, as one in memory, or names them in a way that is not known.
    """
    newest = await newest_manifest(live, store=store)
    return None if newest is None else newest.version


async def newest_manifest(live: Live, *, store: Store) -> Manifest | None:
    """Find the newest manifest as `newest_version` does; the time tells it from one of an index built later."""
    modified = {
        PurePosixPath(listed.key).name: listed.modified
        async for listed in store.list(f"{live.key}/{MANIFESTS}")
    }
    found = [name.removesuffix(MANIFEST) for name in modified if name.endswith(MANIFEST)]
    # Lance counts down from the largest number, in 20 digits, so that the newest is listed first.
    if not found or not all(name.isdigit() and len(name) == DIGITS for name in found):
        return None
    newest = min(found)
    return Manifest(version=COUNTED_FROM - int(newest), modified=modified[f"{newest}{MANIFEST}"])


async def last_written(live: Live, *, store: Store) -> int:
    """Return when the newest version was written, in microseconds since 1970; 0 where that cannot be found out now."""
    try:
        found = await newest_manifest(live, store=store)
    except Error:
        return 0  # what else is said of a collection does not fail for it
    return 0 if found is None else found.modified


async def identity(live: Live, version: int, *, datasets: Datasets) -> str:
    """Name the write that made a version: the same number in an index that was built again has another name.

    Empty if the version is not kept, or if Lance does not know.
    """
    try:
        dataset = await datasets.open(live, version=version)
    except NotFound:
        return ""
    if dataset is None:
        return ""

    def read() -> str:
        try:
            transaction = dataset.read_transaction(version)
        except TypeError:  # pylance 14 cannot describe a compaction that rewrote an index
            return ""
        return "" if transaction is None else transaction.uuid

    return await blocking(read, f"the index of {live.collection}")


async def was_built_again(live: Live, version: int, known: str, *, datasets: Datasets) -> bool:
    """Return whether a version is another one than the version of that number whose identity is `known`.

    No, if the index does not keep a version of that number.
    """
    now = await identity(live, version, datasets=datasets)
    return bool(now) and now != known


async def versions(live: Live, *, datasets: Datasets) -> list[Version]:
    """List the kept versions and their live rows, newest first."""
    dataset = await datasets.open(live)
    if dataset is None:
        return []

    def look() -> list[Version]:
        return [replace(each, rows=_live_rows(dataset, each)) for each in versions_of(dataset)]

    return await blocking(look, f"the index of {live.collection}")


def _live_rows(dataset: lance.LanceDataset, version: Version) -> int:
    """Count the live rows of a version; if it was dropped meanwhile, all of them as they were recorded."""
    try:
        return int(dataset.checkout_version(version.version).count_rows("deleted = false"))
    except (OSError, ValueError) as error:
        if "not found" not in str(error).lower():
            raise
        return version.rows


async def state(live: Live, *, datasets: Datasets) -> State:
    """Describe the newest version; zero rows and version 0 if nothing was committed yet."""
    dataset = await datasets.open(live)
    if dataset is None:
        return State(rows=0, tombstones=0, unindexed_rows=0, fragments=0, version=0)
    return await blocking(lambda: state_of(dataset), f"the index of {live.collection}")


def versions_of(dataset: lance.LanceDataset) -> list[Version]:
    """List the versions kept, newest first; blocks."""
    tags: dict[int, list[str]] = {}
    for name, tag in _tags(dataset).items():
        tags.setdefault(int(tag["version"]), []).append(name)
    return [
        Version(
            version=each["version"],
            created=int(cast("datetime", each["timestamp"]).timestamp() * 1_000_000),
            rows=int(each["metadata"].get("total_rows", 0)),
            bytes=int(each["metadata"].get("total_files_size", 0)),
            tags=tuple(sorted(tags.get(each["version"], ()))),
        )
        for each in reversed(dataset.versions())
    ]


def _tags(dataset: lance.LanceDataset) -> dict[str, Any]:
    # Lance lists the tags and then reads each; if another process removes one in between, the listing fails.
    for _ in range(LISTINGS):
        try:
            return cast("dict[str, Any]", dataset.tags.list())
        except (OSError, ValueError) as error:
            if "not found" not in str(error).lower():
                raise
    return cast("dict[str, Any]", dataset.tags.list())


def state_of(dataset: lance.LanceDataset) -> State:
    """Describe an opened version; blocks."""
    rows = dataset.count_rows()
    live = dataset.count_rows("deleted = false")
    indexed = sum(
        each.num_rows_indexed for each in dataset.describe_indices() if each.field_names == ["vector"]
    )
    return State(
        rows=live,
        tombstones=rows - live,
        # Tombstones have no vector; Lance still counts those that were indexed before they were deleted.
        unindexed_rows=max(0, min(live, rows - indexed)),
        fragments=len(dataset.get_fragments()),
        version=int(dataset.version),
    )
