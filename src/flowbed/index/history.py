"""The history of a collection: put back to an older version, and looked through for what was put back."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import lance
import pyarrow.compute as pc

from flowbed.errors import NotFound
from flowbed.index.datasets import blocking

if TYPE_CHECKING:
    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A version whose contents are those of the older version `target`."""

    target: int
    version: int


async def restore(live: Live, target: int, *, datasets: Datasets) -> int:
    """Make a new version with the contents of `target`, on top of whatever is the newest, and return its number.

    Whoever is merging onto a version from before it fails, and begins again: nothing is merged across it unseen.

    Raises:
        NotFound: there is no such version (any more).
    """
    dataset = await datasets.open(live, version=target)
    if dataset is None:
        raise NotFound(f"collection {live.collection} holds nothing yet; `flowbed run` fills it")

    def work() -> int:
        dataset.restore()  # type: ignore[no-untyped-call]
        return int(dataset.version)

    return await blocking(work, f"the index of {live.collection}")


async def restored_since(live: Live, version: int, *, datasets: Datasets) -> tuple[int, list[Restored]]:
    """Tell the newest version, and which versions after the one given, and still kept, put an older one back."""
    dataset = await datasets.open(live)
    if dataset is None:
        return 0, []

    def work() -> tuple[int, list[Restored]]:
        newest, found = int(dataset.version), []
        if newest > version:
            kept = (int(each["version"]) for each in dataset.version_refs())
            for each in sorted(number for number in kept if version < number <= newest):
                # A version may be dropped while it is read; what it put back was recorded before that. And a
                # compaction that rewrote a vector index is nothing that pylance 14 can tell (TypeError): no restore.
                with contextlib.suppress(OSError, TypeError):
                    done = dataset.read_transaction(each)
                    if done is not None and isinstance(done.operation, lance.LanceOperation.Restore):
                        found.append(Restored(target=int(done.operation.version), version=each))
        return newest, found

    return await blocking(work, f"the index of {live.collection}")


async def runs_in(live: Live, version: int, *, datasets: Datasets) -> set[str]:
    """Name the runs that have a row, live or deleted, in a version.

    A run is merged whole: one of its rows proves that all of it was. A run without a row may have been merged and
    superseded since.

    Raises:
        NotFound: there is no such version (any more).
    """
    dataset = await datasets.open(live, version=version)
    if dataset is None:
        return set()

    def work() -> set[str]:
        found: set[str] = set()
        for batch in dataset.to_batches(columns=["run_id"]):
            found.update(pc.unique(batch["run_id"]).to_pylist())
        return found

    return await blocking(work, f"the index of {live.collection}")


async def tag(live: Live, name: str, version: int, *, datasets: Datasets) -> None:
    """Keep a version from being dropped, under a name; one that has the name already loses it.

    Raises:
        NotFound: there is no such version (any more).
    """
    dataset = await datasets.open(live, version=version)
    if dataset is None:
        raise NotFound(f"collection {live.collection} holds nothing yet; `flowbed run` fills it")

    def work() -> None:
        try:
            dataset.tags.create(name, version)
        except ValueError as error:
            if "already exists" not in str(error):
                raise
            dataset.tags.update(name, version)

    await blocking(work, f"the index of {live.collection}")


async def untag(live: Live, name: str, *, datasets: Datasets) -> bool:
    """Take a name away; return whether there was one."""
    dataset = await datasets.open(live)
    if dataset is None:
        return False

    def work() -> bool:
        try:
            dataset.tags.delete(name)
        except (OSError, ValueError) as error:
            # "tag ... not found", or "Not found: .../tags/..." where another process took it away in between
            if "not found" not in str(error).lower():
                raise
            return False
        return True

    return await blocking(work, f"the index of {live.collection}")
