"""What the machines need of Step Functions."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from tests.support.aws.asking import ROLE, executed, queue, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.aws.interpreters import Answering


def test_machine_has_branches_intrinsics_and_services_as_tasks(client: Callable[[str], Any]) -> None:
    url, _ = queue(client("sqs"), "emulator-told")
    named = {"Type": "Pass", "Parameters": {"name.$": "States.Format('{}-{}', $.a, $.b)"}, "End": True}
    sending = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage",
        "Parameters": {"QueueUrl": url, "MessageBody.$": "$[0].name"},
        "End": True,
    }
    states = {
        "Both": {
            "Type": "Parallel",
            "Branches": [
                {"StartAt": "Name", "States": {"Name": named}},
                {"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 0, "End": True}}},
            ],
            "Next": "Send",
        },
        "Send": sending,
    }
    ended = executed(
        client("stepfunctions"), "branches", {"StartAt": "Both", "States": states}, input='{"a": 1, "b": 2}'
    )
    assert ended["status"] == "SUCCEEDED", ended
    (message,) = client("sqs").receive_message(QueueUrl=url)["Messages"]
    assert message["Body"] == "1-2"


def test_machine_in_jsonata_computes_and_keeps_variables(client: Callable[[str], Any]) -> None:
    definition = {
        "QueryLanguage": "JSONata",
        "StartAt": "Sum",
        "States": {
            "Sum": {
                "Type": "Pass",
                "Assign": {"sum": "{% $sum($states.input.numbers) %}"},
                "Output": {"first": "{% $states.input.numbers[0] %}"},
                "Next": "Say",
            },
            "Say": {
                "Type": "Pass",
                "Output": {"sum": "{% $sum %}", "first": "{% $states.input.first %}"},
                "End": True,
            },
        },
    }
    ended = executed(client("stepfunctions"), "jsonata", definition, input='{"numbers": [3, 4]}')
    assert json.loads(ended["output"]) == {"sum": 7, "first": 3}


def distributed(**more: Any) -> dict[str, Any]:
    """Return a machine with a distributed Map, which passes on its items."""
    processor = {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
        "StartAt": "Item",
        "States": {"Item": {"Type": "Pass", "End": True}},
    }
    return {
        "StartAt": "Map",
        "States": {
            "Map": {"Type": "Map", "ItemsPath": "$.items", "ItemProcessor": processor, "End": True, **more}
        },
    }


def test_distributed_map_has_an_execution_for_each_item_and_ordered_results(
    client: Callable[[str], Any],
) -> None:
    """Of an array, and of an object in S3."""
    states, s3 = client("stepfunctions"), client("s3")
    ended = executed(states, "distributed", distributed(MaxConcurrency=2), input='{"items": [1, 2, 3]}')
    assert json.loads(ended["output"]) == [1, 2, 3]
    s3.create_bucket(Bucket="emulator-items")
    s3.put_object(Bucket="emulator-items", Key="items.json", Body=b'[{"id": "a"}, {"id": "b"}]')
    machine = distributed(
        ItemReader={
            "Resource": "arn:aws:states:::s3:getObject",
            "ReaderConfig": {"InputType": "JSON"},
            "Parameters": {"Bucket": "emulator-items", "Key": "items.json"},
        }
    )
    del machine["States"]["Map"]["ItemsPath"]
    ended = executed(states, "distributed-s3", machine)
    assert json.loads(ended["output"]) == [{"id": "a"}, {"id": "b"}]


READERS: dict[str, tuple[str, bytes, dict[str, Any], list[Any]]] = {
    "json lines": (
        "getObject",
        b'{"id": "a"}\n{"id": "b"}\n',
        {"InputType": "JSONL"},
        [{"id": "a"}, {"id": "b"}],
    ),
    "csv": (
        "getObject",
        b"id\na\nb\nc\n",
        {"InputType": "CSV", "CSVHeaderLocation": "FIRST_ROW", "MaxItems": 2},
        [{"id": "a"}, {"id": "b"}],
    ),
    "listing": ("listObjectsV2", b"", {}, ["rows/listing"]),
}


@pytest.mark.parametrize("kind", READERS)
def test_distributed_map_reads_rows_and_listings_in_express_executions(
    client: Callable[[str], Any], kind: str
) -> None:
    call, body, how, items = READERS[kind]
    name, s3 = kind.replace(" ", "-"), client("s3")
    s3.create_bucket(Bucket=f"emulator-{name}")
    s3.put_object(Bucket=f"emulator-{name}", Key=f"rows/{name}", Body=body)
    place = {"Prefix": "rows/"} if call == "listObjectsV2" else {"Key": f"rows/{name}"}
    reader = {
        "Resource": f"arn:aws:states:::s3:{call}",
        **({"ReaderConfig": how} if how else {}),
        "Parameters": {"Bucket": f"emulator-{name}", **place},
    }
    machine = distributed(ItemReader=reader)
    mapped = machine["States"]["Map"]
    del mapped["ItemsPath"]
    mapped["ItemProcessor"]["ProcessorConfig"]["ExecutionType"] = "EXPRESS"
    ended = executed(client("stepfunctions"), f"distributed-{name}", machine)
    found = json.loads(ended["output"])
    assert [each["Key"] for each in found] == items if call == "listObjectsV2" else found == items


def task(resource: str, **parameters: Any) -> dict[str, Any]:
    """Return a machine of one task."""
    said = {"Type": "Task", "Resource": resource, "Parameters": parameters, "End": True}
    return {"StartAt": "A", "States": {"A": said}}


def test_machine_waits_for_another_and_for_a_token_and_writes_an_item(client: Callable[[str], Any]) -> None:
    states, sqs, dynamodb = client("stepfunctions"), client("sqs"), client("dynamodb")
    dynamodb.create_table(
        TableName="emulator-states",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "PK", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "PK", "KeyType": "HASH"}],
    )
    writing = task(
        "arn:aws:states:::dynamodb:putItem", TableName="emulator-states", Item={"PK": {"S": "written"}}
    )
    assert executed(states, "writing", writing)["status"] == "SUCCEEDED"
    assert [each["PK"]["S"] for each in dynamodb.scan(TableName="emulator-states")["Items"]] == ["written"]
    url, _ = queue(sqs, "emulator-token")
    waiting = task(
        "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        QueueUrl=url,
        MessageBody={"token.$": "$$.Task.Token"},
    )
    made = states.create_state_machine(name="waiting", definition=json.dumps(waiting), roleArn=ROLE)
    calling = task(
        "arn:aws:states:::states:startExecution.sync:2", StateMachineArn=made["stateMachineArn"], Input={}
    )
    caller = states.create_state_machine(name="calling", definition=json.dumps(calling), roleArn=ROLE)
    execution = states.start_execution(stateMachineArn=caller["stateMachineArn"])["executionArn"]
    received: list[Any] = []

    def arrived() -> bool:
        received.extend(sqs.receive_message(QueueUrl=url).get("Messages", ()))
        return bool(received)

    until(arrived)
    token = json.loads(received[0]["Body"])["token"]
    states.send_task_success(taskToken=token, output='{"done": true}')
    until(lambda: states.describe_execution(executionArn=execution)["status"] == "SUCCEEDED")
    output = json.loads(states.describe_execution(executionArn=execution)["output"])
    assert output["Output"] == {"done": True}


def test_task_is_stopped_at_its_time_and_takes_arguments_in_jsonata(
    client: Callable[[str], Any], function: str, answering: Answering
) -> None:
    states = client("stepfunctions")
    answering.answer = lambda _, event: time.sleep(2) if "slow" in event else event
    slow = task(function, slow=True)
    slow["States"]["A"]["TimeoutSeconds"] = 1
    assert executed(states, "slow", slow)["error"] == "States.Timeout"
    said = {
        "Type": "Task",
        "Resource": function,
        "Arguments": "{% {'n': $states.input.n + 1} %}",
        "End": True,
    }
    machine = {"QueryLanguage": "JSONata", "StartAt": "A", "States": {"A": said}}
    ended = executed(states, "arguments", machine, input='{"n": 1}')
    assert json.loads(ended["output"]) == {"n": 2}


class TestDifferences:
    """Where the emulator is not as AWS: when one of these fails it has learned it, and what bridges it can go."""

    def test_state_of_any_size_passes(self, client: Callable[[str], Any]) -> None:
        """`test_interpreters.py` lets moto refuse it, and `test_definitions.py` counts bytes."""
        definition = {"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}}
        text = json.dumps({"long": "x" * (300 << 10)})
        assert executed(client("stepfunctions"), "long", definition, input=text)["status"] == "SUCCEEDED"

    def test_empty_parameters_pass_the_whole_state(self, client: Callable[[str], Any]) -> None:
        """Machines say `"InputPath": null` instead."""
        definition = {"StartAt": "A", "States": {"A": {"Type": "Pass", "Parameters": {}, "End": True}}}
        ended = executed(client("stepfunctions"), "empty", definition, input='{"a": 1}')
        assert json.loads(ended["output"]) == {"a": 1}

    def test_machine_with_an_unknown_target_is_created(self, client: Callable[[str], Any]) -> None:
        """The validator of the language refuses it."""
        definition = {"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "B"}}}
        assert executed(client("stepfunctions"), "wrong", definition)["status"] == "FAILED"

    def test_start_with_the_same_name_and_input_is_refused(self, client: Callable[[str], Any]) -> None:
        """AWS answers with the execution that runs; machines take both for done."""
        states = client("stepfunctions")
        definition = {"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}}
        ended = executed(states, "named", definition, name="one", input="{}")
        with pytest.raises(ClientError, match="ExecutionAlreadyExists"):
            states.start_execution(stateMachineArn=ended["stateMachineArn"], name="one", input="{}")

    def test_batches_and_the_result_of_a_distributed_map_are_not_written(
        self, client: Callable[[str], Any]
    ) -> None:
        """AWS would pass two items together, and write the results to the bucket; machines use neither."""
        written = {
            "Resource": "arn:aws:states:::s3:putObject",
            "Parameters": {"Bucket": "emulator-nowhere", "Prefix": "results"},
        }
        machine = distributed(ItemBatcher={"MaxItemsPerBatch": 2}, ResultWriter=written)
        ended = executed(client("stepfunctions"), "batched", machine, input='{"items": [1, 2, 3]}')
        assert json.loads(ended["output"]) == [1, 2, 3]

    def test_history_has_nothing_of_the_items_of_a_map(self, client: Callable[[str], Any]) -> None:
        """Failures of items are recorded by a state of the machine."""
        states = client("stepfunctions")
        item = {"StartAt": "Item", "States": {"Item": {"Type": "Pass", "End": True}}}
        mapped = {"Type": "Map", "ItemsPath": "$.items", "ItemProcessor": item, "End": True}
        ended = executed(
            states, "history", {"StartAt": "Map", "States": {"Map": mapped}}, input='{"items": [1, 2]}'
        )
        told = states.get_execution_history(executionArn=ended["executionArn"])["events"]
        assert not [each["type"] for each in told if each["type"].startswith("MapIteration")]

    def test_service_of_the_sdk_that_is_missing_fails_its_state(self, client: Callable[[str], Any]) -> None:
        """Functions write to S3, not machines."""
        putting = {
            "Type": "Task",
            "Resource": "arn:aws:states:::aws-sdk:s3:putObject",
            "Parameters": {"Bucket": "emulator-items", "Key": "a", "Body": "b"},
            "End": True,
        }
        machine = {"StartAt": "Put", "States": {"Put": putting}}
        assert executed(client("stepfunctions"), "putting", machine)["status"] == "FAILED"
