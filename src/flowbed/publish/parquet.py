"""Publishes versions as Parquet files: one file without partitions, and an object that names the current one."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import Conflict, Misconfigured, NotFound, Transient
from flowbed.index.versions import identity, state, was_built_again
from flowbed.index.versions.changes import changes
from flowbed.publish import Published, checked_options
from flowbed.publish.folders import new_folder
from flowbed.records import canonical
from flowbed.telemetry import PARQUET_UPLOADED, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from flowbed.index.active_space import Live
    from flowbed.index.versions.changes import Changes
    from flowbed.publish import PublishContext
    from flowbed.storage import Store

FOLDER, CURRENT = "parquet", "current.json"
ROWS = 10_000  # of a row group: 16 MB of vectors at 384 dimensions
PIECE = 1 << 20
# Files that were replaced are left to their readers for this long.
KEPT = timedelta(days=1)
ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class ParquetFile:
    """The current file of a collection; `key` is below the store's root, `sha256` that of its bytes.

    `index_identity` names the write that made the version of the index which it holds.
    """

    key: str
    index_version: int
    space: str
    rows: int
    size: int
    sha256: str
    index_identity: str = ""


def current_key(collection: str) -> str:
    """Return the key of the object that names the current file."""
    return f"{collection}/{FOLDER}/{CURRENT}"


async def current_file(store: Store, collection: str) -> tuple[ParquetFile, str] | None:
    """Read which file is the current one, and the etag of that; None if nothing was published.

    Raises:
        Misconfigured: the object that names it is damaged.
    """
    key = current_key(collection)
    try:
        stored = await store.get(key)
    except NotFound:
        return None
    try:
        return ParquetFile(**orjson.loads(stored.body)), stored.etag
    except (ValueError, TypeError) as error:
        raise Misconfigured(
            f"{key} is damaged ({error}): delete it, and `flowbed publish {collection}` writes it again"
        ) from error


def open_parquet(context: PublishContext, options: Mapping[str, str]) -> ParquetFiles:
    """Open the publication of Parquet files in the project's store.

    Raises:
        Misconfigured: an option is unknown.
    """
    checked_options(context, options, ())
    return ParquetFiles(context)


class ParquetFiles:
    """Collections as Parquet files with the columns id, document, metadata (JSON text) and vector."""

    def __init__(self, context: PublishContext) -> None:
        """Publish into the store of `context`."""
        self._context = context

    async def publish(self, live: Live, version: int) -> Published:
        """Publish a version of the index, all of it: a Parquet file cannot be changed.

        Raises:
            Conflict: other publishers kept replacing the current file.
        """
        return await self._publish(live, version, rebuild="")

    async def reconcile(self, live: Live, version: int) -> Published:
        """Check the bytes of the current file, and publish another one if they are wrong."""
        found = await current_file(self._context.store, live.collection)
        fault = "" if found is None else await self._fault(found[0])
        return await self._publish(live, version, rebuild=fault)

    async def renew(self, live: Live, version: int, *, reason: str) -> Published:
        """Publish another file, and delete all others at once, also those that readers may be reading."""
        done = await self._publish(live, version, rebuild=reason)
        kept = {done.place, current_key(live.collection)}
        store = self._context.store
        others = [
            each.key async for each in store.list(f"{live.collection}/{FOLDER}") if each.key not in kept
        ]
        await store.delete(others)
        return done

    async def aclose(self) -> None:
        """Close nothing: there are no connections."""

    async def _publish(self, live: Live, version: int, *, rebuild: str) -> Published:
        context = self._context
        for _ in range(ATTEMPTS):
            before = await current_file(context.store, live.collection)
            newest = (await state(live, datasets=context.datasets)).version
            if before is not None and await self._is_newer(before[0], live, version, newest):
                if not rebuild:
                    return self._published(live, before[0], already=True)
                version = newest  # what is written again must not be older than what readers have seen
            found = await changes(live, None, version, datasets=context.datasets)
            file = await self._write(live, found)
            try:
                await self._name(live, file, before[1] if before else None)
            except Conflict:
                continue
            await self._tidy(live, file, before[0] if before else None)
            why = rebuild or "a Parquet file cannot be changed"
            return self._published(live, file, rebuilt=why, upserts=file.rows, uploaded=file.size)
        raise Conflict(f"others kept publishing {live.collection} at the same time; run again")

    async def _is_newer(self, file: ParquetFile, live: Live, version: int, newest: int) -> bool:
        # With a higher number than the index has, it is from an index that was dropped and filled again.
        if file.space != live.space.fingerprint or not version <= file.index_version <= newest:
            return False
        datasets = self._context.datasets
        return not await was_built_again(live, file.index_version, file.index_identity, datasets=datasets)

    def _published(
        self,
        live: Live,
        file: ParquetFile,
        *,
        rebuilt: str = "",
        upserts: int = 0,
        uploaded: int = 0,
        already: bool = False,
    ) -> Published:
        return Published(
            publication=self._context.name,
            collection=live.collection,
            place=file.key,
            version=file.index_version,
            rows=file.rows,
            upserts=upserts,
            rebuilt=rebuilt,
            uploaded=uploaded,
            already=already,
        )

    async def _write(self, live: Live, found: Changes) -> ParquetFile:
        """Write the file on this machine, read its footer back, and upload it under the hash of its bytes."""
        folder = await asyncio.to_thread(new_folder, self._context.scratch / live.collection, self._context)
        try:
            path = folder / "rows.parquet"
            size, digest = await asyncio.to_thread(write_file, found, path)
            key = f"{live.collection}/{FOLDER}/{found.end:010d}-{digest[:16]}.parquet"
            await self._context.store.put(key, _pieces(path))
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        reached(PARQUET_UPLOADED, collection=live.collection, key=key)
        return ParquetFile(
            key=key,
            index_version=found.end,
            space=live.space.fingerprint,
            rows=found.rows,
            size=size,
            sha256=digest,
            index_identity=await identity(live, found.end, datasets=self._context.datasets),
        )

    async def _name(self, live: Live, file: ParquetFile, etag: str | None) -> None:
        """Make a file the current one; find out whether that happened if the answer is lost.

        Raises:
            Conflict: another publisher did so first.
        """
        store, key, body = self._context.store, current_key(live.collection), canonical(asdict(file))
        try:
            if etag is None:
                await store.create(key, body)
            else:
                await store.replace(key, body, etag=etag)
        except (Conflict, Transient):
            now = await current_file(store, live.collection)
            if now is None or now[0] != file:
                raise

    async def _tidy(self, live: Live, *kept: ParquetFile | None) -> None:
        """Delete files that were replaced long ago."""
        names = {each.key for each in kept if each is not None} | {current_key(live.collection)}
        before = self._context.clock() - KEPT // timedelta(microseconds=1)
        old = [
            listed.key
            async for listed in self._context.store.list(f"{live.collection}/{FOLDER}")
            if listed.key not in names and listed.modified < before
        ]
        if old:
            await self._context.store.delete(old)

    async def _fault(self, file: ParquetFile) -> str:
        digest = hashlib.sha256()
        try:
            async for piece in self._context.store.stream(file.key):
                await asyncio.to_thread(digest.update, piece)
        except NotFound:
            return f"{file.key} is gone"
        return "" if digest.hexdigest() == file.sha256 else f"{file.key} is damaged"


def write_file(found: Changes, path: Path) -> tuple[int, str]:
    """Write all rows to a file; return its size and the sha256 of its bytes; blocks.

    Raises:
        Transient: the file has not the rows of the index.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            ("document", pa.string()),
            ("metadata", pa.string()),
            ("vector", pa.list_(pa.float32())),
        ]
    )
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in found.batches(ROWS):
            texts = batch["metadata"]
            metadata = texts.storage if isinstance(texts, pa.ExtensionArray) else texts
            columns = [
                batch["id"],
                batch["document"],
                metadata,
                batch["vector"].cast(schema.field("vector").type),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    if parquet.read_metadata(path).num_rows != found.rows:
        raise Transient(f"{path} has not the rows of the index: run again")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return path.stat().st_size, digest.hexdigest()


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece
