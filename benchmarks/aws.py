"""The functions on AWS over an emulator: what 10,000 chunks cost on each lane, and how fast light functions start."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

import boto3

from benchmarks.process import Side
from benchmarks.results import Figure, table
from flowbed.aws.deployment.assets import zipped
from flowbed.aws.deployment.costs import costs, of_whole_snapshots
from flowbed.aws.deployment.package import build
from flowbed.aws.stack.functions import FUNCTIONS
from flowbed.testing.aws import Emulator
from flowbed.testing.s3proxy import S3Proxy
from flowbed.testing.simulators import SimulatorProcess

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Options

CHUNKS, LINES = 10_000, 1_000_000
LANES = ("realtime", "batch")
# Counts do not depend on the length of vectors, and short ones are made faster.
DIMENSIONS = 256
LIGHT = [name for name, each in FUNCTIONS.items() if each.light]
IMPORTED = "import sys, time; began = time.process_time(); __import__(sys.argv[1]); print(time.process_time() - began)"
ROUNDS = 7


def measure(options: Options) -> dict[str, Any]:
    """Run both lanes over the receipts of the test data, start each light function, and make their package."""
    rounds = options.rounds or ROUNDS
    found: dict[str, Any] = {
        "lanes": {}, "rounds": rounds, "imports": _imports(rounds), "zip": _zip(options.work)
    }  # fmt: skip
    records = _records(options.data / "receipts.jsonl", options.scaled(CHUNKS, fewest=100))
    for place, lane in enumerate(LANES):
        with Emulator() as aws, SimulatorProcess("openai") as provider:
            folder = options.work / lane
            found["lanes"][lane] = _lane(lane, records, folder, aws, provider.url, account=f"{place + 1:012}")
    return found


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare the write units of a chunk and the slowest import with the targets."""
    made = [
        Figure(
            what=f"Write units of a chunk on AWS, {lane} lane, all included",
            value=found["lanes"][lane]["writes"] / found["lanes"][lane]["chunks"],
            target=target,
            at_most=True,
            form="{:.2f}",
        )
        for lane, target in (("realtime", 3.6), ("batch", 5.6))
    ]
    slowest = max(found["imports"].values())
    return [
        *made,
        Figure(
            what="CPU time of the slowest import of a light function",
            value=1_000 * slowest,
            target=300,
            at_most=True,
            form="{:.0f} ms",
        ),
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was counted."""
    lanes = found["lanes"]
    each = {lane: found["lanes"][lane] for lane in LANES}
    chunks = lanes["realtime"]["chunks"]
    rows: list[list[object]] = [
        ["write units of the ledger", *(f"{one['writes']:,.0f}" for one in each.values())],
        ["... for each chunk", *(f"{one['writes'] / one['chunks']:.2f}" for one in each.values())],
        ["read units of the ledger", *(f"{one['reads']:,.0f}" for one in each.values())],
        ["... for each chunk", *(f"{one['reads'] / one['chunks']:.2f}" for one in each.values())],
        ["requests to the ledger", *(f"{one['requests']:,}" for one in each.values())],
        ["S3: PUT, POST, DELETE", *(f"{one['s3_writes']:,}" for one in each.values())],
        ["S3: GET, HEAD", *(f"{one['s3_reads']:,}" for one in each.values())],
        ["calls of functions", *(f"{sum(one['calls'].values()):,}" for one in each.values())],
    ]
    calls = "; ".join(
        f"{lane}: {', '.join(f'{number} {name}' for name, number in one['calls'].items())}"
        for lane, one in each.items()
    )
    imports: list[list[object]] = [
        [f"`{name}`", f"{1_000 * seconds:.0f}", f"{found['zip']['zip'] / 1e6:.1f}"]
        for name, seconds in found["imports"].items()
    ]
    return f"""## AWS

{chunks:,} lines and words of real receipts went through the functions of a deployment, on an emulator of S3 and
DynamoDB and a simulator of OpenAI. On the realtime lane each batch file, each record of the stream and each message was
a call of its own; queues that fill up need fewer. Write units are those that the emulator bills, which follow AWS's
rules; read units were counted by these rules from the items read.

{table(["", *LANES], rows)}

Calls, {calls}.

A light function is a zip of {found["zip"]["zip"] / 1e6:.1f} MB, {found["zip"]["files"] / 1e6:.0f} MB unpacked, the same
for all of them. CPU time of its import, the median of {found["rounds"]} new processes:

{table(["function", "import, ms of CPU", "zip, MB"], imports)}

A million receipt lines by list prices, as `flowbed aws cost --lines 1000000` counts them, beside compactors that move
the whole snapshot for ten updates each, and write the status of each line twice:

{_sheet()}
"""


def _sheet() -> str:
    columns = {
        "realtime": costs(LINES, lane="realtime", tokens_each=12, usd_per_million=0.02),
        "batch": costs(LINES, lane="batch", tokens_each=12, usd_per_million=0.01),
        "whole snapshots": of_whole_snapshots(LINES),
    }
    parts = list(dict.fromkeys(each.part for column in columns.values() for each in column))
    rows: list[list[object]] = [
        [
            part,
            *(
                next((f"${one.usd:,.2f}" for one in column if one.part == part), "")
                for column in columns.values()
            ),
        ]
        for part in parts
    ]
    totals = [f"${sum(one.usd for one in column):,.2f}" for column in columns.values()]
    return table(["", *columns], [*rows, ["in all", *totals]])


def _imports(rounds: int) -> dict[str, float]:
    """Return the CPU seconds that the import of each light function takes in a new process."""
    taken: dict[str, list[float]] = {name: [] for name in LIGHT}
    for _ in range(rounds):
        for name, seconds in taken.items():
            ran = subprocess.run(
                [sys.executable, "-c", IMPORTED, f"flowbed.aws.handlers.{name}"],
                capture_output=True,
                text=True,
                check=True,
            )
            seconds.append(float(ran.stdout))
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _zip(work: Path) -> dict[str, int]:
    """Make the package of light functions, and return its bytes, packed and not."""
    project, package = work / "project", work / "package"
    project.mkdir()
    (project / "flowbed.toml").write_text("")
    build(package, project)
    files = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    return {"zip": len(zipped(package)), "files": files}


def _records(path: Path, chunks: int) -> list[dict[str, Any]]:
    """Return as many receipts as have so many lines and words together, the last one cut."""
    found: list[dict[str, Any]] = []
    left = chunks
    with path.open() as file:
        for line in islice(file, chunks):
            record, kept = json.loads(line), []
            for each in record["lines"]:
                if left < 1 + len(each["words"]):
                    break
                left -= 1 + len(each["words"])
                kept.append(each)
            if kept:
                found.append({**record, "lines": kept})
            if len(kept) < len(record["lines"]):
                break
    return found


def _lane(
    lane: str, records: list[dict[str, Any]], folder: Path, aws: Emulator, provider: str, *, account: str
) -> dict[str, Any]:
    package = folder / "package"
    package.mkdir(parents=True)
    (package / "receipts.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))
    (package / "flowbed.toml").write_text(
        f'model = "openai:text-embedding-3-small"\nlane = "{lane}"\n'
        f"[model_options]\ndimensions = {DIMENSIONS}\n"
        f'[providers.openai]\nbase_url = "{provider}/v1"\napi_key = "sk-a"\n'
        f'[sources.receipts]\nkind = "receipts"\nlocation = "{package}/receipts.jsonl"\n'
    )
    boto3.client("s3", **aws.client(account=account)).create_bucket(Bucket="bucket")
    queue = boto3.client("sqs", **aws.client(account=account)).create_queue(QueueName="compaction")[
        "QueueUrl"
    ]
    with S3Proxy(aws.url) as proxy, Side("functions") as side:
        variables = {
            **aws.variables(account=account),
            "AWS_ENDPOINT_URL_S3": proxy.url,
            "AWS_LAMBDA_FUNCTION_NAME": "flowbed",
            "AWS_LAMBDA_LOG_STREAM_NAME": lane,
            "LAMBDA_TASK_ROOT": str(package),
            "S3_BUCKET": "s3://bucket/index",
            "DYNAMODB_TABLE_NAME": "flowbed",
            "COMPACTION_QUEUE_URL": queue,
            "TMPDIR": str(folder),
        }
        side.ask("enter", variables=variables)
        counted = side.ask(lane)
        requests = proxy.traffic().requests
    writes = Counter({method: number for method, number in requests.items() if method not in {"GET", "HEAD"}})
    return {
        "calls": counted["calls"],
        "chunks": counted["chunks"],
        **counted["units"],
        "s3_writes": writes.total(),
        "s3_reads": requests.total() - writes.total(),
    }
