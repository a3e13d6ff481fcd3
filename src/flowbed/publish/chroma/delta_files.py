"""A run's delta in Chroma's form too, for a compactor that is not Flowbed's: packed, or as loose files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowbed.errors import Conflict
from flowbed.publish.chroma.children import Damaged, ask
from flowbed.publish.chroma.files import upload
from flowbed.telemetry import CHROMA_DELTA_WRITTEN, reached

if TYPE_CHECKING:
    from flowbed.storage import Store

ARCHIVE, DATABASE = "delta.tar.gz", "chroma.sqlite3"
# Chroma cannot express that a row was deleted, so a delta with deletions has their ids in this file.
DELETED = "deleted.json"
BATCH = 5_000  # rows of one call, as Chroma takes them
SAMPLE = 16  # rows that are looked up before the upload


@dataclass(frozen=True, kw_only=True)
class ChromaDeltas:
    """Writes deltas as Chroma directories beside their own form: `packed` as one archive, or as loose files.

    `scratch` is a local folder in which each directory is built.
    """

    store: Store
    scratch: Path
    packed: bool

    async def write(self, collection: str, run: str, rows: pa.Table) -> None:
        """Write the rows of a run, of the index's schema; a run that is written already is left as it is.

        The directory is closed, checked by opening a copy of it, and synced before any of it is uploaded.

        Raises:
            Damaged: Chroma refused the rows, or does not find them again.
            Misconfigured: chromadb is not installed.
        """
        prefix = f"{collection}/delta/{run}"
        # The last file to be written: with it, all are there.
        last = f"{prefix}/{ARCHIVE if self.packed else DATABASE}"
        if [each.key async for each in self.store.list(prefix) if each.key == last]:
            return
        await asyncio.to_thread(self.scratch.mkdir, parents=True, exist_ok=True)
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="delta-", dir=self.scratch))
        try:
            directory = await _build(collection, rows, folder)
            if self.packed:
                archive = folder / ARCHIVE
                await asyncio.to_thread(_pack, directory, archive)
                # Two processes may write the same run: either archive is whole.
                await upload(self.store, last, archive)
            else:
                await self._upload(directory, prefix)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        reached(CHROMA_DELTA_WRITTEN, run=run)

    async def _upload(self, directory: Path, prefix: str) -> None:
        files = await asyncio.to_thread(lambda: [each for each in directory.rglob("*") if each.is_file()])
        for file in sorted(files, key=lambda each: (each.name == DATABASE, each)):
            key = f"{prefix}/{file.relative_to(directory).as_posix()}"
            if file.name == DATABASE:
                # One process's database stays: its segments were uploaded before. Its rows are in memory anyway.
                with contextlib.suppress(Conflict):
                    await self.store.create(key, await asyncio.to_thread(file.read_bytes))
            else:
                await upload(self.store, key, file)


async def _build(collection: str, rows: pa.Table, folder: Path) -> Path:
    """Build, close, check and sync a Chroma directory of the rows that are not deleted."""
    directory, opened = folder / "chroma", folder / "opened"
    alive = rows.filter(pc.invert(rows["deleted"]))
    gone = rows.filter(rows["deleted"])["id"].to_pylist()
    await asyncio.to_thread(directory.mkdir)
    stream, vectors = folder / "rows.arrow", folder / "vectors.npy"
    sample = alive.slice(0, SAMPLE)
    await asyncio.to_thread(_write_rows, alive, stream)
    await asyncio.to_thread(np.save, vectors, _matrix(sample))
    await ask(
        "build",
        folder,
        size=len(alive),
        directory=str(directory),
        collection=collection,
        rows=str(stream),
        deleted=[],
        graph={},
        fresh=True,
    )
    await asyncio.to_thread(shutil.copytree, directory, opened)  # opening a directory changes it
    found = await ask(
        "verify",
        folder,
        size=len(alive),
        directory=str(opened),
        collection=collection,
        ids=sample["id"].to_pylist(),
        vectors=str(vectors),
        neighbours=1,
    )
    if found["fault"] or found["rows"] != len(alive) or set(found["ids"]) != set(sample["id"].to_pylist()):
        what = found["fault"] or f"it has {found['rows']:,} of {len(alive):,} rows"
        raise Damaged(f"the delta of {collection} in Chroma's form is not whole: {what}")
    await asyncio.to_thread(_complete, directory, gone)
    return directory


def _matrix(rows: pa.Table) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    width = rows.schema.field("vector").type.list_size
    return rows["vector"].combine_chunks().flatten().to_numpy().reshape(-1, width)  # type: ignore[no-any-return]


def _write_rows(rows: pa.Table, path: Path) -> None:
    with path.open("wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=BATCH)


def _complete(directory: Path, deleted: list[str]) -> None:
    """Add the ids that were deleted, and sync every file: what is uploaded must not change any more."""
    if deleted:
        (directory / DELETED).write_text(json.dumps({"ids": deleted}), "utf-8")
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _pack(directory: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz", compresslevel=6) as members:
        for file in sorted(directory.rglob("*")):
            if file.is_file():
                members.add(file, arcname=file.relative_to(directory).as_posix())
