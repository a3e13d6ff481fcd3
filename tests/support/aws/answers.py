"""Plain answers of the functions that machines call, and what a failure of each of them does to its machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BATCHES = [{"s3_bucket": "b", "s3_key": f"submissions/{each}/input.jsonl", "line_count": 7} for each in "abc"]
PENDING = [{"batch_id": each, "openai_batch_id": f"batch_{each}"} for each in "abc"]
RECEIPTS = [{"image_id": f"image-{each}", "receipt_id": each} for each in (1, 2, 3)]
PLAIN: dict[str, Any] = {
    "find_unembedded": {"batches": BATCHES, "total_lines": 21, "batch_count": 3},
    "submit_openai": {"batch_id": "a", "openai_batch_id": "batch_a", "status": "submitted"},
    "list_pending": PENDING,
    "line_polling": {"batch_id": "a", "status": "completed", "embedding_count": 7},
    "compaction": {"status": "compacted", "collections": {}},
    "find_receipts_realtime": {"receipts": RECEIPTS, "total_receipts": 3, "last_evaluated_key": None},
    "process_receipt_realtime": {"status": "success", "image_id": "image-1", "receipt_id": 1},
}


@dataclass(frozen=True, kw_only=True)
class Called:
    """A function as its machine calls it: how often, and the state that records that it failed.

    One called several times is in a Map, whose other items go on. `after` is the function that is called next.
    """

    machine: str
    times: int
    failed: str
    after: str = ""


CALLED = {
    "find_unembedded": Called(machine="create-batches", times=1, failed="FindFailed", after="submit_openai"),
    "submit_openai": Called(machine="create-batches", times=3, failed="SubmitFailed"),
    "list_pending": Called(machine="poll-store", times=1, failed="ListFailed", after="line_polling"),
    "line_polling": Called(machine="poll-store", times=3, failed="PollFailed", after="compaction"),
    "compaction": Called(machine="poll-store", times=1, failed="CompactFailed"),
    "find_receipts_realtime": Called(
        machine="realtime", times=1, failed="FindFailed", after="process_receipt_realtime"
    ),
    "process_receipt_realtime": Called(machine="realtime", times=3, failed="ReceiptFailed"),
}
