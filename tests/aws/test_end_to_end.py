"""Receipts through machines and events, in real functions with roles: the index equals that of a local run."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import boto3
import pytest
from tests.support.aws_functions import Functions

from flowbed.bed import aopen
from flowbed.storage import open_store
from flowbed.testing.aws import Emulator
from flowbed.testing.index import assert_same, contents, contents_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from flowbed.bed import Flowbed
    from flowbed.testing.index import Contents
    from flowbed.testing.simulators import SimulatorProcess

BUCKET, TABLE = "flowbed-batches", "flowbed"
PATIENCE = 120.0  # s
STORE = {
    "Effect": "Allow",
    "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"],
    "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"],
}
LEDGER = {
    "Effect": "Allow",
    "Action": [
        f"dynamodb:{action}"
        for action in (
            *(
                "GetItem",
                "BatchGetItem",
                "Query",
                "Scan",
                "PutItem",
                "UpdateItem",
                "DeleteItem",
                "ConditionCheckItem",
            ),
            *("BatchWriteItem", "TransactWriteItems", "DescribeTable"),
            *("PartiQLInsert", "PartiQLUpdate", "PartiQLSelect", "PartiQLDelete"),
        )
    ],
    "Resource": [f"arn:aws:dynamodb:*:*:table/{TABLE}", f"arn:aws:dynamodb:*:*:table/{TABLE}/index/*"],
}
STREAMING = ("GetRecords", "GetShardIterator", "DescribeStream", "ListStreams")
RECEIVING = (
    "ReceiveMessage",
    "DeleteMessage",
    "GetQueueAttributes",
    "ChangeMessageVisibility",
    "GetQueueUrl",
)


@dataclass(kw_only=True)
class Running:
    """A deployment with its functions, machines and event flow, and the folder of an operator's project."""

    functions: Functions
    folder: Path
    options: dict[str, str]
    queues: dict[str, tuple[str, str]] = field(default_factory=dict)

    def work(self, work: Callable[[Flowbed], Awaitable[Any]]) -> Any:
        """Open the project as an operator does."""

        async def worked() -> Any:
            async with aopen(self.folder) as bed:
                return await work(bed)

        return asyncio.run(worked())

    def contents(self) -> Contents:
        """Read the index."""
        return asyncio.run(contents(open_store(f"s3://{BUCKET}/index", folder=Path(), options=self.options)))

    def wait_for(self, rows: int) -> Contents:
        """Wait until the index has so many rows."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.contents()).total < rows:
            assert time.monotonic() < deadline, f"the index has {found.total} of {rows} rows"
            time.sleep(0.25)
        return found


def settings_of(provider: SimulatorProcess, folder: Path) -> str:
    """Return the settings of a project with two sources of receipts."""
    sources = "".join(
        f'[sources.{name}]\nkind = "receipts"\nlocation = "{folder}/{name}.jsonl"\n'
        for name in ("receipts", "more")
    )
    return (
        'model = "openai:text-embedding-3-small"\n'
        f'[providers.openai]\nbase_url = "{provider.url}/v1"\napi_key = "{folder}"\n{sources}'
    )


def write_receipts(data: Path, folder: Path, *, first: int, more: int) -> None:
    """Write the first receipts of the test data into the files of both sources."""
    with (data / "receipts.jsonl").open() as lines:
        for name, number in (("receipts", first), ("more", more)):
            (folder / f"{name}.jsonl").write_text("".join(islice(lines, number)))


def local_contents(folder: Path, settings: str) -> Contents:
    """Index the same sources in a local project."""
    folder.mkdir()
    (folder / "flowbed.toml").write_text(settings)

    async def run() -> None:
        async with aopen(folder) as bed:
            report = await bed.run()
        assert report.failures == ()

    asyncio.run(run())
    return contents_of(folder)


def deploy(aws: Emulator, folder: Path, settings: str) -> Running:
    """Create everything that a deployment has but its event flow, with a role for each function."""
    account = aws.client()
    boto3.client("s3", **account).create_bucket(Bucket=BUCKET)
    operator = folder / "operator"
    operator.mkdir()
    store = f"s3://{BUCKET}/index"
    (operator / "flowbed.toml").write_text(f'store = "{store}"\nledger = "dynamodb://{TABLE}"\n{settings}')
    functions = Functions(
        aws,
        account=account,
        settings=settings,
        variables={"DYNAMODB_TABLE_NAME": TABLE, "S3_BUCKET": store},
    )
    options = {"endpoint": account["endpoint_url"], "region": account["region_name"]}
    running = Running(functions=functions, folder=operator, options=options)
    running.work(lambda bed: bed.dead_letters())  # creates the table
    for name in ("data_fetcher", "find_unembedded", "submit_openai", "list_pending", "line_polling"):
        functions.create(name, STORE, LEDGER)
    for name in ("find_receipts_realtime", "process_receipt_realtime"):
        functions.create(name, STORE, LEDGER)
    for name, queue in (("embedder", "batches"), ("compaction", "compaction")):
        running.queues[queue] = functions.queue(queue, VisibilityTimeout="120")
        receiving = {
            "Effect": "Allow",
            "Action": [f"sqs:{each}" for each in RECEIVING],
            "Resource": running.queues[queue][1],
        }
        functions.create(name, STORE, LEDGER, receiving)
    url, arn = running.queues["compaction"]
    stream = functions.client("dynamodb").describe_table(TableName=TABLE)["Table"]["LatestStreamArn"]
    functions.create(
        "stream_processor",
        # The emulator asks for the name of the call; AWS knows only the first.
        {"Effect": "Allow", "Action": ["sqs:SendMessage", "sqs:SendMessageBatch"], "Resource": arn},
        {"Effect": "Allow", "Action": [f"dynamodb:{each}" for each in STREAMING], "Resource": stream},
        COMPACTION_QUEUE_URL=url,
    )
    for name in ("create-batches", "poll-store", "realtime"):
        functions.machine(name)
    return running


def connect(running: Running) -> None:
    """Connect the event flow: batch files to the embedder, runs to compaction."""
    functions = running.functions
    functions.poll("embedder", running.queues["batches"][1], BatchSize=10)
    functions.poll("compaction", running.queues["compaction"][1], BatchSize=10)
    stream = functions.client("dynamodb").describe_table(TableName=TABLE)["Table"]["LatestStreamArn"]
    pattern = json.dumps({"dynamodb": {"NewImage": {"record": {"S": ["RunRow"]}}}})
    functions.poll(
        "stream_processor",
        stream,
        StartingPosition="TRIM_HORIZON",
        BatchSize=100,
        FilterCriteria={"Filters": [{"Pattern": pattern}]},
    )
    functions.route(BUCKET, *running.queues["batches"])


@pytest.fixture(scope="module")
def emulator(lacking: Callable[[str], NoReturn]) -> Iterator[Emulator]:
    """Start an emulator that asks for roles."""
    for package in ("ministack", "awslambdaric"):
        if not importlib.util.find_spec(package):
            lacking(f"no {package}: make setup")
    with Emulator(auth=True) as running:
        yield running


def test_receipts_through_machines_and_events_equal_a_local_run(
    emulator: Emulator,
    data: Path,
    tmp_path: Path,
    provider: SimulatorProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One source takes the batch lane, the other the event flow; the doctor finds nothing."""
    for name, value in emulator.variables().items():
        monkeypatch.setenv(name, value)
    write_receipts(data, tmp_path, first=1, more=1)
    settings = settings_of(provider, tmp_path)
    local = local_contents(tmp_path / "local", settings)
    provider.forget()
    running = deploy(emulator, tmp_path, settings)
    functions = running.functions
    fetched = functions.invoke("data_fetcher", {"sources": ["receipts"]})["sources"]["receipts"]
    assert fetched["fetched"] == 1
    assert functions.execute("create-batches")["status"] == "SUCCEEDED"
    polled = functions.execute("poll-store")
    while json.loads(polled["output"])["pending_batches"]:
        polled = functions.execute("poll-store")
    assert running.contents().total == fetched["chunks"]
    connect(running)
    functions.invoke("data_fetcher", {"sources": ["more"]})
    assert_same(running.wait_for(local.total), local)
    assert provider.billed_again() == {}
    assert running.work(lambda bed: bed.doctor()).findings == ()
