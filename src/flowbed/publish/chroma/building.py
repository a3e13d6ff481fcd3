"""Builds Chroma directories on this machine: from a checked copy of the last one and what changed, or from all rows."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from flowbed.publish.chroma import Snapshot
from flowbed.publish.chroma.children import started
from flowbed.publish.chroma.files import download, file_list
from flowbed.publish.chroma.verification import expected, verify
from flowbed.publish.folders import new_folder
from flowbed.telemetry import SNAPSHOT_BASE, SNAPSHOT_BUILT, SNAPSHOT_VERIFIED, reached

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from flowbed.index.active_space import Live
    from flowbed.index.versions.changes import Changes
    from flowbed.publish import PublishContext
    from flowbed.publish.chroma import SnapshotFile
    from flowbed.publish.chroma.children import Child
    from flowbed.publish.chroma.verification import Expected

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
        async with started("build", folder) as builder:
            await _fetch(context, plan.base, directory, scratch)
            reached(SNAPSHOT_BASE, collection=plan.live.collection)
            rows = folder / "rows.arrow"
            await asyncio.to_thread(_write_rows, plan.changes, rows)
            async with started("verify", folder) as verifier:
                wanted = await _built(plan, builder, directory, rows)
                files = await _verified(plan, verifier, directory, folder, wanted)
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        raise
    return Built(plan=plan, path=directory, scratch=scratch, files=files)


async def _built(plan: Plan, builder: Child, directory: Path, rows: Path) -> Expected:
    """Let Chroma write the rows, and find out meanwhile what a reader has to find."""
    expecting = asyncio.ensure_future(asyncio.to_thread(expected, plan.changes))
    try:
        done = await builder.ask(
            size=plan.changes.rows,
            directory=str(directory),
            collection=plan.name,
            rows=str(rows),
            deleted=list(plan.changes.deleted),
            graph=dict(plan.graph),
            fresh=plan.base is None,
        )
        reached(SNAPSHOT_BUILT, collection=plan.live.collection, unsynced=done["unsynced"])
        return await expecting
    finally:
        await asyncio.gather(expecting, return_exceptions=True)


async def _verified(
    plan: Plan, verifier: Child, directory: Path, folder: Path, wanted: Expected
) -> Mapping[str, SnapshotFile]:
    """Compare a directory with the index, and return its files, which are hashed meanwhile."""
    opened = folder / "opened"  # opening a directory changes it, so a copy is opened
    hashing = asyncio.ensure_future(asyncio.to_thread(file_list, directory))
    try:
        await asyncio.to_thread(shutil.copytree, directory, opened)
        await verify(opened, directory, plan.name, plan.changes, wanted, verifier, folder)
        await asyncio.to_thread(shutil.rmtree, opened)
        files = await hashing
    finally:
        await asyncio.gather(hashing, return_exceptions=True)
    reached(SNAPSHOT_VERIFIED, collection=plan.live.collection)
    return files


async def _fetch(context: PublishContext, base: Snapshot | None, directory: Path, scratch: Path) -> None:
    """Take the last directory that was built here, and download the files of the base that it lacks."""
    if base is None:
        await asyncio.to_thread(directory.mkdir)
        return
    there = await asyncio.to_thread(_taken, scratch / f"{HELD}{base.version}", directory, base)
    for name in base.files:
        if name not in there:
            await download(context.store, base, name, directory / name)


def _taken(held: Path, directory: Path, base: Snapshot) -> Collection[str]:
    """Move what is held to `directory`, and return which files of the base it has: every byte is compared."""
    try:
        held.rename(directory)
    except OSError:  # nothing is held, or another process has taken it
        directory.mkdir()
        return ()
    there = {name for name, file in file_list(directory).items() if base.files.get(name) == file}
    for path in directory.rglob("*"):
        if path.is_file() and path.relative_to(directory).as_posix() not in there:
            path.unlink()
    return there


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
