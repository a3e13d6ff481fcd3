"""SQS: the messages that tell of runs to commit, and messages that are being worked on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from boto3.session import Session
from botocore.exceptions import BotoCoreError, ClientError

from flowbed.errors import Misconfigured, Transient
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from flowbed.aws.messages import RunMessage

# Messages of one request.
TOGETHER = 10
# A message that is worked on stays invisible for so many heartbeats: two may fail.
BEATS = 3
FIFO = ".fifo"
# What SQS takes as the id of a group.
GROUP = re.compile(r"[!-~]{1,128}")


async def send(messages: Sequence[RunMessage], queue: str) -> dict[int, str]:
    """Send messages; return why some were not sent, by position.

    Raises:
        Misconfigured: no queue is named, or it cannot be used.
        Transient: it cannot be reached.
    """
    if not queue:
        raise Misconfigured("set COMPACTION_QUEUE_URL to the URL of the queue that compaction reads")
    return await asyncio.to_thread(_send, messages, queue)


def _send(messages: Sequence[RunMessage], queue: str) -> dict[int, str]:
    client = Session().client("sqs", region_name=_region_of(queue))
    failed: dict[int, str] = {}
    for start in range(0, len(messages), TOGETHER):
        entries = [
            _entry(start + place, message, fifo=queue.endswith(FIFO))
            for place, message in enumerate(messages[start : start + TOGETHER])
        ]
        try:
            answer = client.send_message_batch(QueueUrl=queue, Entries=entries)
        except ClientError as error:
            raise _translated(error, queue) from error
        except BotoCoreError as error:
            raise Transient(f"queue {queue} cannot be reached: {error}") from error
        # It answers 200 with failures inside.
        failed |= {int(each["Id"]): each.get("Message") or each["Code"] for each in answer.get("Failed", ())}
    return failed


def _entry(place: int, message: RunMessage, *, fifo: bool) -> dict[str, Any]:
    body = message.body()
    told = {
        "source": body["source"],
        "entity_type": body["entity_type"],
        "event_name": message.event_name,
        "collection": message.collection,
    }
    entry: dict[str, Any] = {
        "Id": str(place),
        "MessageBody": json.dumps(body),
        "MessageAttributes": {
            name: {"DataType": "String", "StringValue": value} for name, value in told.items()
        },
    }
    if fifo:
        entry["MessageGroupId"] = _group(str(message.entity.get("image_id") or ""), message.collection)
        entry["MessageDeduplicationId"] = f"{message.run}:{message.collection}"
    return entry


def _group(image: str, collection: str) -> str:
    """Return the group whose messages keep their order; an image whose id SQS would refuse is named by its hash."""
    group = ":".join(filter(None, ("COMPACTION_RUN", image, collection)))
    if GROUP.fullmatch(group):
        return group
    hashed = hashlib.sha256(image.encode(errors="surrogatepass")).hexdigest()[:32]
    return f"COMPACTION_RUN:{hashed}:{collection}"


@asynccontextmanager
async def kept_invisible(records: Sequence[Mapping[str, Any]], *, seconds: float) -> AsyncIterator[None]:
    """Keep the messages of SQS records invisible while the context is open, renewed every so many seconds."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await asyncio.to_thread(_extend, records, max(1, round(BEATS * seconds)))
            except (ClientError, BotoCoreError) as error:  # the message may come twice, which does no harm
                log.warning("messages could not be kept invisible: %s", error)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _extend(records: Sequence[Mapping[str, Any]], seconds: int) -> None:
    by_queue: dict[str, list[str]] = {}
    for record in records:
        by_queue.setdefault(record.get("eventSourceARN", ""), []).append(record.get("receiptHandle", ""))
    for arn, handles in by_queue.items():
        *_, region, account, name = arn.split(":")
        client = Session().client("sqs", region_name=region or None)
        url = client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
        for start in range(0, len(handles), TOGETHER):
            client.change_message_visibility_batch(
                QueueUrl=url,
                Entries=[
                    {"Id": str(place), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
                    for place, handle in enumerate(handles[start : start + TOGETHER])
                ],
            )


def _translated(error: ClientError, queue: str) -> Exception:
    code = error.response["Error"]["Code"]
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    if status >= 500 or "Throttl" in code:  # noqa: PLR2004 - a server's error
        return Transient(f"queue {queue} takes no messages now: {code}")
    return Misconfigured(
        f"queue {queue} refuses messages: {code}; set COMPACTION_QUEUE_URL to a queue that the function's role may send"
        " to"
    )


def _region_of(queue: str) -> str | None:
    """Return the region in a queue's URL (https://sqs.REGION.amazonaws.com/...), None for another address."""
    host = queue.partition("://")[2].partition("/")[0]
    parts = host.split(".")
    return parts[1] if parts[0] == "sqs" and "amazonaws" in host else None
