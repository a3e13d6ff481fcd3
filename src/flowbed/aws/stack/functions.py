"""What each Lambda function needs: memory, time, disk, and what its role may do. Plain data, without CDK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Seconds that Lambda allows at most, and that every function gets whose work may be as long.
LONGEST = 900
# What is read and written of the store: a function that reads is also the one that writes the next stage's files.
STORE = ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload")
# Of an existing table of receipts: what reads it, and what writes statuses and records into it.
RECEIPTS, RECEIPTS_INDEXES = ("Query",), ("GSITYPE", "GSI1", "GSI4")
RECEIPTS_WRITTEN = ("GetItem", "PutItem", "UpdateItem")
LEDGER = (
    "BatchGetItem",
    "BatchWriteItem",
    "ConditionCheckItem",
    "DeleteItem",
    "DescribeTable",
    "GetItem",
    "PartiQLDelete",
    "PartiQLInsert",
    "PartiQLSelect",
    "PartiQLUpdate",
    "PutItem",
    "Query",
    "Scan",
    "UpdateItem",
)
# Of a function that records dead letters, and nothing else.
LETTERS = ("DescribeTable", "GetItem", "PutItem")


@dataclass(frozen=True, kw_only=True)
class FunctionSpec:
    """A function: MB of memory, seconds, MB of disk in /tmp.

    A `light` one is a zip: it loads neither the index nor a model. The others are an image. `secrets` says whether it
    calls a provider or a source, `ledger` whether it works with the store and all of the ledger or records dead letters
    alone, `receipts` what it does with existing tables of receipts.
    """

    memory: int
    light: bool
    seconds: int = LONGEST
    disk: int = 512
    secrets: bool = True
    ledger: Literal["all", "letters"] = "all"
    sends: bool = False
    receipts: Literal["", "read", "write"] = ""


FUNCTIONS = {
    "data_fetcher": FunctionSpec(memory=512, seconds=300, light=True, receipts="read"),
    "find_unembedded": FunctionSpec(memory=1_024, light=True, secrets=False),
    "submit_openai": FunctionSpec(memory=1_024, light=True, receipts="write"),
    "list_pending": FunctionSpec(memory=512, light=True, secrets=False),
    "line_polling": FunctionSpec(memory=3_008, disk=3_072, light=False, sends=True, receipts="write"),
    "word_polling": FunctionSpec(memory=3_008, disk=3_072, light=False, sends=True, receipts="write"),
    "compaction": FunctionSpec(memory=4_096, disk=5_120, light=False, receipts="write"),
    "find_receipts_realtime": FunctionSpec(memory=1_024, light=True, secrets=False),
    "process_receipt_realtime": FunctionSpec(memory=2_048, light=False, receipts="write"),
    "embedder": FunctionSpec(memory=1_024, light=False, receipts="write"),
    "stream_processor": FunctionSpec(
        memory=512, seconds=60, light=True, secrets=False, ledger="letters", sends=True
    ),
}
