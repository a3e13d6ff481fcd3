"""What the event flow needs of SQS, of queues and streams that call functions."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from tests.support.aws.asking import WAIT, queue, until
from tests.support.aws.interpreters import Exited

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.aws.interpreters import Answering


def test_fifo_queue_keeps_the_order_of_a_group_and_drops_duplicates(client: Callable[[str], Any]) -> None:
    sqs = client("sqs")
    url, _ = queue(sqs, "emulator.fifo", FifoQueue="true")
    for body, group, id_ in (("1", "a", "x"), ("2", "a", "y"), ("2 again", "a", "y"), ("3", "b", "z")):
        sqs.send_message(QueueUrl=url, MessageBody=body, MessageGroupId=group, MessageDeduplicationId=id_)

    def receive(number: int) -> list[dict[str, Any]]:
        found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=number, VisibilityTimeout=30)
        return list(found.get("Messages", ()))

    (first,) = receive(1)
    assert [each["Body"] for each in [first, *receive(10)]] == ["1", "3"]  # the group waits for its first
    sqs.delete_message(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"])
    assert [each["Body"] for each in receive(10)] == ["2"]


def test_message_is_invisible_as_long_as_said_and_then_a_dead_letter(client: Callable[[str], Any]) -> None:
    sqs = client("sqs")
    dead, arn = queue(sqs, "emulator-dead")
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "2"})
    url, _ = queue(sqs, "emulator-tried", RedrivePolicy=policy)
    sqs.send_message(QueueUrl=url, MessageBody="poison")
    for _ in range(2):
        (message,) = sqs.receive_message(QueueUrl=url, VisibilityTimeout=30)["Messages"]
        assert "Messages" not in sqs.receive_message(QueueUrl=url)
        handle = message["ReceiptHandle"]
        sqs.change_message_visibility_batch(
            QueueUrl=url, Entries=[{"Id": "0", "ReceiptHandle": handle, "VisibilityTimeout": 0}]
        )
    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    (letter,) = sqs.receive_message(QueueUrl=dead)["Messages"]
    assert letter["Body"] == "poison"


def test_mapping_of_a_queue_sends_again_what_failed(
    client: Callable[[str], Any], function: str, answering: Answering
) -> None:
    sqs = client("sqs")
    url, arn = queue(sqs, "emulator-mapped", VisibilityTimeout="1")
    refused: list[str] = []

    def answer(_: str, event: Any) -> Any:
        failed = [each["messageId"] for each in event["Records"] if each["body"] == "bad" and not refused]
        refused.extend(failed)
        return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}

    answering.answer = answer
    for body in ("good", "bad"):
        sqs.send_message(QueueUrl=url, MessageBody=body)
    mapping = client("lambda").create_event_source_mapping(
        FunctionName=function,
        EventSourceArn=arn,
        BatchSize=10,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )

    def bodies() -> list[str]:
        return [each["body"] for _, event in answering.calls for each in event["Records"]]

    until(lambda: len(bodies()) == 3)
    client("lambda").delete_event_source_mapping(UUID=mapping["UUID"])
    assert sorted(bodies()) == ["bad", "bad", "good"]


def test_mapping_of_a_stream_passes_on_what_its_filter_names(
    client: Callable[[str], Any], function: str, answering: Answering
) -> None:
    dynamodb = client("dynamodb")
    dynamodb.create_table(
        TableName="emulator-mapped",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "PK", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "PK", "KeyType": "HASH"}],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )
    arn = dynamodb.describe_table(TableName="emulator-mapped")["Table"]["LatestStreamArn"]
    answering.answer = lambda *_: {"batchItemFailures": []}
    pattern = json.dumps({"dynamodb": {"NewImage": {"record": {"S": ["RunRow"]}}}})
    mapping = client("lambda").create_event_source_mapping(
        FunctionName=function,
        EventSourceArn=arn,
        StartingPosition="TRIM_HORIZON",
        FilterCriteria={"Filters": [{"Pattern": pattern}]},
    )
    for name in ("ChunkRow", "RunRow"):
        item = {"PK": {"S": name}, "record": {"S": name}}
        dynamodb.put_item(TableName="emulator-mapped", Item=item)
    until(lambda: bool(answering.calls))
    client("lambda").delete_event_source_mapping(UUID=mapping["UUID"])
    ((_, event),) = answering.calls
    assert [each["dynamodb"]["Keys"]["PK"]["S"] for each in event["Records"]] == ["RunRow"]
    assert event["Records"][0]["eventSource"] == "aws:dynamodb"


def test_message_of_a_megabyte_arrives_at_whoever_waits_for_it(client: Callable[[str], Any]) -> None:
    sqs = client("sqs")
    url, _ = queue(sqs, "emulator-long-poll")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(sqs.receive_message, QueueUrl=url, WaitTimeSeconds=20)
        sqs.send_message(QueueUrl=url, MessageBody="x" * (1 << 20))
        (message,) = waiting.result(WAIT)["Messages"]
    assert len(message["Body"]) == 1 << 20
    with pytest.raises(ClientError):
        sqs.send_message(QueueUrl=url, MessageBody="x" * ((1 << 20) + 1))


def test_mapping_fifo_queue_failed_or_killed_messages_are_sent_again(
    client: Callable[[str], Any], function: str, answering: Answering
) -> None:
    """In the order of the group."""
    sqs = client("sqs")
    url, arn = queue(sqs, "emulator-mapped.fifo", FifoQueue="true", VisibilityTimeout="1")
    seen: list[str] = []

    def answer(_: str, event: Any) -> Any:
        seen.extend(each["body"] for each in event["Records"])
        if len(seen) == 1:
            raise Exited
        refused = [each["messageId"] for each in event["Records"] if len(seen) == 2]
        return {"batchItemFailures": [{"itemIdentifier": each} for each in refused]}

    answering.answer = answer
    for body in "ab":
        sqs.send_message(QueueUrl=url, MessageBody=body, MessageGroupId="g", MessageDeduplicationId=body)
    mapping = client("lambda").create_event_source_mapping(
        FunctionName=function,
        EventSourceArn=arn,
        BatchSize=1,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )
    until(lambda: len(seen) >= 4)
    client("lambda").delete_event_source_mapping(UUID=mapping["UUID"])
    assert seen[:4] == ["a", "a", "a", "b"]


class TestDifferences:
    """Where the emulator is not as AWS: when one of these fails it has learned it, and what bridges it can go."""

    def test_stream_failing_function_repeats_the_whole_batch_for_ever(
        self, client: Callable[[str], Any], function: str, answering: Answering
    ) -> None:
        """AWS would bring the first record again, and the second once more only: `test_bad_hour.py` does that."""
        dynamodb = client("dynamodb")
        dynamodb.create_table(
            TableName="emulator-failing",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "PK", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "PK", "KeyType": "HASH"}],
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        )
        arn = dynamodb.describe_table(TableName="emulator-failing")["Table"]["LatestStreamArn"]

        def answer(_: str, event: Any) -> Any:
            (record,) = event["Records"]
            if record["dynamodb"]["Keys"]["PK"]["S"] == "1":
                return {"batchItemFailures": [{"itemIdentifier": record["dynamodb"]["SequenceNumber"]}]}
            raise Rejected("poison")

        answering.answer = answer
        lost, lost_arn = queue(client("sqs"), "emulator-lost")
        mapping = client("lambda").create_event_source_mapping(
            FunctionName=function,
            EventSourceArn=arn,
            StartingPosition="TRIM_HORIZON",
            MaximumRetryAttempts=1,
            BisectBatchOnFunctionError=True,
            DestinationConfig={"OnFailure": {"Destination": lost_arn}},
            FunctionResponseTypes=["ReportBatchItemFailures"],
        )
        dynamodb.put_item(TableName="emulator-failing", Item={"PK": {"S": "1"}})
        until(lambda: bool(answering.calls))
        dynamodb.put_item(TableName="emulator-failing", Item={"PK": {"S": "2"}})
        until(lambda: len(answering.calls) >= 4)
        client("lambda").delete_event_source_mapping(UUID=mapping["UUID"])
        brought = [
            each["dynamodb"]["Keys"]["PK"]["S"] for _, event in answering.calls for each in event["Records"]
        ]
        assert brought[:4] == ["1", "2", "2", "2"]
        assert "Messages" not in client("sqs").receive_message(QueueUrl=lost)

    def test_messages_of_dead_letters_cannot_be_moved_back(self, client: Callable[[str], Any]) -> None:
        """On AWS an operator moves them with `start-message-move-task`."""
        with pytest.raises(ClientError, match="StartMessageMoveTask"):
            client("sqs").start_message_move_task(
                SourceArn="arn:aws:sqs:us-east-1:000000000000:emulator-dead"
            )
