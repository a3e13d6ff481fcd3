"""The history of a collection: restores older versions, tags versions, and finds what was restored."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, NotFound
from flowbed.index.datasets import blocking
from flowbed.records.values import shown

if TYPE_CHECKING:
    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets


# Lance stores a tag in a file of its name and ".json", and file systems take 255 bytes.
TAG_BYTES = 200
# What Lance allows, of ASCII only: Lance takes other letters, and then cannot list the tags of the index any more.
_TAG = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)
# A rollback gives these names while it works, and takes them away afterwards.
_ROLLBACK = re.compile(r"rollback-\d+")


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A version with the contents of the older version `target`."""

    target: int
    version: int


async def restore(live: Live, target: int, *, datasets: Datasets) -> int:
    """Create a new version with the contents of `target`, on top of the newest, and return its number.

    A merge that read an earlier version fails and starts again, so nothing is merged across a restore unnoticed.

    Raises:
        NotFound: the version does not exist (any more).
    """
    dataset = await datasets.open(live, version=target)
    if dataset is None:
        raise NotFound(f"collection {live.collection} is empty; fill it with `flowbed run`")

    def work() -> int:
        dataset.restore()  # type: ignore[no-untyped-call]
        return int(dataset.version)

    return await blocking(work, f"the index of {live.collection}")


async def restored_since(live: Live, version: int, *, datasets: Datasets) -> tuple[int, list[Restored]]:
    """Return the newest version, and the restores among the kept versions after `version`."""
    import lance

    dataset = await datasets.open(live)
    if dataset is None:
        return 0, []

    def work() -> tuple[int, list[Restored]]:
        newest, found = int(dataset.version), []
        if newest > version:
            kept = (int(each["version"]) for each in dataset.version_refs())
            for each in sorted(number for number in kept if version < number <= newest):
                # A version may be dropped while it is read; what it restored was recorded before that. And pylance 14
                # cannot describe a compaction that rewrote a vector index (TypeError), which is not a restore.
                with contextlib.suppress(OSError, TypeError):
                    done = dataset.read_transaction(each)
                    if done is not None and isinstance(done.operation, lance.LanceOperation.Restore):
                        found.append(Restored(target=int(done.operation.version), version=each))
        return newest, found

    return await blocking(work, f"the index of {live.collection}")


async def runs_in(live: Live, version: int, *, datasets: Datasets) -> set[str]:
    """Return the ids of the runs that have a row, live or deleted, in a version.

    A run is merged whole, so one row proves that all of it was. A run without rows may have been merged and superseded.

    Raises:
        NotFound: the version does not exist (any more).
    """
    import pyarrow.compute as pc

    dataset = await datasets.open(live, version=version)
    if dataset is None:
        return set()

    def work() -> set[str]:
        found: set[str] = set()
        for batch in dataset.to_batches(columns=["run_id"]):
            found.update(pc.unique(batch["run_id"]).to_pylist())
        return found

    return await blocking(work, f"the index of {live.collection}")


def require_tag(name: str) -> None:
    """Check the name of a tag before it is given to a version.

    Raises:
        Misconfigured: no version may have this name.
    """
    reserved = name.endswith(".lock") or _ROLLBACK.fullmatch(name)
    if reserved or len(name) > TAG_BYTES or not _TAG.fullmatch(name):
        raise Misconfigured(
            f"a version cannot be tagged {shown(name)}: use up to {TAG_BYTES} of the letters a to z, digits, -, _ and"
            " single dots in between, such as before-cleanup; rollback-NUMBER and names that end with .lock are"
            " reserved"
        )


def rollback_tag(target: int) -> str:
    """Return the tag that keeps a version from being dropped during a rollback to it."""
    return f"rollback-{target}"


async def tag(live: Live, name: str, version: int, *, datasets: Datasets) -> None:
    """Keep a version from being dropped, under a name; if another version has the name, the name moves.

    Raises:
        NotFound: the version does not exist (any more).
    """
    dataset = await datasets.open(live, version=version)
    if dataset is None:
        raise NotFound(f"collection {live.collection} is empty; fill it with `flowbed run`")

    def work() -> None:
        try:
            dataset.tags.create(name, version)
        except ValueError as error:
            if "already exists" not in str(error):
                raise
            dataset.tags.update(name, version)

    await blocking(work, f"the index of {live.collection}")


async def untag(live: Live, name: str, *, datasets: Datasets) -> bool:
    """Remove a name; return whether it existed."""
    dataset = await datasets.open(live)
    if dataset is None or len(name.encode()) > TAG_BYTES:
        return False

    def work() -> bool:
        try:
            dataset.tags.delete(name)
        except (OSError, ValueError) as error:
            # "tag ... not found", or "Not found: .../tags/..." if another process removed it meanwhile; and no version
            # has a name that Lance does not allow.
            if "not found" not in str(error).lower() and "Ref is invalid" not in str(error):
                raise
            return False
        return True

    return await blocking(work, f"the index of {live.collection}")
