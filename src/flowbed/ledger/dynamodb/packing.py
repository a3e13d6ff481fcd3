"""Lists of names in few items: of the chunks of a batch, a document, a run or a submission; and logs."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Bytes of JSON in one item: even what cannot be compressed fits into the 400 KB of an item.
PIECE_BYTES = 300 * 2**10

Name = tuple[str, str]
"""A collection, or a batch, and the id of a chunk."""


def pack(value: Any) -> bytes:
    """Compress JSON; names that have long beginnings in common take some ten bytes each."""
    return zlib.compress(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def unpack(packed: bytes) -> Any:
    """Return what was packed."""
    return json.loads(zlib.decompress(packed))


def pieces_of(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Split rows of JSON into pieces that fit into an item each."""
    piece: list[Any] = []
    size = 0
    for row in rows:
        bytes_ = len(json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode()) + 1
        if piece and size + bytes_ > PIECE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(row)
        size += bytes_
    if piece:
        yield piece


def packed_names(names: Iterable[Name]) -> Iterator[bytes]:
    """Pack names, sorted and each once, into pieces that fit into an item each."""
    for piece in pieces_of(sorted(set(names))):
        grouped: dict[str, list[str]] = {}
        for first, second in piece:
            grouped.setdefault(first, []).append(second)
        yield pack(grouped)


def names_in(packed: bytes) -> list[Name]:
    """Return the names in a piece."""
    return [(first, second) for first, some in unpack(packed).items() for second in some]
