"""By what the ledger in memory indexes chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.ledger.items.rows import NO_BATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.ledger.items.table import Item


def chunks_by_status(item: Item) -> tuple[str, str] | None:
    """Chunks by status."""
    return (str(item["status"]), "") if item["record"] == "ChunkRow" else None


def chunks_by_batch(item: Item) -> tuple[str, str] | None:
    """Chunks by batch file."""
    return (item["batch"] or NO_BATCH, "") if item["record"] == "ChunkRow" else None


def chunks_by_worker(item: Item) -> tuple[str, str] | None:
    """Chunks by the worker that has claimed them."""
    held = item["record"] == "ChunkRow" and item["worker"] and not item["run"]
    return (item["worker"], "") if held else None


def chunks_by_id(item: Item) -> tuple[str, str] | None:
    """Chunks of a collection, in order of id."""
    return (item["collection"], item["id"]) if item["record"] == "ChunkRow" else None


CHUNK_INDEXES: Mapping[str, Callable[[Item], tuple[str, str] | None]] = {
    each.__name__: each for each in (chunks_by_status, chunks_by_batch, chunks_by_worker, chunks_by_id)
}
