"""What object stores and queues send about new objects, read into one form.

Accepted as they are: S3 notifications, EventBridge, Cloudflare R2 and MinIO, each also inside messages of SQS (as a
Lambda or ReceiveMessage gets them) and SNS, several levels deep, and lists of any of these. Shapes are those of AWS's,
MinIO's and Cloudflare's documentation.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import orjson

from flowbed.errors import Rejected
from flowbed.records import Problem
from flowbed.records.values import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    Part = tuple[str, str, Any]  # what to call it, the id of its message, its body

# A notification in SNS in SQS in a list is four; deeper ones are no notification.
DEEPEST = 6
# Beginnings of what happened, of S3 and MinIO, EventBridge, and R2: the object is there now.
CREATED = ("ObjectCreated", "Object Created", "PutObject", "CopyObject", "CompleteMultipartUpload")
# The kind of dead letters about messages of a queue that no call can work on; their owner is the queue.
MESSAGE = "message"
# And of those about records of a table's stream; their owner is the table.
RECORD = "record"
KNOWN = "S3, EventBridge, SQS, SNS, MinIO and R2 notifications"


@dataclass(frozen=True, kw_only=True)
class Created:
    """An object that was written: its bucket, and the keys that may be meant, the likeliest first.

    `message` is the id of the queue's message that told of it, "" without a queue.
    """

    bucket: str
    keys: tuple[str, ...]
    message: str = ""


@dataclass
class Notifications:
    """What one event told: objects that were written, and what it had besides.

    `ignored` counts by reason what needs no work; `problems` are the parts that could not be read, and `failed` the
    messages that had them.
    """

    created: list[Created] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def ignore(self, reason: str) -> None:
        """Count a part that needs no work."""
        self.ignored[reason] = self.ignored.get(reason, 0) + 1


def read_event(body: bytes) -> Notifications:
    """Read an event; a part that cannot be read does not stop the others.

    Raises:
        Rejected: it is not JSON, or nothing in it has a known shape.
    """
    try:
        said = orjson.loads(body)
    except ValueError as error:
        raise Rejected(f"the event is not JSON: {error}; send the notification as it came") from error
    found = Notifications()
    _read(said, found, message="", depth=0)
    if found.problems and not (found.created or found.ignored):
        first = found.problems[0]
        raise Rejected(f"{first.subject}: {first.reason}")
    return found


def _read(said: Any, found: Notifications, *, message: str, depth: int, name: str = "event") -> None:
    """Read one value, and what it wraps; `name` says which part of the event it is."""
    try:
        parts = list(_parts(said, name, depth))
        if not parts and said in ([], {"Records": []}):
            found.ignore("empty")
        elif not parts:
            _read_one(said, found, message=message)
    except Rejected as error:
        found.problems.append(Problem(subject=name, reason=str(error)))
        if message:
            found.failed.append(message)
        return
    for part, id_, body in parts:
        _read(_opened(body), found, message=message or id_, depth=depth + 1, name=part)


def _parts(said: Any, name: str, depth: int) -> Iterator[Part]:
    """Iterate over what a value wraps; nothing for a notification.

    Raises:
        Rejected: it is none, and wraps nothing that could be one.
    """
    if depth > DEEPEST:
        raise Rejected("it wraps messages too deeply")
    if isinstance(said, list):
        for number, each in enumerate(said):
            yield f"{name}[{number}]", "", each
    elif not isinstance(said, dict):
        raise Rejected(f"it is {shown(said)}; {KNOWN} are known")
    elif isinstance(said.get("Records"), list):
        for number, each in enumerate(said["Records"]):
            yield (f"{name}.Records[{number}]", *_record(each))
    elif said.get("Type") == "Notification" and "Message" in said:  # SNS
        yield f"{name}.Message", "", said["Message"]
    else:
        yield from _messages(said, name)


def _record(each: Any) -> tuple[str, Any]:
    """Return the id and the body of a message of SQS or SNS, as a Lambda gets it; other records are their own body."""
    if isinstance(each, dict) and "body" in each:
        return _text(each.get("messageId")), each["body"]
    if isinstance(each, dict) and isinstance(each.get("Sns"), dict):
        return _text(each["Sns"].get("MessageId")), each["Sns"].get("Message")
    return "", each


def _messages(said: dict[str, Any], name: str) -> Iterator[Part]:
    """Iterate over the answer to ReceiveMessage, or to a pull from a queue of Cloudflare."""
    for outer, inner, id_ in (("Messages", "Body", "MessageId"), ("messages", "body", "id")):
        messages = said.get(outer)
        for number, each in enumerate(messages if isinstance(messages, list) else ()):
            held = each if isinstance(each, dict) else {}
            yield f"{name}.{outer}[{number}]", _text(held.get(id_)), held.get(inner, each)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _opened(body: Any) -> Any:
    """Return the body of a message parsed: it may be an object, its JSON, or that in base64."""
    if not isinstance(body, str):
        return body
    try:
        return orjson.loads(body)
    except ValueError:
        pass
    try:
        return orjson.loads(base64.b64decode(body, validate=True))
    except (ValueError, binascii.Error):
        return body


def _read_one(said: dict[str, Any], found: Notifications, *, message: str) -> None:
    """Read one notification.

    Raises:
        Rejected: its shape is unknown, or it names no object.
    """
    if said.get("Event") == "s3:TestEvent":
        found.ignore("a test event")
        return
    if said.get("Type") == "SubscriptionConfirmation":
        raise Rejected(
            "it asks to confirm a subscription of SNS: open the SubscribeURL in it, or send the topic through a queue"
        )
    kind, bucket, keys = _named(said)
    if not kind.startswith(CREATED):
        found.ignore(f"{kind[:100] or 'event without a name'}, not a new object")
    elif not keys[0]:
        raise Rejected("it names no object")
    else:
        found.created.append(Created(bucket=bucket, keys=tuple(dict.fromkeys(keys)), message=message))


def _named(said: dict[str, Any]) -> tuple[str, str, tuple[str, str]]:
    """Return what happened, and the bucket and the possible keys of its object.

    Raises:
        Rejected: the shape is unknown.
    """
    if isinstance(
        said.get("s3"), dict
    ):  # a record of S3 or MinIO with a coded key, or of Ceph with a raw one
        bucket, key = _place(said["s3"])
        return _text(said.get("eventName")).removeprefix("s3:"), bucket, (unquote_plus(key), key)
    if isinstance(said.get("detail"), dict) and said.get("source") == "aws.s3":  # EventBridge, with a raw key
        bucket, key = _place(said["detail"])
        return _text(said.get("detail-type")), bucket, (key, unquote_plus(key))
    if isinstance(said.get("object"), dict) and "action" in said:  # Cloudflare R2, with a raw key
        key = _text(said["object"].get("key"))
        return _text(said["action"]), _text(said.get("bucket")), (key, unquote_plus(key))
    if "EventName" in said and isinstance(said.get("Key"), str):  # MinIO's outer object without records
        bucket, _, key = said["Key"].partition("/")
        return _text(said["EventName"]).removeprefix("s3:"), bucket, (key, unquote_plus(key))
    fields = ", ".join(sorted(said)[:8])
    raise Rejected(f"its shape is unknown (its fields: {fields[:200] or 'none'}); {KNOWN} are known")


def _place(said: dict[str, Any]) -> tuple[str, str]:
    bucket, object_ = said.get("bucket"), said.get("object")
    if not isinstance(bucket, dict) or not isinstance(object_, dict):
        raise Rejected("it has no bucket and object")
    return _text(bucket.get("name")), _text(object_.get("key"))
