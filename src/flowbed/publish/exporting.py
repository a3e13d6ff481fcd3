"""Exports a selection of rows into a file or a folder on this machine: whole and checked, or absent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import orjson
import pyarrow as pa

from flowbed.errors import Misconfigured, OutOfSpace, Rejected, Transient
from flowbed.index.search.row_cache import vectors_in
from flowbed.publish.parquet import write_file
from flowbed.records.values import count
from flowbed.storage.atomic import FULL
from flowbed.telemetry import PROGRESS, STAGE, reached

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbed.index.active_space import Live
    from flowbed.index.versions.changes import Changes
    from flowbed.publish import PublishContext

Kind = Literal["chroma", "parquet", "jsonl"]
KINDS: tuple[str, ...] = get_args(Kind)
EXISTS = "{path} exists: remove it, or name another path"
ROWS = 5_000  # of one piece: 8 MB of vectors at 384 dimensions


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was exported, and where it is; `version` is that of the index, `bytes` the size of all files."""

    collection: str
    kind: str
    path: str
    version: int
    rows: int
    bytes: int


async def export(
    live: Live, found: Changes, kind: Kind, path: Path, *, vectors: bool, context: PublishContext
) -> Exported:
    """Write a selection of rows to `path`, which must not exist.

    Raises:
        Rejected: the path exists, or vectors cannot be left out of this kind.
        Misconfigured: the path cannot be written, or chromadb is not installed.
        OutOfSpace: the disk is full.
    """
    if not vectors and kind != "jsonl":
        raise Rejected(f"{kind} always has the vectors: only jsonl can leave them out")
    if await asyncio.to_thread(os.path.lexists, path):
        raise Rejected(EXISTS.format(path=path))
    reached(STAGE, stage="export", source=live.collection, total=found.rows)
    with _translated(path):
        folder = Path(await asyncio.to_thread(_new_folder, path))
        try:
            made = folder / "rows"
            if kind == "chroma":
                await _export_chroma(live, found, made, context)
            elif kind == "parquet":
                await asyncio.to_thread(write_file, found, made)
            else:
                await asyncio.to_thread(_write_lines, found, made, vectors=vectors)
            size = await asyncio.to_thread(_put_in_place, made, path)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return Exported(
        collection=live.collection, kind=kind, path=str(path), version=found.end, rows=found.rows, bytes=size
    )


async def _export_chroma(live: Live, found: Changes, made: Path, context: PublishContext) -> None:
    """Build a Chroma directory as a publication does, and compare it with the rows."""
    from flowbed.publish.chroma.building import Plan, build
    from flowbed.publish.chroma.publication import GRAPH, checked_name, installed_version

    plan = Plan(
        live=live,
        name=checked_name(live.collection, context.name),
        graph=GRAPH,
        changes=found,
        base=None,
        superseded=0,
        chromadb=installed_version(context.name),
    )
    built = await build(context, plan)
    with built.directory():
        await asyncio.to_thread(shutil.copytree, built.path, made)


def _write_lines(found: Changes, path: Path, *, vectors: bool) -> None:
    """Write one row a line, and count the lines of the file."""
    with path.open("wb") as file:
        for batch in found.batches(ROWS):
            file.writelines(_lines(batch, vectors=vectors))
            reached(PROGRESS, stage="export", done=batch.num_rows)
    with path.open("rb") as file:
        lines = sum(1 for line in file if line.endswith(b"\n"))
    if lines != found.rows:
        raise Transient(f"{path} has {count(lines, 'row')}, and the index {found.rows:,}: export again")


def _lines(batch: pa.RecordBatch, *, vectors: bool) -> Iterator[bytes]:
    stored = batch["metadata"]
    metadata = (stored.storage if isinstance(stored, pa.ExtensionArray) else stored).to_pylist()
    numbers = vectors_in(batch) if vectors else None
    for place, (name, text, said) in enumerate(
        zip(batch["id"].to_pylist(), batch["document"].to_pylist(), metadata, strict=True)
    ):
        row = {"id": name, "text": text, "metadata": orjson.Fragment(said or "{}")}
        if numbers is not None:
            row["vector"] = numbers[place]
        yield orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _new_folder(path: Path) -> str:
    """Create a folder beside the path, so that a rename within one file system ends the export."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)


def _put_in_place(made: Path, path: Path) -> int:
    """Bring files to the disk and rename them to `path`; return their size."""
    files = [made] if made.is_file() else [each for each in sorted(made.rglob("*")) if each.is_file()]
    for file in files:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
    size = sum(file.stat().st_size for file in files)
    if made.is_file():
        try:
            os.link(made, path)  # unlike a rename, it replaces nothing that was written meanwhile
        except FileExistsError as error:
            raise Rejected(EXISTS.format(path=path)) from error
        except OSError:  # a file system without links
            made.rename(path)
    else:
        made.rename(path)
    return size


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OutOfSpace(f"no room for {path}: free disk space and export again") from error
        raise Misconfigured(f"{path} cannot be written: {error.strerror or error}") from error
