"""Records of submissions (BATCH_SUMMARY) in an existing table of receipts, for programs that follow its batches."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flowbed.aws.existing.tables import RECORDS, written_tables
from flowbed.aws.receipts import DOCUMENT
from flowbed.ledger.items.table import ConditionFailed, Unanswered
from flowbed.sources.receipts.table import open_table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from flowbed.bed import Flowbed
    from flowbed.ledger import SubmissionRow
    from flowbed.sources.receipts.table import TableReceipts

# What each kind of batch carries, by the end of its collection's name.
TYPES = {"lines": "LINE_EMBEDDING", "words": "WORD_EMBEDDING"}
PENDING, WITHOUT_RESULT = "PENDING", "N/A"
STATUSES = {"completed": "COMPLETED", "failed": "FAILED", "expired": "EXPIRED", "cancelled": "CANCELLED"}
# Receipts that a record names at most: an item has 400 KB, and each takes about 110 bytes.
MOST_RECEIPTS = 3_000


async def write_batch_records(bed: Flowbed, submission: SubmissionRow) -> int:
    """Write the record of a submission that has a job, or its end, into the tables that ask for it.

    A submission of lines and words has two records. Returns how many were written.
    """
    written = 0
    for source, each in written_tables(bed.settings, RECORDS).items():
        table = open_table(each.location, options=each.options, clock=bed.clock)
        if submission.ended:
            written += await _end(table, submission)
        elif submission.job:
            receipts = await _receipts(source, submission, bed)
            for item in _items(submission, receipts):
                written += await _written(
                    table, "put_item", Item=item, ConditionExpression="attribute_not_exists(PK)"
                )
    return written


async def _receipts(source: str, submission: SubmissionRow, bed: Flowbed) -> Mapping[str, list[str]]:
    """Return the receipts of a source that a submission has chunks of, by the side (lines or words) they are of."""
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    async for page in bed.ledger.chunks.submitted(submission.id):
        for chunk in page:
            side = next((name for name in TYPES if chunk.collection.endswith(name)), "")
            if side and chunk.source == source:
                found[side][chunk.document] = None
    return {side: sorted(documents) for side, documents in found.items()}


def _items(submission: SubmissionRow, receipts: Mapping[str, Collection[str]]) -> Iterator[dict[str, Any]]:
    for batch, side in zip(_batches(submission), sorted(receipts), strict=False):
        matches = [match for document in receipts[side] if (match := DOCUMENT.fullmatch(document))]
        yield {
            **_text(PK=f"BATCH#{batch}", SK="STATUS", TYPE="BATCH_SUMMARY"),
            **_text(GSI1PK=f"STATUS#{PENDING}", GSI1SK=f"BATCH_TYPE#{TYPES[side]}#BATCH_ID#{batch}"),
            **_text(batch_type=TYPES[side], openai_batch_id=submission.job, status=PENDING),
            **_text(
                submitted_at=datetime.fromtimestamp(submission.submitted / 1e6, UTC).isoformat(),
                result_file_id=WITHOUT_RESULT,
            ),
            "receipt_refs": {
                "L": [
                    {"M": {"image_id": {"S": each["image"]}, "receipt_id": {"N": str(int(each["receipt"]))}}}
                    for each in matches[:MOST_RECEIPTS]
                ]
            },
        }


async def _end(table: TableReceipts, submission: SubmissionRow) -> int:
    """Write how a submission ended into the records that it has."""
    status = STATUSES[submission.state]
    result = f"{submission.key.rpartition('/')[0]}/output.jsonl" if submission.done else WITHOUT_RESULT
    written = 0
    for batch in _batches(submission):
        written += await _written(
            table,
            "update_item",
            Key=_text(PK=f"BATCH#{batch}", SK="STATUS"),
            UpdateExpression="SET #status = :status, GSI1PK = :place, result_file_id = :result",
            ConditionExpression="attribute_exists(PK) AND #status <> :status",
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues=_text(
                **{":status": status, ":place": f"STATUS#{status}", ":result": result}
            ),
        )
    return written


def _batches(submission: SubmissionRow) -> tuple[str, str]:
    """Return the ids of its records: its own, and another for the words where it has lines too."""
    return submission.id, f"{submission.id}-words"


async def _written(table: TableReceipts, operation: str, **parameters: Any) -> bool:
    with suppress(ConditionFailed, Unanswered):  # it says so already; or the next call writes it
        await table.client.write(operation, **parameters)
        return True
    return False


def _text(**values: str) -> dict[str, Any]:
    return {name: {"S": value} for name, value in values.items()}
