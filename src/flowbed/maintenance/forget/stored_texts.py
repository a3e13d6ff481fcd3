"""Objects of the store that hold texts or names of chunks: read to find what to forget, rewritten without it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from flowbed.errors import NotFound, Rejected
from flowbed.lanes.batch_files import COMPRESSED, parse_batch
from flowbed.lanes.precomputed_batches import decode_rows, encode_rows
from flowbed.records import canonical, text_hash
from flowbed.records.precomputed import is_precomputed, precomputed_collection
from flowbed.storage.compression import compress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping

    from flowbed.storage import Store

# Objects read at once: batch files and deltas hold some megabytes each.
AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A chunk in a batch file or delta; `sent` is what was embedded, where the text is known."""

    collection: str
    id: str
    text: str
    sent: str

    @property
    def text_hash(self) -> str:
        """Return the hash of what was embedded, "" without a text."""
        return text_hash(self.sent) if self.sent else ""


async def batch_files(store: Store) -> AsyncIterator[str]:
    """Iterate over the keys of all batch files that sources were fetched into."""
    for source in await store.folders(""):
        async for listed in store.list(f"{source}/chunked"):
            yield listed.key


async def deltas(store: Store, collections: Collection[str]) -> AsyncIterator[str]:
    """Iterate over the keys of all deltas of some collections."""
    for collection in collections:
        async for listed in store.list(f"{collection}/delta"):
            if listed.key.endswith("/delta.arrow"):
                yield listed.key


async def bodies(store: Store, keys: AsyncIterator[str]) -> AsyncIterator[tuple[str, bytes]]:
    """Read objects, some at a time; those that are gone are left out."""
    some: list[str] = []
    async for key in keys:
        some.append(key)
        if len(some) == AT_ONCE:
            for found in await _read(store, some):
                yield found
            some = []
    for found in await _read(store, some):
        yield found


async def _read(store: Store, keys: Collection[str]) -> list[tuple[str, bytes]]:
    async def read(key: str) -> tuple[str, bytes] | None:
        try:
            return key, (await store.get(key)).body
        except NotFound:
            return None

    return [each for each in await asyncio.gather(*map(read, keys)) if each is not None]


def passages_of(key: str, body: bytes) -> list[Passage]:
    """Parse the passages of a batch file or a delta.

    Raises:
        Rejected: it cannot be read.
    """
    if key.endswith(".arrow"):
        return _rows_of(key, body)
    _, chunks = _parsed(key, body)
    return [_passage(each) for each in chunks if isinstance(each, dict)]


def without(key: str, body: bytes, is_wanted: Callable[[Passage], bool]) -> tuple[bytes | None, int]:
    """Return a batch file with only the wanted passages, None if there are none, and how many were left out.

    Raises:
        Rejected: it cannot be read.
    """
    if key.endswith(".arrow"):
        wanted = [is_wanted(each) for each in _rows_of(key, body)]
        if all(wanted) or not any(wanted):
            return (body, 0) if all(wanted) else (None, len(wanted))
        table, space = decode_rows(body)
        stamp = _stamp(body)
        rest = table.filter(pa.array(wanted))
        batch, source = stamp[b"batch_id"].decode(), stamp[b"source"].decode()
        return encode_rows(rest.combine_chunks(), batch, source, space), wanted.count(False)
    said, chunks = _parsed(key, body)
    unwanted = [isinstance(each, dict) and not is_wanted(_passage(each)) for each in chunks]
    gone = sum(unwanted)
    if gone in (0, len(chunks)):
        return (body, 0) if not gone else (None, gone)
    # Chunks of other programs have no id: they are known by their places.
    kept = [
        None if forgotten else each
        for each, forgotten in zip(chunks, unwanted, strict=True)
        if not (forgotten and "id" in each)
    ]
    if isinstance(said, dict):
        said = {**said, "chunks": kept} | ({"chunk_count": len(kept)} if "chunk_count" in said else {})
    else:
        said = kept
    rest = canonical(said)
    return compress(rest) if key.endswith(COMPRESSED) else rest, gone


def _parsed(key: str, body: bytes) -> tuple[Any, list[Any]]:
    """Return a batch file and its chunks; those of other programs may be a list of chunks and nothing else."""
    try:
        said = parse_batch(body)
        return said, list(said if isinstance(said, list) else said["chunks"])
    except (Rejected, ValueError, KeyError, TypeError) as error:
        raise Rejected(f"{key} is no batch file: {error}") from error


def _passage(chunk: Mapping[str, Any]) -> Passage:
    text = str(chunk.get("text", ""))
    return Passage(
        collection=str(chunk.get("collection", "")),
        id=str(chunk.get("id", "")),
        text=text,
        sent=str(chunk.get("sent", text)),
    )


def _rows_of(key: str, body: bytes) -> list[Passage]:
    """Read the rows of an Arrow file; what was sent for one is known if it is its text."""
    first = key.partition("/")[0]
    collection = precomputed_collection(first) if is_precomputed(first) else first
    try:
        with pa.ipc.open_file(pa.BufferReader(body)) as reader:
            table = reader.read_all().select(["id", "document"])
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise Rejected(f"{key} is no Arrow file of rows: {error}") from error
    documents = pc.fill_null(table["document"], "").to_pylist()
    return [
        Passage(collection=collection, id=each, text=text, sent=text)
        for each, text in zip(table["id"].to_pylist(), documents, strict=True)
    ]


def hashes_of(body: bytes) -> list[tuple[str, str]]:
    """Return (id, text_hash) of each row of a delta."""
    with pa.ipc.open_file(pa.BufferReader(body)) as reader:
        table = reader.read_all().select(["id", "text_hash"])
    hashes = pc.fill_null(table["text_hash"], "").to_pylist()
    return list(zip(table["id"].to_pylist(), hashes, strict=True))


def _stamp(body: bytes) -> Mapping[bytes, bytes]:
    with pa.ipc.open_file(pa.BufferReader(body)) as reader:
        stamp: Mapping[bytes, bytes] = reader.schema.metadata
    return stamp
