"""The ledger's rows of precomputed rows: each is a document of one chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.ledger import ChunkRow, DocumentRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.lanes.precomputed_batches import CheckedRows

# Characters per token, roughly: what embedding the text would cost is only estimated, since it is not embedded.
CHARACTERS_PER_TOKEN = 4


def document_rows(rows: CheckedRows, versions: Sequence[int], source: str) -> list[DocumentRow]:
    """Make the document of each row: its etag is a digest of everything in the row."""
    return [
        DocumentRow(source=source, id=key, etag=digest, hash=digest, chunks=1, generation=version)
        for key, digest, version in zip(rows.ids, rows.digests, versions, strict=True)
    ]


def chunk_rows(
    rows: CheckedRows,
    versions: Sequence[int],
    batch: str,
    collection: str,
    source: str,
    claimed: Mapping[str, object],
) -> list[ChunkRow]:
    """Make the chunk of each row, `claimed` already by its writer."""
    columns = zip(rows.ids, rows.texts, rows.text_hashes, rows.row_hashes, versions, strict=True)
    return [
        ChunkRow(
            collection=collection,
            id=key,
            source=source,
            document=key,
            ordinal=0,
            tokens=len(text) // CHARACTERS_PER_TOKEN + 1 if text else 0,
            text_hash=text_hash,
            row_hash=row_hash,
            version=version,
            batch=batch,
            **claimed,  # type: ignore[arg-type]  # status, worker and until
        )
        for key, text, text_hash, row_hash, version in columns
    ]


def deletion_rows(
    deletes: Sequence[tuple[str, int]], collection: str, source: str, claimed: Mapping[str, object]
) -> list[ChunkRow]:
    """Make the chunks of rows (id, version) to delete, `claimed` already by their writer."""
    return [
        ChunkRow(
            collection=collection,
            id=key,
            source=source,
            document=key,
            ordinal=0,
            tokens=0,
            text_hash="",
            row_hash="",
            version=version,
            batch="",
            deleted=True,
            **claimed,  # type: ignore[arg-type]  # status, worker and until
        )
        for key, version in deletes
    ]
