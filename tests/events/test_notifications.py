"""Notifications of object stores and queues, in the shapes that vendors send."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.errors import Rejected
from flowbed.events.notifications import Created, Notifications, read_event

if TYPE_CHECKING:
    from pathlib import Path

DAY = "slack/chunked/year=2026/month=01/day=06/batch_0a1b2c.json"
CODED = DAY.replace("=", "%3D")


def read(value: Any) -> Notifications:
    return read_event(json.dumps(value).encode())


def s3(key: str = CODED, name: str = "ObjectCreated:Put", bucket: str = "b") -> dict[str, Any]:
    """Return a record of S3."""
    return {"eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}


def event_bridge(key: str = DAY, kind: str = "Object Created") -> dict[str, Any]:
    """Return an event of EventBridge."""
    detail = {"bucket": {"name": "b"}, "object": {"key": key}}
    return {"detail-type": kind, "source": "aws.s3", "detail": detail}


def test_vendors_samples_are_read_or_refused_by_name(data: Path) -> None:
    """Every real notification is read, and a message that is none is refused with its place."""
    samples = {path.stem: path.read_bytes() for path in (data / "api-samples" / "aws").glob("*.json")}
    first = {}
    for name, body in samples.items():
        try:
            told = read_event(body)
            first[name] = told.created[0].keys[0] if told.created else next(iter(told.ignored))
        except Rejected as error:
            first[name] = str(error)
    assert first.pop("sqsEvent").startswith("event.Records[0]: it is 'Test message.'; S3, EventBridge")
    assert "its shape is unknown (its fields: message, username)" in first.pop("snsSqsEvent")
    assert first == {
        "invented.minio-webhook": "slack/chunked/year=2026/batch_0a1b2c.json",
        "invented.r2-queue-body": DAY,
        "invented.s3-batch-key": DAY,
        "invented.s3-plus-and-kana-key": "docs/red flower+日本.txt",
        "invented.s3-test-event": "a test event",
        "s3Event": "b21b84d653bb07b05b1e6b33684dc11b",
        "s3EventBridgeNotificationObjectCreatedEvent": "IMG_m7fzo3.jpg",
        "s3EventBridgeNotificationObjectDeletedEvent": "Object Deleted, not a new object",
        "s3EventBridgeNotificationObjectExpiredEvent": "Object Deleted, not a new object",
        "s3EventDecodedKey": "Happy Face.jpg",
        "s3EventDeleteObject": "ObjectRemoved:Delete, not a new object",
        "s3SqsEvent": "test.pdf",
    }


@pytest.mark.parametrize(
    "event",
    [
        s3(),
        {"Records": [s3()]},
        [s3()],
        event_bridge(),
        {"Records": [{"messageId": "", "body": json.dumps({"Records": [s3()]})}]},
        {"Records": [{"messageId": "", "body": json.dumps(event_bridge())}]},
        {"Messages": [{"MessageId": "", "Body": json.dumps({"Records": [s3()]})}]},
        {"Type": "Notification", "Message": json.dumps({"Records": [s3()]})},
        {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": json.dumps({"Records": [s3()]})}}]},
        {
            "Records": [
                {"body": json.dumps({"Type": "Notification", "Message": json.dumps({"Records": [s3()]})})}
            ]
        },
        {"EventName": "s3:ObjectCreated:Put", "Key": f"b/{DAY}"},
        {"Records": [s3(CODED.replace("/", "%2F"), "s3:ObjectCreated:Put")]},
        {"messages": [{"body": {"action": "PutObject", "bucket": "b", "object": {"key": DAY}}}]},
        {
            "messages": [
                {
                    "body": base64.b64encode(
                        json.dumps({"action": "CopyObject", "bucket": "b", "object": {"key": DAY}}).encode()
                    ).decode()
                }
            ]
        },
    ],
)
def test_event_every_wrapping_gives_the_same_key(event: Any) -> None:
    (told,) = read(event).created
    assert (told.bucket, told.keys[0]) == ("b", DAY)


def test_event_raw_key_of_a_record_is_the_second_candidate() -> None:
    """Ceph sends raw keys where S3 sends coded ones."""
    assert read(s3("a+b%20c")).created == [Created(bucket="b", keys=("a b c", "a+b%20c"))]


def test_event_bad_message_does_not_stop_the_others() -> None:
    """A bad record or message is a problem with its place and its message; the others are read."""
    told = read(
        {
            "Records": [
                {"messageId": "m1", "body": "{broken"},
                {"messageId": "m2", "body": json.dumps({"Records": [s3(), {"s3": {}}, 7]})},
                {"messageId": "m3", "body": json.dumps({"Event": "s3:TestEvent"})},
            ]
        }
    )
    assert [(each.keys[0], each.message) for each in told.created] == [(DAY, "m2")]
    assert [problem.subject for problem in told.problems] == [
        "event.Records[0]",
        "event.Records[1].Records[1]",
        "event.Records[1].Records[2]",
    ]
    assert told.failed == ["m1", "m2", "m2"]
    assert told.ignored == {"a test event": 1}


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({}, "its fields: none"),
        ({"hello": 1}, "its fields: hello"),
        ({"Type": "SubscriptionConfirmation", "SubscribeURL": "https://x"}, "open the SubscribeURL"),
        (json.loads("[" * 9 + "]" * 9), "too deeply"),
        ("text", "it is 'text'"),
        ({"s3": {"bucket": 1}}, "it has no bucket and object"),
        (s3(""), "names no object"),
    ],
)
def test_event_of_unknown_shape_is_refused(event: Any, said: str) -> None:
    with pytest.raises(Rejected, match=said):
        read(event)


def test_event_that_is_not_json_is_refused() -> None:
    with pytest.raises(Rejected, match="the event is not JSON"):
        read_event(b"\xff{")
