"""Messages that are worked on stay invisible, however long it takes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from flowbed.aws.queues import kept_invisible

if TYPE_CHECKING:
    from tests.aws.conftest import Deployment

PATIENCE = 30.0  # s


def test_message_invisible_during_work_returns_when_abandoned(
    deployment: Deployment,
) -> None:
    """Its own time is over at once, and each heartbeat gives it a second more."""
    url = deployment.queue("compaction")
    client = deployment.client("sqs")
    client.send_message(QueueUrl=url, MessageBody="work")
    (message,) = client.receive_message(QueueUrl=url, VisibilityTimeout=0)["Messages"]
    arn = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    records = [{"receiptHandle": message["ReceiptHandle"], "eventSourceARN": arn}]

    def waits_for(*, hidden: int) -> bool:
        name = "ApproximateNumberOfMessagesNotVisible"
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            said = client.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"]
            if int(said[name]) == hidden:
                return True
            time.sleep(0.05)
        return False

    async def work() -> bool:
        async with kept_invisible(records, seconds=0.05):
            return await asyncio.to_thread(lambda: waits_for(hidden=1))

    assert waits_for(hidden=0)
    assert asyncio.run(work())
    assert waits_for(hidden=0)
