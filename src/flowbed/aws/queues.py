"""SQS: the messages that tell of runs to commit, and messages that are being worked on."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from flowbed.errors import Misconfigured, Transient
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

# Messages of one request.
TOGETHER = 10
# A message that is worked on stays invisible for so many heartbeats: two may fail.
BEATS = 3
FIFO = ".fifo"


def run_message(entity: Mapping[str, Any], *, event_name: str, record: str, at: int) -> dict[str, Any]:
    """Return the body of the message about a run, in the shape of existing compactors; `at` is in µs since 1970."""
    return {
        "source": "dynamodb_stream",
        "entity_type": "COMPACTION_RUN",
        "entity_data": dict(entity),
        "changes": {},
        "event_name": event_name,
        "timestamp": datetime.fromtimestamp(at / 1e6, UTC).isoformat(),
        "stream_record_id": record,
        "aws_region": _region(),
    }


def run_entity(run: str, collection: str, key: str) -> dict[str, Any]:
    """Return what the message of one of Flowbed's runs says of it."""
    prefix = f"{key.rpartition('/')[0]}/"
    return {"run_id": run, "collection": collection, "delta_s3_prefix": prefix}


async def announce_runs(runs: Iterable[Mapping[str, Any]], queue: str, *, event_name: str, at: int) -> None:
    """Tell the queue of compaction of runs that were recorded.

    Raises:
        Misconfigured: no queue is named, or it cannot be used.
        Transient: a message could not be sent.
    """
    messages = [
        (
            run_message(
                run_entity(run["run"], run["collection"], run["key"]),
                event_name=event_name,
                record=run["run"],
                at=at,
            ),
            run["collection"],
        )
        for run in runs
    ]
    if failed := await send(messages, queue):
        raise Transient(
            f"{len(failed)} of {len(messages)} messages were not sent to {queue}: {failed[min(failed)]}"
        )


async def send(messages: Sequence[tuple[Mapping[str, Any], str]], queue: str) -> dict[int, str]:
    """Send messages, each with its collection; return why some were not sent, by position.

    Raises:
        Misconfigured: no queue is named, or it cannot be used.
        Transient: it cannot be reached.
    """
    if not queue:
        raise Misconfigured("set COMPACTION_QUEUE_URL to the URL of the queue that compaction reads")
    return await asyncio.to_thread(_send, messages, queue)


def _send(messages: Sequence[tuple[Mapping[str, Any], str]], queue: str) -> dict[int, str]:
    client = boto3.client("sqs", region_name=_region_of(queue))
    failed: dict[int, str] = {}
    for start in range(0, len(messages), TOGETHER):
        entries = [
            _entry(start + place, body, collection, fifo=queue.endswith(FIFO))
            for place, (body, collection) in enumerate(messages[start : start + TOGETHER])
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


def _entry(place: int, body: Mapping[str, Any], collection: str, *, fifo: bool) -> dict[str, Any]:
    told = {
        "source": body["source"],
        "entity_type": body["entity_type"],
        "event_name": body["event_name"],
        "collection": collection,
    }
    entry: dict[str, Any] = {
        "Id": str(place),
        "MessageBody": json.dumps(body),
        "MessageAttributes": {
            name: {"DataType": "String", "StringValue": value} for name, value in told.items() if value
        },
    }
    if fifo:
        image = body["entity_data"].get("image_id", "")
        entry["MessageGroupId"] = ":".join(filter(None, ("COMPACTION_RUN", image, collection)))
        entry["MessageDeduplicationId"] = f"{body['entity_data']['run_id']}:{collection}"
    return entry


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
        client = boto3.client("sqs", region_name=region or None)
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


def _region() -> str:
    return boto3.session.Session().region_name or ""


def _region_of(queue: str) -> str | None:
    """Return the region in a queue's URL (https://sqs.REGION.amazonaws.com/...), None for another address."""
    host = queue.partition("://")[2].partition("/")[0]
    parts = host.split(".")
    return parts[1] if parts[0] == "sqs" and "amazonaws" in host else None
