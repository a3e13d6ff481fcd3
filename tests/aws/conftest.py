"""Functions of a deployment in the test's process: real handlers on S3 and a ledger, with OpenAI's simulator."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import itertools
import json
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import boto3
import pytest
from tests.support.aws.interpreters import Answering
from tests.support.projects import receipt

from flowbed.bed import Flowbed, aopen
from flowbed.settings import function_folder
from flowbed.storage import open_store
from flowbed.testing.aws import Emulator
from flowbed.testing.index import Contents, contents
from flowbed.testing.s3proxy import S3Proxy
from flowbed.testing.simulators import SimulatorProcess

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

MODEL = "openai:text-embedding-3-small"


@pytest.fixture(scope="session")
def running_provider() -> Iterator[SimulatorProcess]:
    """Start a simulator of OpenAI."""
    with SimulatorProcess("openai") as simulator:
        yield simulator


@pytest.fixture
def provider(running_provider: SimulatorProcess) -> SimulatorProcess:
    """Reset the simulator."""
    running_provider.order()
    running_provider.forget()
    return running_provider


@pytest.fixture(scope="session")
def answering() -> Iterator[Answering]:
    """Answer functions of the emulator and of another interpreter from the process of the test."""
    with Answering() as functions:
        yield functions


@dataclass(frozen=True, kw_only=True)
class Context:
    """What Lambda passes beside the event."""

    function_name: str
    aws_request_id: str
    seconds: float = 900.0

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the call may still take."""
        return int(self.seconds * 1_000)


@dataclass(kw_only=True)
class Deployment:
    """A package with settings, and the functions that run from it; `lines` are what they have written."""

    package: Path
    store: str
    account: dict[str, str]
    capture: Callable[[], str]
    lines: list[dict[str, Any]] = field(default_factory=list)
    requests: Iterator[int] = field(default_factory=itertools.count)

    def call(self, function: str, event: Any = None, *, seconds: float = 900.0) -> Any:
        """Call the handler of a function with an event, as JSON brings it, and return its answer as JSON."""
        module = importlib.import_module(f"flowbed.aws.handlers.{function}")
        context = Context(function_name=function, aws_request_id=f"r{next(self.requests)}", seconds=seconds)
        try:
            answer = module.handler(json.loads(json.dumps(event or {})), context)
        finally:
            self.lines += [json.loads(line) for line in self.capture().splitlines()]
        return json.loads(json.dumps(answer))

    def use(self, work: Callable[[Flowbed], Awaitable[Any]]) -> Any:
        """Open the deployment's project, as an operator would, and work with it."""

        async def used() -> Any:
            async with aopen(function_folder()) as bed:
                return await work(bed)

        return asyncio.run(used())

    def contents(self) -> Contents:
        """Read the index."""
        return asyncio.run(contents(open_store(self.store, folder=Path(), options=self.options)))

    @property
    def bucket(self) -> str:
        """The bucket of the store."""
        return self.store.split("/")[2]

    @property
    def options(self) -> dict[str, str]:
        """The options of the store."""
        return {"endpoint": self.account["endpoint_url"], "region": self.account["region_name"]}

    def client(self, service: str) -> Any:
        """Return a client of a service of AWS."""
        return boto3.client(service, **self.account)

    def queue(self, name: str, **attributes: str) -> str:
        """Create a queue, and return its URL."""
        return str(self.client("sqs").create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])

    def received(self, queue: str) -> list[dict[str, Any]]:
        """Return the messages of a queue, and delete them."""
        client, found = self.client("sqs"), []
        while messages := client.receive_message(
            QueueUrl=queue, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        ).get("Messages"):
            found += messages
            for message in messages:
                client.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return found

    def metrics(self, function: str) -> dict[str, float]:
        """Sum the metrics that a function has written."""
        sums: dict[str, float] = {}
        for line in self.lines:
            for about in line.get("_aws", {}).get("CloudWatchMetrics", ()):
                if line["FunctionName"] == function:
                    for metric in about["Metrics"]:
                        sums[metric["Name"]] = sums.get(metric["Name"], 0) + line[metric["Name"]]
        return sums


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    """The address of the ledger: the fastest one, as a function does the same on each."""
    return f"{tmp_path}/ledger.db"


@pytest.fixture
def deployment(
    tmp_path: Path,
    ledger: str,
    aws: Emulator,
    provider: SimulatorProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Deployment:
    """Return a deployment with a source of two receipts, not fetched yet."""
    package = tmp_path / "package"
    package.mkdir()
    lines = [
        receipt(1, ["GRAND TOTAL 7.80", "CASH 10.00"], merchant_name="WAN SHENG"),
        receipt(2, ["TOTAL 7.80"], merchant_name="KEDAI BUKU"),
    ]
    (package / "receipts.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    account = f"{uuid.uuid4().int % 10**12:012}"
    boto3.client("s3", **aws.client(account=account)).create_bucket(Bucket=f"bucket-{account}")
    store = f"s3://bucket-{account}/index"
    (package / "flowbed.toml").write_text(
        f'model = "{MODEL}"\nstore = "{store}"\nledger = "{ledger}"\n'
        f'[providers.openai]\nbase_url = "{provider.url}/v1"\napi_key = "{tmp_path.name}"\n'
        f'[sources.receipts]\nkind = "receipts"\nlocation = "{package}/receipts.jsonl"\n'
    )
    for name, value in {
        **aws.variables(account=account),
        "AWS_LAMBDA_FUNCTION_NAME": "flowbed",
        "AWS_LAMBDA_LOG_STREAM_NAME": f"2026/11/30/[$LATEST]{tmp_path.name}",
        "LAMBDA_TASK_ROOT": str(package),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return Deployment(
        package=package,
        store=store,
        account=aws.client(account=account),
        capture=lambda: capsys.readouterr().out,
    )


@pytest.fixture
def proxy(aws: Emulator, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """Put a proxy between the functions and AWS, without faults yet; the test itself goes past it."""
    with S3Proxy(aws.url, seed=5) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between


@pytest.fixture
def queue(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> str:
    """The queue of compaction."""
    url = deployment.queue("compaction")
    monkeypatch.setenv("COMPACTION_QUEUE_URL", url)
    return url


@pytest.fixture
def emulator(lacking: Callable[[str], NoReturn], monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Start an emulator that asks for roles, and let this process be its root."""
    for package in ("ministack", "awslambdaric"):
        if not importlib.util.find_spec(package):
            lacking(f"no {package}: make setup")
    with Emulator(auth=True) as running:
        for name, value in running.variables().items():
            monkeypatch.setenv(name, value)
        yield running
