"""process_receipt_realtime: embed one receipt now, and write its delta."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.aws.existing.tables import record_runs
from flowbed.aws.fields import fields, text, whole
from flowbed.aws.invocation import Invocation, lambda_handler
from flowbed.aws.receipts import chunks_of, document_of
from flowbed.errors import Rejected, Transient
from flowbed.lanes.claims import WAITING
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.bed import Flowbed
    from flowbed.ledger import ChunkRow


@lambda_handler
async def handler(event: Any, call: Invocation) -> dict[str, Any]:
    """Embed the batch files that a receipt waits in: one request to the model then serves many receipts.

    The deltas are left to compaction, which the stream of the ledger tells of them. Called again, it gives the same
    answer.
    """
    said = fields(event)
    image, receipt = text(said, "image_id"), whole(said, "receipt_id", least=0)
    if receipt is None:
        raise Rejected("receipt_id has to be the number of a receipt, not None", param="receipt_id")
    named = {"image_id": image, "receipt_id": receipt}
    bed = await call.project()
    document = document_of(image, receipt)
    rows = await chunks_of(document, bed)
    if waiting := {row.batch for row in rows if row.status in WAITING or _claimed(row)}:
        stats = await bed.embed_batches(*waiting)
        call.lines.count(Embedded=stats.sent, Chunks=stats.chunks, Tokens=stats.tokens, Failures=stats.failed)
        rows = await chunks_of(document, bed)
        if stats.stopped and any(row.status in WAITING for row in rows):
            raise Transient(stats.stopped)
    await record_runs(bed, call, documents=[document])
    if not rows:
        return {"status": "skipped", "reason": "no_data", **named}
    if any(row.submission and not row.run for row in rows):
        return {"status": "skipped", "reason": "submitted", **named}
    _require_embedded(rows, document)
    return {"status": "success", **named, **await _described(rows, bed)}


def _claimed(row: ChunkRow) -> bool:
    """Tell whether a worker has claimed a chunk, and has not written it yet."""
    return row.status is Status.PENDING and not row.run and not row.submission


def _require_embedded(rows: Sequence[ChunkRow], document: str) -> None:
    """Raise why a receipt is not embedded.

    Raises:
        Transient: another call is at it, or a chunk may succeed later.
        Rejected: a chunk was refused, and is a dead letter.
    """
    failed = [row for row in rows if row.status is Status.FAILED]
    refused = [row for row in failed if row.failure == "rejected"]
    if refused:
        raise Rejected(
            f"{len(refused)} chunks of {document} were refused: {refused[0].id}: {refused[0].error}"
        )
    if failed:
        raise Transient(f"{len(failed)} chunks of {document} have failed: {failed[0].id}: {failed[0].error}")
    if any(row.status is Status.NONE or _claimed(row) for row in rows):
        raise Transient(f"another call embeds {document}, and is not done yet")


async def _described(rows: Sequence[ChunkRow], bed: Flowbed) -> dict[str, Any]:
    from flowbed.lanes.batch_files import read_chunk_texts

    runs = {row.collection: row.run for row in sorted(rows, key=lambda each: each.collection, reverse=True)}
    passages, _ = await read_chunk_texts(rows[:1], store=bed.store, ledger=bed.ledger)
    merchant = passages[0].metadata.get("merchant_name", "") if passages else ""
    return {
        "run_id": next(iter(dict(sorted(runs.items())).values())),
        "runs": runs,
        "lines_count": sum(row.collection.endswith("lines") for row in rows),
        "words_count": sum(row.collection.endswith("words") for row in rows),
        "merchant_name": merchant,
    }
