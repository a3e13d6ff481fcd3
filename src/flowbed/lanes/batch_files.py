"""Batch files: stored sets of chunks that wait to be embedded, and the only place that holds their texts."""

from __future__ import annotations

import asyncio
import codecs
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from flowbed.errors import NotFound, Rejected
from flowbed.records import canonical, text_hash
from flowbed.records.precomputed import is_precomputed, precomputed_collection
from flowbed.storage.compression import compress, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.ledger import BatchRow, ChunkRow, Ledger
    from flowbed.records import Chunk
    from flowbed.storage import Store


class ChunkText(NamedTuple):
    """A waiting chunk, with its texts from the batch file."""

    row: ChunkRow
    text: str
    sent: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class LostText:
    """A waiting chunk, and why its text cannot be read."""

    row: ChunkRow
    reason: str


COMPRESSED = ".zst"


def batch_key(source: str, batch: str, *, at: int, compressed: bool = False) -> str:
    """Return the key of a batch file registered at `at` (µs since 1970); precomputed rows are in an Arrow file."""
    day = datetime.fromtimestamp(at / 1e6, UTC)
    kind = "arrow" if is_precomputed(source) else f"json{COMPRESSED if compressed else ''}"
    return f"{source}/chunked/year={day:%Y}/month={day:%m}/day={day:%d}/batch_{batch}.{kind}"


def encode_batch(row: BatchRow, texts: Sequence[Chunk], versions: Sequence[int]) -> bytes:
    """Encode a batch file, compressed if its key says so; `sent` is there only where more than the text is embedded."""
    chunks = []
    for each, version in zip(texts, versions, strict=True):
        item: dict[str, Any] = {
            "id": each.id,
            "collection": each.collection,
            "text": each.text,
            "metadata": dict(each.metadata),
            "version": version,
        }
        if each.sent != each.text:
            item["sent"] = each.sent
        chunks.append(item)
    body = canonical(
        {
            "batch_id": row.id,
            "timestamp": datetime.fromtimestamp(row.timestamp / 1e6, UTC).isoformat(),
            "source": row.source,
            "chunk_count": len(chunks),
            "chunks": chunks,
        }
    )
    return compress(body) if row.key.endswith(COMPRESSED) else body


def parse_batch(body: bytes) -> Any:  # any JSON value
    """Parse a batch file, compressed or not.

    Raises:
        Rejected: it is compressed, and damaged.
        ValueError: it is not JSON.
    """
    return orjson.loads(plain(body).removeprefix(codecs.BOM_UTF8))


_NO_CHUNK: Mapping[str, Any] = {"text": ""}
NO_BATCHES: Mapping[str, BatchRow] = MappingProxyType({})
# Batch files read concurrently: from object storage each takes tens of milliseconds, mostly waiting. They hold a
# megabyte or two each.
AT_ONCE = 4


async def read_chunk_texts(
    rows: Sequence[ChunkRow],
    *,
    store: Store,
    ledger: Ledger,
    registered: Mapping[str, BatchRow] = NO_BATCHES,
) -> tuple[list[ChunkText], list[LostText]]:
    """Read the texts of chunk rows; return also those whose text is lost, with reasons.

    `registered` are rows of batches that were read or written before, by id.
    """
    passages: list[ChunkText] = []
    lost: list[LostText] = []
    unknown = {row.batch for row in rows} - registered.keys()
    known = {**registered, **(await ledger.batches.get(unknown) if unknown else {})}
    by_batch: dict[str, list[ChunkRow]] = {}
    for row in rows:
        by_batch.setdefault(row.batch, []).append(row)
    order = sorted(by_batch)
    for start in range(0, len(order), AT_ONCE):
        batches = order[start : start + AT_ONCE]
        read = await asyncio.gather(*(_chunks(each, known.get(each), store) for each in batches))
        for batch, chunks in zip(batches, read, strict=True):
            if isinstance(chunks, Rejected):
                lost += [LostText(row=row, reason=str(chunks)) for row in by_batch[batch]]
                continue
            for row in by_batch[batch]:
                each = chunks.get((row.collection, row.id), _NO_CHUNK)
                text = each["text"]
                sent = each.get("sent", text)
                # A precomputed row without text has no hash.
                there = each is not _NO_CHUNK and not sent and not row.text_hash
                if there or text_hash(sent) == row.text_hash:
                    passages.append(ChunkText(row, text, sent, each["metadata"]))
                else:
                    reason = f"its batch file {known[batch].key} does not hold its text"
                    lost.append(LostText(row=row, reason=reason))
    return passages, lost


async def _chunks(
    batch: str, row: BatchRow | None, store: Store
) -> dict[tuple[str, str], dict[str, Any]] | Rejected:
    """Read the chunks of a batch file by collection and id, or return why they cannot be read."""
    if row is None:
        return Rejected(f"its batch file {batch[:12]} is not known to this ledger")
    try:
        body = (await store.get(row.key)).body
        if is_precomputed(row.source):
            return await asyncio.to_thread(_precomputed, row, body)
        said = await asyncio.to_thread(parse_batch, body)
        return {(each["collection"], each["id"]): each for each in said["chunks"] if _is_whole(each)}
    except NotFound:
        return Rejected(f"its batch file {row.key} is missing")
    except Rejected as error:
        return Rejected(f"its batch file {row.key} cannot be read: {error}")
    except (ValueError, KeyError, TypeError) as error:
        return Rejected(f"its batch file {row.key} is damaged: {error}")


def _precomputed(row: BatchRow, body: bytes) -> dict[tuple[str, str], dict[str, Any]] | Rejected:
    from flowbed.lanes.precomputed_batches import texts_of  # loads pyarrow

    try:
        found = texts_of(body)
    except Rejected as error:
        return Rejected(f"its batch file {row.key} is damaged: {error}")
    collection = precomputed_collection(row.source)
    return {(collection, key): {"text": text, "metadata": values} for key, (text, values) in found.items()}


def _is_whole(chunk: Any) -> bool:  # any JSON value
    """Tell whether a chunk of a batch file is one, so that a damaged one is lost alone."""
    if not isinstance(chunk, dict) or not isinstance(chunk.get("metadata"), dict):
        return False
    texts = (chunk.get("collection"), chunk.get("id"), chunk.get("text"), chunk.get("sent", ""))
    values = chunk["metadata"].values()
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(value, str | int | float) for value in values
    )
