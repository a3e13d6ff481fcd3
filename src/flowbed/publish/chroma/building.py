"""Builds Chroma directories on this machine: from a checked copy of the last one and what changed, or from all rows."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from flowbed.publish.chroma import Snapshot
from flowbed.publish.chroma.children import ask
from flowbed.publish.chroma.files import copy_checked, download, file_list
from flowbed.publish.chroma.verification import verify
from flowbed.publish.folders import new_folder
from flowbed.telemetry import SNAPSHOT_BASE, SNAPSHOT_BUILT, SNAPSHOT_VERIFIED, reached

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from flowbed.index.active_space import Live
    from flowbed.index.versions.changes import Changes
    from flowbed.publish import PublishContext
    from flowbed.publish.chroma import SnapshotFile

# Rows of one call: Chroma takes 5,461, and is as fast from a few hundred on.
BATCH = 5_000
HELD = "held-"  # how the folder is called in which the last directory is kept


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to build: `changes` on top of `base`, or all rows without one.

    `name` is Chroma's name of the collection, `graph` the settings of its graph, and `superseded` the number of dead
    vectors that the graph will hold. `identity` is that of the version which the changes lead to.
    """

    live: Live
    name: str
    graph: Mapping[str, int]
    changes: Changes
    base: Snapshot | None
    superseded: int
    chromadb: str
    identity: str = ""


@dataclass(frozen=True, kw_only=True)
class Built:
    """A verified directory at `path`, which is removed after use unless it is kept as the base of the next one."""

    plan: Plan
    path: Path
    scratch: Path
    files: Mapping[str, SnapshotFile]

    @contextlib.contextmanager
    def directory(self) -> Iterator[None]:
        """Remove the directory at the end of the block."""
        try:
            yield
        finally:
            shutil.rmtree(self.path.parent, ignore_errors=True)

    def described(self, version: str, *, parent: str | None, created: int) -> Snapshot:
        """Return its file list as a snapshot."""
        live = self.plan.live
        return Snapshot(
            version=version,
            collection=live.collection,
            name=self.plan.name,
            graph=self.plan.graph,
            index_version=self.plan.changes.end,
            space=live.space.fingerprint,
            model=live.space.model,
            dimensions=live.space.dimensions,
            rows=self.plan.changes.rows,
            superseded=self.plan.superseded,
            chromadb=self.plan.chromadb,
            created=created,
            parent=parent,
            index_identity=self.plan.identity,
            files=self.files,
        )

    def keep(self, version: str) -> None:
        """Keep the directory as the base of the next one, in place of the last."""
        for old in self.scratch.glob(f"{HELD}*"):
            shutil.rmtree(old, ignore_errors=True)
        with contextlib.suppress(OSError):  # it only saves a download
            self.path.rename(self.scratch / f"{HELD}{version}")


async def build(context: PublishContext, plan: Plan) -> Built:
    """Build a directory, and compare what a reader finds in it with the index.

    Raises:
        Torn: the base is not complete in the store.
        Damaged: Chroma refused the base, or the result differs from the index.
    """
    scratch = context.scratch / plan.live.collection
    folder = await asyncio.to_thread(new_folder, scratch, context)
    try:
        directory = folder / "chroma"
        await asyncio.to_thread(directory.mkdir)
        if plan.base is not None:
            await _fetch(context, plan.base, directory, scratch)
        reached(SNAPSHOT_BASE, collection=plan.live.collection)
        rows = folder / "rows.arrow"
        await asyncio.to_thread(_write_rows, plan.changes, rows)
        done = await ask(
            "build",
            folder,
            size=plan.changes.rows,
            directory=str(directory),
            collection=plan.name,
            rows=str(rows),
            deleted=list(plan.changes.deleted),
            graph=dict(plan.graph),
            fresh=plan.base is None,
        )
        reached(SNAPSHOT_BUILT, collection=plan.live.collection, unsynced=done["unsynced"])
        files = await asyncio.to_thread(file_list, directory)
        opened = folder / "opened"  # opening a directory changes it, so a copy is opened
        await asyncio.to_thread(shutil.copytree, directory, opened)
        await verify(opened, plan.name, plan.changes, folder)
        await asyncio.to_thread(shutil.rmtree, opened)
        reached(SNAPSHOT_VERIFIED, collection=plan.live.collection)
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        raise
    return Built(plan=plan, path=directory, scratch=scratch, files=files)


async def _fetch(context: PublishContext, base: Snapshot, directory: Path, scratch: Path) -> None:
    """Copy the base's files from the last directory built here, and download those that are not there any more."""
    held = scratch / f"{HELD}{base.version}"
    for name, wanted in base.files.items():
        if not await asyncio.to_thread(copy_checked, held / name, directory / name, wanted):
            await download(context.store, base, name, directory / name)


def _write_rows(changes: Changes, path: Path) -> None:
    with path.open("wb") as file:
        writer = None
        for batch in changes.batches(BATCH):
            if writer is None:
                writer = pa.ipc.new_stream(file, batch.schema)
            writer.write_batch(batch)
        if writer is None:
            writer = pa.ipc.new_stream(file, pa.schema([("id", pa.string())]))
        writer.close()
