"""A whole deployment on the emulator: functions with roles, machines, queues, the stream and the rule."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from tests.support.aws.functions import Functions
from tests.support.publishing import read_plainly

from flowbed.aws.stack.functions import LETTERS as LETTERS_ACTIONS
from flowbed.bed import aopen
from flowbed.storage import open_store
from flowbed.testing.index import contents, contents_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from flowbed.bed import Flowbed
    from flowbed.testing.aws import Emulator
    from flowbed.testing.index import Contents
    from flowbed.testing.simulators import SimulatorProcess

BUCKET, TABLE = "flowbed-batches", "flowbed"
PATIENCE = 900.0  # s
QUIET = 20  # looks at queues without a message, half a second apart, after which nothing is on its way
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
# Of a function that records dead letters alone.
LETTERS = {
    "Effect": "Allow",
    "Action": [f"dynamodb:{action}" for action in LETTERS_ACTIONS],
    "Resource": f"arn:aws:dynamodb:*:*:table/{TABLE}",
}
# AWS asks for the four of PartiQL only; the emulator asks for the name of the call, which names no table.
STATEMENTS = {"Effect": "Allow", "Action": "dynamodb:BatchExecuteStatement", "Resource": "*"}
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

    def publish(self, collection: str, folder: Path) -> dict[str, Any]:
        """Let compaction publish Chroma snapshots, as readers of them ask, and read one with a plain client."""
        client = self.functions.client("lambda")
        said = client.get_function_configuration(FunctionName="compaction")["Environment"]["Variables"]
        client.update_function_configuration(
            FunctionName="compaction", Environment={"Variables": {**said, "CHROMADB_STORAGE_MODE": "s3"}}
        )
        self.functions.invoke("compaction")
        pulled = self.work(lambda bed: bed.pull(collection, folder, mode="s3"))
        return read_plainly(pulled.path, collection)

    def wait_for(self, rows: int) -> Contents:
        """Wait until the index has so many rows.

        Where nothing is on its way any more the schedule's machines find what lost its event: a message that came to
        another function while one was at work on it, and was killed.
        """
        deadline, quiet = time.monotonic() + PATIENCE, 0
        while (found := self.contents()).total < rows:
            assert time.monotonic() < deadline, f"the index has {found.total} of {rows} rows"
            time.sleep(0.5)
            quiet = 0 if self._waiting() else quiet + 1
            if quiet > QUIET:
                for machine in ("create-batches", "poll-store"):
                    self.functions.execute(machine)
        return found

    def _waiting(self) -> int:
        """Count the messages in queues, also those that are worked on."""
        client = self.functions.client("sqs")
        wanted = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        return sum(
            int(number)
            for url, _ in self.queues.values()
            for number in client.get_queue_attributes(QueueUrl=url, AttributeNames=wanted)[
                "Attributes"
            ].values()
        )


def settings_of(provider: SimulatorProcess, folder: Path, names: Sequence[str] = ("receipts", "more")) -> str:
    """Return the settings of a project with sources of receipts."""
    sources = "".join(
        f'[sources.{name}]\nkind = "receipts"\nlocation = "{folder}/{name}.jsonl"\n' for name in names
    )
    return (
        'model = "openai:text-embedding-3-small"\n'
        f'[providers.openai]\nbase_url = "{provider.url}/v1"\napi_key = "{folder}"\n{sources}'
    )


def write_receipts(data: Path, folder: Path, *, lines: int | None = None, **numbers: int) -> None:
    """Write receipts of the test data into the files of sources: so many of each, with at most so many lines."""
    with (data / "receipts.jsonl").open() as file:
        for name, number in numbers.items():
            records = [json.loads(line) for line in islice(file, number)]
            cut = [{**each, "lines": each["lines"][:lines]} for each in records]
            (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in cut))


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


def deploy(
    aws: Emulator,
    folder: Path,
    settings: str,
    *,
    variables: Mapping[str, str] | None = None,
    kill_at: Mapping[str, str] | None = None,
    visibility: int = 120,
    page: int = 1_000,
    server: str = "",
) -> Running:
    """Create everything that a deployment has but its event flow, with a role for each function.

    `kill_at` names the point at which a function is killed once; messages stay invisible for `visibility` seconds; an
    execution of the machine realtime has a `page` of receipts; `server` is that of `forked_functions`.
    """
    kill_at = kill_at or {}
    account = aws.client()
    boto3.client("s3", **account).create_bucket(Bucket=BUCKET)
    operator = folder / "operator"
    operator.mkdir()
    store = f"s3://{BUCKET}/index"
    (operator / "flowbed.toml").write_text(f'store = "{store}"\nledger = "dynamodb://{TABLE}"\n{settings}')
    functions = Functions(
        account=account,
        settings=settings,
        variables={"DYNAMODB_TABLE_NAME": TABLE, "S3_BUCKET": store, **(variables or {})},
        own={name: {"KILL_AT": point} for name, point in kill_at.items()},
        server=server,
    )
    options = {"endpoint": account["endpoint_url"], "region": account["region_name"]}
    running = Running(functions=functions, folder=operator, options=options)
    running.work(lambda bed: bed.dead_letters())  # creates the table
    for name in ("data_fetcher", "find_unembedded", "submit_openai", "list_pending", "line_polling"):
        functions.create(name, STORE, LEDGER, STATEMENTS)
    for name in ("find_receipts_realtime", "process_receipt_realtime"):
        functions.create(name, STORE, LEDGER, STATEMENTS)
    for name, queue in (("embedder", "batches"), ("compaction", "compaction")):
        running.queues[queue] = functions.queue(queue, VisibilityTimeout=str(visibility))
        receiving = {
            "Effect": "Allow",
            "Action": [f"sqs:{each}" for each in RECEIVING],
            "Resource": running.queues[queue][1],
        }
        functions.create(name, STORE, LEDGER, STATEMENTS, receiving)
    url, arn = running.queues["compaction"]
    stream = functions.client("dynamodb").describe_table(TableName=TABLE)["Table"]["LatestStreamArn"]
    functions.create(
        "stream_processor",
        # The emulator asks for the name of the call; AWS knows only the first.
        {"Effect": "Allow", "Action": ["sqs:SendMessage", "sqs:SendMessageBatch"], "Resource": arn},
        {"Effect": "Allow", "Action": [f"dynamodb:{each}" for each in STREAMING], "Resource": stream},
        LETTERS,
        COMPACTION_QUEUE_URL=url,
    )
    for name in ("create-batches", "poll-store", "realtime"):
        functions.machine(name, change=lambda text: text.replace('"limit": 1000', f'"limit": {page}'))
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
