"""The flow on AWS while its services throttle, delay and deny what they did, and events are doubled, lost or late."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.aws.bad_hour import bad_hour
from tests.support.aws.deployment import local_contents
from tests.support.aws.dynamodb import hurry
from tests.support.aws.events import s3_event, sqs_event

from flowbed.errors import Conflict, Transient
from flowbed.testing.index import assert_same

if TYPE_CHECKING:
    from pathlib import Path

    from tests.aws.conftest import Deployment

    from flowbed.testing.s3proxy import S3Proxy
    from flowbed.testing.simulators import SimulatorProcess

ATTEMPTS = 7  # of a task in a machine


@pytest.fixture
def ledger() -> str:
    """The ledger that functions have on AWS."""
    return "dynamodb://flowbed"


def as_machine(deployment: Deployment, function: str, event: Any = None) -> Any:
    """Call a function as a machine or a mapping does: again after an error that may pass."""
    for attempt in range(ATTEMPTS):
        try:
            return deployment.call(function, event)
        except (Transient, Conflict):
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError


def delivered(deployment: Deployment, function: str, event: dict[str, Any]) -> None:
    """Deliver messages until each is done, as a queue does."""
    left = event["Records"]
    for _ in range(ATTEMPTS):
        told = as_machine(deployment, function, {"Records": left})["batchItemFailures"]
        failed = {each["itemIdentifier"] for each in told}
        left = [each for each in left if each.get("messageId", "") in failed]
        if not left:
            return
    raise AssertionError(left)


def stream(deployment: Deployment) -> list[dict[str, Any]]:
    """Return the records of the stream of the ledger's table that tell of runs."""
    table = deployment.client("dynamodb").describe_table(TableName="flowbed")["Table"]
    client, arn = deployment.client("dynamodbstreams"), table["LatestStreamArn"]
    (shard,) = client.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
    place = client.get_shard_iterator(
        StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    records: list[dict[str, Any]] = []
    while found := client.get_records(ShardIterator=place):
        if not found["Records"]:
            break
        records += found["Records"]
        place = found["NextShardIterator"]
    kinds = [each for each in records if "RunRow" in str(each["dynamodb"].get("NewImage", {}).get("record"))]
    for each in kinds:
        each["dynamodb"].pop("ApproximateCreationDateTime", None)  # JSON has no times
    return kinds


def sent_again(records: list[dict[str, Any]], deployment: Deployment) -> None:
    """Process records of the stream; a failure sends all again from the one that failed, as AWS does."""
    left = records
    for _ in range(ATTEMPTS):
        failed = as_machine(deployment, "stream_processor", {"Records": left})["batchItemFailures"]
        if not failed:
            return
        numbers = [each["dynamodb"]["SequenceNumber"] for each in left]
        left = left[numbers.index(failed[0]["itemIdentifier"]) :]
    raise AssertionError(left)


@pytest.mark.parametrize(
    ("lane", "seed"), [("events", 5), pytest.param("machines", 5, marks=pytest.mark.long)]
)
def test_flow_in_a_bad_hour_of_aws_equals_a_local_run(
    deployment: Deployment,
    proxy: S3Proxy,
    queue: str,
    provider: SimulatorProcess,
    tmp_path: Path,
    lane: str,
    seed: int,
    quick_polls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is lost, nothing doubled, and nothing paid twice; events are doubled, lost and in another order."""
    hurry(monkeypatch)
    deployment.use(lambda bed: bed.dead_letters())  # creates the table
    proxy.seed(seed)
    proxy.order(*bad_hour("bucket-*"))
    as_machine(deployment, "data_fetcher")
    (key,) = {row["key"] for row in batches(deployment)}
    if lane == "events":
        event = {"Body": json.dumps(s3_event(deployment.bucket, f"index/{key}"))}
        delivered(deployment, "embedder", sqs_event([event, event], "batches"))
        delivered(deployment, "embedder", sqs_event([event], "batches"))
        sent_again(stream(deployment), deployment)
        messages = deployment.received(queue)
        # One is lost, the others come twice and in another order.
        random.Random(seed).shuffle(messages)
        doubled = [{**each, "MessageId": f"{each['MessageId']} {n}"} for each in messages[1:] for n in "ab"]
        delivered(deployment, "compaction", sqs_event(doubled))
    else:
        for batch in as_machine(deployment, "find_unembedded")["batches"]:
            as_machine(deployment, "submit_openai", batch)
        for _ in range(50):
            pending = as_machine(deployment, "list_pending")
            for each in pending:
                as_machine(deployment, "line_polling", {**each, "skip_sqs_notification": True})
            if not pending:
                break
    as_machine(deployment, "compaction")
    assert proxy.struck > 10
    proxy.order()
    settings = (deployment.package / "flowbed.toml").read_text()
    plain = "".join(f"{line}\n" for line in settings.splitlines() if not line.startswith(("store", "ledger")))
    assert provider.billed_again() == {}
    assert_same(deployment.contents(), local_contents(tmp_path / "local", plain))
    assert deployment.use(lambda bed: bed.doctor()).findings == ()


def batches(deployment: Deployment) -> list[dict[str, Any]]:
    """Return the batch files in the store, by key."""
    listed = deployment.client("s3").list_objects_v2(Bucket=deployment.bucket, Prefix="index/receipts/")
    return [{"key": each["Key"].removeprefix("index/")} for each in listed["Contents"]]
