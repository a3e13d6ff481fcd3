"""The embedder: every shape of events, duplicates, events that come too early, and poison."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.aws.events import eventbridge_event, s3_event, sqs_event

from flowbed.errors import Rejected, Transient
from flowbed.ledger import BatchRow
from flowbed.testing.simulators import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from tests.aws.conftest import Deployment

    from flowbed.testing.simulators import SimulatorProcess

DAY = "partner/chunked/year=2026/month=01/day=06"


def sns(event: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a message of SNS in SQS."""
    return {
        "Type": "Notification",
        "MessageId": "n",
        "TopicArn": "arn:aws:sns:x",
        "Message": json.dumps(event),
    }


def in_queue(*events: dict[str, Any], receives: int = 1) -> dict[str, Any]:
    """Return events as messages of a queue."""
    return sqs_event([{"Body": json.dumps(each), "Receives": receives} for each in events], "batches")


def fetched(deployment: Deployment) -> str:
    """Fetch, and return the key of the batch file in its bucket."""
    (key,) = deployment.call("data_fetcher")["sources"]["receipts"]["batches"]
    return f"index/{key}"


def test_embedder_takes_every_shape_of_an_event_once(
    deployment: Deployment, provider: SimulatorProcess
) -> None:
    """Duplicates in other shapes embed nothing again; each way of delivery has its answer."""
    key, bucket = fetched(deployment), deployment.bucket
    notified, bridged = s3_event(bucket, key), eventbridge_event(bucket, key)
    assert deployment.call("embedder", bridged) == {"embedded": 8, "chunks": 10}
    assert deployment.call("embedder", notified) == {"embedded": 0, "chunks": 0}
    shapes = in_queue(
        notified, bridged, sns(notified), sns(bridged), {"Event": "s3:TestEvent", "Bucket": bucket}
    )
    assert deployment.call("embedder", shapes) == {"batchItemFailures": []}
    assert deployment.call("embedder", {"Event": "s3:TestEvent", "Bucket": bucket}) == {
        "embedded": 0,
        "chunks": 0,
    }
    assert deployment.contents().total == 0
    deployment.call("compaction")
    assert deployment.contents().total == 10
    assert provider.billed_again() == {}


@pytest.mark.parametrize(
    "name", ["s3SqsEvent", "s3EventBridgeNotificationObjectDeletedEvent", "s3EventDeleteObject"]
)
def test_embedder_of_another_event_of_aws_does_nothing(deployment: Deployment, data: Path, name: str) -> None:
    event = json.loads((data / "api-samples" / "aws" / f"{name}.json").read_text("utf-8"))
    assert list(deployment.call("embedder", event).values()) in ([[]], [0, 0])


def test_embedder_before_the_ledger_knows_the_batch_asks_for_it_again(deployment: Deployment) -> None:
    """After five tries the file is that of a fetch that died: the message is acknowledged, and counted."""
    key = f"receipts/chunked/year=2026/month=11/day=30/batch_{'a' * 64}.json"

    async def register(bed: Any) -> None:
        row = BatchRow(id="a" * 64, source="receipts", key=key, timestamp=bed.clock(), chunks=1)
        await bed.ledger.batches.register(row)

    deployment.use(register)
    deployment.client("s3").put_object(Bucket=deployment.bucket, Key=f"index/{key}", Body=b"{}")
    event = s3_event(deployment.bucket, f"index/{key}")
    with pytest.raises(Transient, match="is not recorded yet"):
        deployment.call("embedder", event)
    early = {"batchItemFailures": [{"itemIdentifier": "m0"}]}
    assert deployment.call("embedder", in_queue(event, receives=4)) == early
    assert deployment.call("embedder", in_queue(event, receives=5)) == {"batchItemFailures": []}
    assert deployment.metrics("flowbed")["Orphans"] == 1


def test_embedder_of_poison_fails_only_its_message(deployment: Deployment, quick_polls: None) -> None:
    """What cannot be read is a dead letter with its reason, and the rest is embedded."""
    bucket, client = deployment.bucket, deployment.client("s3")
    bodies = {"good": b'{"chunks": [{"text": "from a partner"}]}', "bad": b'{"chunks": 7}'}
    for name, body in bodies.items():
        client.put_object(Bucket=bucket, Key=f"index/{DAY}/{name}.json", Body=body)
    events = [s3_event(bucket, f"index/{DAY}/{name}.json") for name in ("bad", "good")]
    messages = in_queue(*events, {"hello": 1}, s3_event(bucket, f"index/{DAY}/gone.json"), {"Records": "odd"})
    done = deployment.call("embedder", messages)
    assert [each["itemIdentifier"] for each in done["batchItemFailures"]] == ["m0", "m2", "m4"]
    deployment.call("compaction")
    assert [row.document for row in deployment.contents().rows["partner"].values()] == ["from a partner"]
    letters = deployment.use(lambda bed: bed.dead_letters())
    assert {each.subject for each in letters} == {f"{DAY}/bad.json", "m2", "m4"}
    assert deployment.call("embedder", in_queue({"hello": 1})) == {
        "batchItemFailures": [{"itemIdentifier": "m0"}]
    }
    with pytest.raises(Rejected, match="its shape is unknown"):
        deployment.call("embedder", {"hello": 1})


def test_embedder_of_a_provider_that_is_down_asks_for_all_messages_again(
    deployment: Deployment, provider: SimulatorProcess, quick_polls: None
) -> None:
    event = in_queue(s3_event(deployment.bucket, fetched(deployment)))
    provider.order(Fault(kind="error", status=503))
    assert deployment.call("embedder", event) == {"batchItemFailures": [{"itemIdentifier": "m0"}]}
    provider.order()
    assert deployment.call("embedder", event) == {"batchItemFailures": []}
    deployment.call("compaction")
    assert deployment.contents().total == 10


def test_embedder_on_the_batch_lane_leaves_the_texts_to_find_unembedded(deployment: Deployment) -> None:
    settings = deployment.package / "flowbed.toml"
    settings.write_text(f'lane = "batch"\n{settings.read_text()}')
    event = s3_event(deployment.bucket, fetched(deployment))
    assert deployment.call("embedder", event) == {"embedded": 0, "chunks": 0}
    assert deployment.call("find_unembedded")["total_lines"] == 8


def test_embedders_at_once_share_the_work(deployment: Deployment, provider: SimulatorProcess) -> None:
    """Nothing is embedded twice, whichever gets which event."""
    event = s3_event(deployment.bucket, fetched(deployment))

    async def both() -> list[Any]:
        return await asyncio.gather(
            *(asyncio.to_thread(deployment.call, "embedder", event) for _ in range(2))
        )

    done = asyncio.run(both())
    assert sum(each["chunks"] for each in done) == 10
    assert provider.billed_again() == {}
