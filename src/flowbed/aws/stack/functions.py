"""What each Lambda function needs: memory, time, disk, and what its role may do. Plain data, without CDK."""

from __future__ import annotations

from dataclasses import dataclass

# Seconds that Lambda allows at most, and that every function gets whose work may be as long.
LONGEST = 900
# What is read and written of the store: a function that reads is also the one that writes the next stage's files.
STORE = ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload")
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


@dataclass(frozen=True, kw_only=True)
class FunctionSpec:
    """A function: MB of memory, seconds, MB of disk in /tmp.

    A `light` one is a zip: it loads neither the index nor a model. The others are an image. `secrets` says whether it
    calls a provider or a source.
    """

    memory: int
    light: bool
    seconds: int = LONGEST
    disk: int = 512
    secrets: bool = True
    ledger: bool = True
    sends: bool = False


FUNCTIONS = {
    "data_fetcher": FunctionSpec(memory=512, seconds=300, light=True),
    "find_unembedded": FunctionSpec(memory=1_024, light=True, secrets=False),
    "submit_openai": FunctionSpec(memory=1_024, light=True),
    "list_pending": FunctionSpec(memory=512, light=True, secrets=False),
    "line_polling": FunctionSpec(memory=3_008, disk=3_072, light=False, sends=True),
    "word_polling": FunctionSpec(memory=3_008, disk=3_072, light=False, sends=True),
    "compaction": FunctionSpec(memory=4_096, disk=5_120, light=False),
    "find_receipts_realtime": FunctionSpec(memory=1_024, light=True, secrets=False),
    "process_receipt_realtime": FunctionSpec(memory=2_048, light=False),
    "embedder": FunctionSpec(memory=1_024, light=False),
    "stream_processor": FunctionSpec(
        memory=512, seconds=60, light=True, secrets=False, ledger=False, sends=True
    ),
}
