"""What a volume of receipt lines costs on AWS, part by part: counted calls times list prices."""

from __future__ import annotations

import math
from dataclasses import dataclass

# US dollars, on demand, in us-east-1, November 2026: the vendors' price pages.
WRITE_UNIT, READ_UNIT = 0.625e-6, 0.125e-6
PUT, GET = 5e-6, 0.4e-6
GB_SECOND, CALL = 1.33334e-5, 0.2e-6  # Lambda on arm64
TRANSITION = 25e-6  # of a standard state machine
MESSAGE = 0.4e-6  # of SQS, for send, receive and delete each
EVENT = 1e-6  # of EventBridge
STORED_GB = 0.023  # of S3, for a month
# Units of the ledger for each chunk: writes are the most that tests allow for a chunk with a text of its own, reads
# those that `python -m benchmarks aws` counts. So are the requests to the store.
WRITES = {"realtime": 3.6, "batch": 5.6}
READS = {"realtime": 6.7, "batch": 14.0}
STORE_WRITES = {"realtime": 0.0076, "batch": 0.0049}
STORE_READS = {"realtime": 0.0433, "batch": 0.0081}
# A batch file has about so many chunks, a submission at most so many, a receipt so many lines.
BATCH_FILE, SUBMISSION, RECEIPT = 2_000, 50_000, 20
# Vector of 1,536 numbers of four bytes, and its text and metadata.
ROW_BYTES = 1_536 * 4 + 500
# Seconds and GB of memory that functions took for each unit of their work.
EMBED_SECONDS, EMBED_GB = 2.0, 2.0  # of a receipt: most of it is waiting for the provider
POLL_SECONDS, POLL_GB = 60.0, 3.0  # of a submission of 50,000 texts
COMMIT_SECONDS, COMMIT_GB = 10.0, 4.0  # of a commit of the deltas of ten batch files
DELTAS = 10

# Of compactors that download the whole snapshot, merge up to ten messages, and upload it: seconds as one of them was
# measured by its authors, memory as theirs, one message for each receipt and collection.
SNAPSHOT_SECONDS, SNAPSHOT_GB, SNAPSHOT_MESSAGES = 19.0, 4.0, 10
# Write units of one change of status in such a table, in its five indexes, for a line; each changes twice.
STATUS_WRITES = 7.6
# What moving such a snapshot over a file system with elastic throughput costs, by the same authors' estimate.
SHARED_FILES = 19_000 / (3 * 60 * 24 * 30)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A part of what a volume costs, in US dollars, and how it was counted."""

    part: str
    usd: float
    counted: str


def costs(lines: int, *, lane: str, tokens_each: float, usd_per_million: float) -> tuple[Cost, ...]:
    """Return the parts of the cost of embedding so many receipt lines once on a lane, `realtime` or `batch`.

    `usd_per_million` is the price of a million tokens on that lane.
    """
    files = math.ceil(lines / BATCH_FILE)
    receipts = math.ceil(lines / RECEIPT)
    submissions = math.ceil(lines / SUBMISSION)
    commits = math.ceil(files / DELTAS)
    embedded = receipts if lane == "realtime" else 0
    polled = 0 if lane == "realtime" else submissions
    gb_seconds = (
        embedded * EMBED_SECONDS * EMBED_GB
        + polled * POLL_SECONDS * POLL_GB
        + commits * COMMIT_SECONDS * COMMIT_GB
    )
    calls = embedded + 3 * polled + commits
    transitions = 3 * embedded + 6 * polled
    puts, gets = round(lines * STORE_WRITES[lane]), round(lines * STORE_READS[lane])
    messages = 3 * 2 * files
    return (
        Cost(
            part="embeddings",
            usd=lines * tokens_each / 1e6 * usd_per_million,
            counted=f"{lines * tokens_each:,.0f} tokens at ${usd_per_million:g} a million",
        ),
        Cost(
            part="ledger",
            usd=lines * (WRITES[lane] * WRITE_UNIT + READS[lane] * READ_UNIT),
            counted=f"{lines * WRITES[lane]:,.0f} write units, {lines * READS[lane]:,.0f} read units",
        ),
        Cost(
            part="functions",
            usd=gb_seconds * GB_SECOND + calls * CALL,
            counted=f"{calls:,} calls, {gb_seconds:,.0f} GB-seconds",
        ),
        Cost(part="state machines", usd=transitions * TRANSITION, counted=f"{transitions:,} transitions"),
        Cost(part="store", usd=puts * PUT + gets * GET, counted=f"{puts:,} writes, {gets:,} reads"),
        Cost(
            part="queues and events",
            usd=messages * MESSAGE + files * EVENT,
            counted=f"{messages:,} requests, {files:,} events",
        ),
        Cost(
            part="stored for a month",
            usd=lines * ROW_BYTES / 1e9 * STORED_GB,
            counted=f"{lines * ROW_BYTES / 1e9:.1f} GB of vectors and texts",
        ),
    )


def of_whole_snapshots(lines: int) -> tuple[Cost, ...]:
    """Return what so many receipt lines cost where compactors move the whole Chroma snapshot, beside the embeddings."""
    compactions = math.ceil(2 * math.ceil(lines / RECEIPT) / SNAPSHOT_MESSAGES)
    gb_seconds = compactions * SNAPSHOT_SECONDS * SNAPSHOT_GB
    units = 2 * lines * STATUS_WRITES
    return (
        Cost(part="ledger", usd=units * WRITE_UNIT, counted=f"{units:,.0f} write units for statuses"),
        Cost(
            part="functions",
            usd=gb_seconds * GB_SECOND + compactions * CALL,
            counted=f"{compactions:,} compactions, {gb_seconds:,.0f} GB-seconds",
        ),
        Cost(
            part="shared files",
            usd=compactions * SHARED_FILES,
            counted=f"{compactions:,} snapshots moved over EFS; nothing where they are in S3",
        ),
    )
