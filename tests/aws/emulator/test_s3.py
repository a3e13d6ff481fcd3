"""What the store and the event flow need of S3 and EventBridge."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from tests.support.aws.asking import ACCOUNT, ROLE, until
from tests.support.aws.asking import queue as asked_queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.aws.interpreters import Answering

    from flowbed.testing.aws import Emulator

BUCKET = "flowbed-emulator"
WAIT = 30.0  # s


@pytest.fixture(scope="module")
def s3(client: Callable[[str], Any]) -> Any:
    made = client("s3")
    made.create_bucket(Bucket=BUCKET)
    return made


@pytest.fixture(scope="module")
def queue(client: Callable[[str], Any]) -> tuple[str, str]:
    """Create a queue, and return its URL and its ARN."""
    sqs = client("sqs")
    url = sqs.create_queue(QueueName="emulator-events")["QueueUrl"]
    told = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return url, told["Attributes"]["QueueArn"]


def received(sqs: Any, url: str, number: int) -> list[Any]:
    """Receive so many messages, and delete them."""
    found: list[Any] = []
    deadline = time.monotonic() + WAIT
    while len(found) < number:
        assert time.monotonic() < deadline, found
        told = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        for message in told.get("Messages", ()):
            found.append(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return found


def code(call: Callable[..., Any], **parameters: Any) -> str:
    """Return the code with which a call is refused, "" where it is not."""
    try:
        call(Bucket=BUCKET, **parameters)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def test_conditions_of_writes_and_deletes_hold(s3: Any) -> None:
    assert code(s3.put_object, Key="a", Body=b"1", IfNoneMatch="*") == ""
    assert code(s3.put_object, Key="a", Body=b"2", IfNoneMatch="*") == "PreconditionFailed"
    etag = s3.head_object(Bucket=BUCKET, Key="a")["ETag"]
    assert code(s3.put_object, Key="a", Body=b"3", IfMatch='"other"') == "PreconditionFailed"
    assert code(s3.put_object, Key="gone", Body=b"3", IfMatch=etag) == "NoSuchKey"
    assert code(s3.delete_object, Key="a", IfMatch='"other"') == "PreconditionFailed"
    assert code(s3.put_object, Key="a", Body=b"4", IfMatch=etag) == ""
    etag = s3.head_object(Bucket=BUCKET, Key="a")["ETag"]
    assert code(s3.delete_object, Key="a", IfMatch=etag) == ""


def test_upload_in_parts_is_completed_conditionally(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="parts", Body=b"there")
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
    part = s3.upload_part(Bucket=BUCKET, Key="parts", UploadId=upload, PartNumber=1, Body=b"x")
    completed = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
    assert (
        code(
            s3.complete_multipart_upload,
            Key="parts",
            UploadId=upload,
            MultipartUpload=completed,
            IfNoneMatch="*",
        )
        == "PreconditionFailed"
    )


def test_of_writers_at_once_one_creates_the_object(s3: Any) -> None:
    def create(body: int) -> str:
        return code(s3.put_object, Key="race", Body=str(body).encode(), IfNoneMatch="*")

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(create, range(8)))
    assert outcomes.count("") == 1


def test_notification_of_a_queue_has_an_encoded_key_and_a_test_event(
    s3: Any, client: Callable[[str], Any], queue: tuple[str, str]
) -> None:
    url, arn = queue
    told = {
        "QueueConfigurations": [
            {
                "QueueArn": arn,
                "Events": ["s3:ObjectCreated:*"],
                "Filter": {"Key": {"FilterRules": [{"Name": "suffix", "Value": ".json"}]}},
            }
        ]
    }
    s3.put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration=told)
    s3.put_object(Bucket=BUCKET, Key="y=1/a b+c.json", Body=b"{}")
    s3.put_object(Bucket=BUCKET, Key="a.txt", Body=b"{}")
    test, created = received(client("sqs"), url, 2)
    assert test["Event"] == "s3:TestEvent"
    (record,) = created["Records"]
    assert record["eventName"] == "ObjectCreated:Put"
    assert record["s3"]["object"]["key"] == "y%3D1/a+b%2Bc.json"


def test_rule_with_wildcards_passes_on_batch_files_alone(
    s3: Any, client: Callable[[str], Any], queue: tuple[str, str]
) -> None:
    url, arn = queue
    s3.put_bucket_notification_configuration(
        Bucket=BUCKET, NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    keys = [{"wildcard": "*/chunked/*.json"}, {"wildcard": "*/chunked/*.json.zst"}]
    pattern = {
        "source": ["aws.s3"],
        "detail-type": ["Object Created"],
        "detail": {"bucket": {"name": [BUCKET]}, "object": {"key": keys}},
    }
    events = client("events")
    events.put_rule(Name="emulator-rule", EventPattern=json.dumps(pattern))
    events.put_targets(Rule="emulator-rule", Targets=[{"Id": "queue", "Arn": arn}])
    for key in ("s/delta/x.json", "s/chunked/a=1/b c.json", "plans/1/s/batch_x.json", "s/chunked/y.json.zst"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"{}")
    told = received(client("sqs"), url, 2)
    assert sorted(each["detail"]["object"]["key"] for each in told) == [
        "s/chunked/a=1/b c.json",
        "s/chunked/y.json.zst",
    ]
    assert {each["detail"]["reason"] for each in told} == {"PutObject"}


def test_rule_matching_event_calls_a_function_and_starts_a_machine(
    client: Callable[[str], Any], function: str, answering: Answering
) -> None:
    """Copies and uploads in parts are told of with their own reasons."""
    s3, events, states = client("s3"), client("events"), client("stepfunctions")
    s3.create_bucket(Bucket="emulator-reasons")
    s3.put_bucket_notification_configuration(
        Bucket="emulator-reasons", NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    machine = json.dumps({"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}})
    made = states.create_state_machine(name="emulator-told", definition=machine, roleArn=ROLE)
    pattern = {"source": ["aws.s3"], "detail": {"bucket": {"name": ["emulator-reasons"]}}}
    events.put_rule(Name="emulator-reasons", EventPattern=json.dumps(pattern))
    told = {
        "InputPathsMap": {"key": "$.detail.object.key", "reason": "$.detail.reason"},
        "InputTemplate": '{"said": "<key> by <reason>"}',
    }
    targets = [
        {"Id": "function", "Arn": function, "InputTransformer": told},
        {"Id": "machine", "Arn": made["stateMachineArn"], "RoleArn": ROLE},
    ]
    events.put_targets(Rule="emulator-reasons", Targets=targets)
    answering.answer = lambda *_: {}
    s3.put_object(Bucket="emulator-reasons", Key="a", Body=b"x")
    s3.copy_object(Bucket="emulator-reasons", Key="b", CopySource="emulator-reasons/a")
    upload = s3.create_multipart_upload(Bucket="emulator-reasons", Key="c")["UploadId"]
    part = s3.upload_part(Bucket="emulator-reasons", Key="c", UploadId=upload, PartNumber=1, Body=b"x")
    parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
    s3.complete_multipart_upload(Bucket="emulator-reasons", Key="c", UploadId=upload, MultipartUpload=parts)
    until(lambda: len(answering.calls) == 3)
    assert sorted(event["said"] for _, event in answering.calls) == [
        "a by PutObject", "b by CopyObject", "c by CompleteMultipartUpload",
    ]  # fmt: skip
    arn = made["stateMachineArn"]
    until(lambda: len(states.list_executions(stateMachineArn=arn)["executions"]) == 3)


def test_notification_calls_a_function_for_keys_of_a_prefix_and_suffix(
    client: Callable[[str], Any], function: str, answering: Answering
) -> None:
    s3 = client("s3")
    s3.create_bucket(Bucket="emulator-called")
    rules = [{"Name": "prefix", "Value": "in/"}, {"Name": "suffix", "Value": ".json"}]
    told = {
        "LambdaFunctionArn": function,
        "Events": ["s3:ObjectCreated:*"],
        "Filter": {"Key": {"FilterRules": rules}},
    }
    s3.put_bucket_notification_configuration(
        Bucket="emulator-called", NotificationConfiguration={"LambdaFunctionConfigurations": [told]}
    )
    answering.answer = lambda *_: {}
    for key in ("in/a.txt", "out/a.json", "in/a.json"):
        s3.put_object(Bucket="emulator-called", Key=key, Body=b"{}")
    called = [("told", "in/a.json")]

    def keys() -> list[tuple[str, str]]:
        return [
            (name, record["s3"]["object"]["key"])
            for name, event in answering.calls
            for record in event.get("Records", ())
        ]

    until(lambda: keys() == called)


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ({"prefix": "a/"}, True),
        ({"prefix": "b/"}, False),
        ({"suffix": ".json"}, True),
        ({"wildcard": "a/*.txt"}, False),
        ({"anything-but": {"wildcard": "*/b.*"}}, False),
        ({"anything-but": {"wildcard": "*/c.*"}}, True),
    ],
)
def test_pattern_matches_as_it_says(
    client: Callable[[str], Any], pattern: dict[str, Any], matched: bool
) -> None:
    event = {
        "id": "1",
        "source": "aws.s3",
        "detail-type": "Object Created",
        "account": "1",
        "time": "2026-11-30T00:00:00Z",
        "region": "us-east-1",
        "resources": [],
        "detail": {"key": "a/b.json"},
    }
    told = client("events").test_event_pattern(
        EventPattern=json.dumps({"detail": {"key": [pattern]}}), Event=json.dumps(event)
    )
    assert told["Result"] is matched


def test_schedules_are_kept_as_they_are_written(client: Callable[[str], Any]) -> None:
    scheduler = client("scheduler")
    for place, expression in enumerate(
        ("rate(15 minutes)", "cron(0 0/6 * * ? *)", "at(2099-01-01T00:00:00)")
    ):
        scheduler.create_schedule(
            Name=f"emulator-{place}",
            ScheduleExpression=expression,
            FlexibleTimeWindow={"Mode": "OFF"},
            Target={"Arn": "arn:aws:lambda:us-east-1:1:function:x", "RoleArn": "arn:aws:iam::1:role/x"},
        )
        assert scheduler.get_schedule(Name=f"emulator-{place}")["ScheduleExpression"] == expression


class TestDifferences:
    """Where the emulator is not as AWS: when one of these fails it has learned it, and what bridges it can go."""

    def test_regions_are_not_apart(self, s3: Any, aws: Emulator) -> None:
        """AWS answers with a redirection to the bucket's own."""
        elsewhere = boto3.client("s3", **{**aws.client(account=ACCOUNT), "region_name": "eu-west-1"})
        s3.put_object(Bucket=BUCKET, Key="near", Body=b"far")
        assert elsewhere.get_object(Bucket=BUCKET, Key="near")["Body"].read() == b"far"

    def test_event_that_a_rule_cannot_deliver_is_in_no_queue_of_dead_letters(
        self, client: Callable[[str], Any]
    ) -> None:
        """AWS tries for a day, and then sends it there; what lost its event is found by the schedules."""
        sqs, events = client("sqs"), client("events")
        dead, dead_arn = asked_queue(sqs, "emulator-undelivered-dead")
        url, arn = asked_queue(sqs, "emulator-delivered")
        events.put_rule(Name="emulator-lost", EventPattern='{"source": ["told"]}')
        lost = {
            "Id": "lost",
            "Arn": arn.replace("delivered", "nowhere"),
            "DeadLetterConfig": {"Arn": dead_arn},
        }
        events.put_targets(Rule="emulator-lost", Targets=[lost, {"Id": "queue", "Arn": arn}])
        events.put_events(Entries=[{"Source": "told", "DetailType": "x", "Detail": "{}"}])
        received(sqs, url, 1)
        assert "Messages" not in sqs.receive_message(QueueUrl=dead)
