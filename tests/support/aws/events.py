"""Events as Lambda gets them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote_plus


def sqs_event(messages: list[dict[str, Any]], queue: str = "compaction") -> dict[str, Any]:
    """Return the event in which Lambda gets messages of a queue."""
    return {
        "Records": [
            {
                "messageId": each.get("MessageId", f"m{place}"),
                "receiptHandle": each.get("ReceiptHandle", "EXAMPLE"),
                "body": each["Body"],
                "attributes": {"ApproximateReceiveCount": str(each.get("Receives", 1))},
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{queue}",
                "awsRegion": "us-east-1",
            }
            for place, each in enumerate(messages)
        ]
    }


def s3_event(bucket: str, *keys: str) -> dict[str, Any]:
    """Return a notification of S3 about new objects."""
    return {
        "Records": [
            {
                "eventSource": "aws:s3",
                "eventName": "ObjectCreated:Put",
                "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/")}},
            }
            for key in keys
        ]
    }


def eventbridge_event(bucket: str, key: str) -> dict[str, Any]:
    """Return an event of EventBridge about a new object."""
    return {
        "version": "0",
        "source": "aws.s3",
        "detail-type": "Object Created",
        "region": "us-east-1",
        "detail": {"bucket": {"name": bucket}, "object": {"key": key, "size": 5}, "reason": "PutObject"},
    }


def run_record(
    run: str, collection: str, *, sequence: int = 1, key: str = "", old: str = ""
) -> dict[str, Any]:
    """Return the record in which the stream of the ledger's table tells of a pending run; `old` was its state."""
    fields = {
        "record": "RunRow",
        "id": run,
        "collection": collection,
        "key": key or f"{collection}/delta/{run}/delta.arrow",
        "state": "pending",
    }
    keys = {"PK": {"S": f"R#{run}"}, "SK": {"S": "ROW"}}
    images = {"NewImage": {**keys, **{name: {"S": value} for name, value in fields.items()}}}
    if old:
        images["OldImage"] = {**images["NewImage"], "state": {"S": old}}
    return {
        "eventName": "MODIFY" if old else "INSERT",
        "eventID": str(sequence),
        "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:000000000000:table/flowbed/stream/2026-11-30T00:00:00.000",
        "dynamodb": {"SequenceNumber": str(sequence), "Keys": keys, **images},
    }
