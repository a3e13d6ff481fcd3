"""What the deployment needs of Lambda, of its clock, CloudFormation and IAM."""

from __future__ import annotations

import io
import json
import time
import zipfile
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from tests.support.aws.asking import WAIT, executed, invoke, queue, until
from tests.support.aws.interpreters import Exited, relayed

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.aws.interpreters import Answering

    from flowbed.testing.aws import Emulator


def test_error_of_a_function_has_its_class_and_its_message(
    client: Callable[[str], Any], function: str, answering: Answering
) -> None:
    """And the end of its process has a class of its own; the next call gets another process."""
    errors: list[Exception] = [Rejected("poison"), Exited()]

    def answer(*_: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return {"well": True}

    answering.answer = answer
    assert invoke(client, function)["errorType"] == "Rejected"
    assert invoke(client, function)["errorType"] == "Runtime.ExitError"
    assert invoke(client, function) == {"well": True}


def test_function_is_stopped_at_its_time(client: Callable[[str], Any], answering: Answering) -> None:
    slow = relayed(client("lambda"), "slow", answering, timeout=1)
    answering.answer = lambda *_: time.sleep(3)
    assert invoke(client, slow)["errorType"] == "Sandbox.Timedout"


def test_function_without_concurrency_is_throttled(
    client: Callable[[str], Any], answering: Answering
) -> None:
    """A machine is told `Lambda.Unknown`, where AWS says `Lambda.TooManyRequestsException`: Retry names both."""
    lambdas, states = client("lambda"), client("stepfunctions")
    arn = relayed(lambdas, "throttled", answering)
    lambdas.put_function_concurrency(FunctionName="throttled", ReservedConcurrentExecutions=0)
    with pytest.raises(ClientError, match="TooManyRequestsException"):
        lambdas.invoke(FunctionName=arn, Payload=b"{}")
    definition = {"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": arn, "End": True}}}
    ended = executed(states, "throttled", definition)
    assert ended["error"] in {"Lambda.Unknown", "Lambda.TooManyRequestsException"}


def test_function_is_called_without_waiting_for_its_answer(
    client: Callable[[str], Any], function: str, answering: Answering
) -> None:
    answering.answer = lambda _, event: event
    told = client("lambda").invoke(FunctionName=function, InvocationType="Event", Payload=b'{"a": 1}')
    assert told["StatusCode"] == 202
    until(lambda: answering.calls == [("told", {"a": 1})])


def test_call_is_logged_from_start_to_report(
    client: Callable[[str], Any], function: str, answering: Answering
) -> None:
    answering.answer = lambda *_: {}
    invoke(client, function)
    told: list[str] = []

    def logged() -> bool:
        found = client("logs").filter_log_events(logGroupName="/aws/lambda/told")["events"]
        told[:] = [each["message"] for each in found]
        return any(each.startswith("REPORT") for each in told)

    until(logged)
    first = [each.split()[0] for each in told]
    assert first.index("START") < first.index("END") < first.index("REPORT")


def test_versions_and_aliases_are_called_by_their_names(
    client: Callable[[str], Any], answering: Answering
) -> None:
    lambdas = client("lambda")
    relayed(lambdas, "versioned", answering)
    version = lambdas.publish_version(FunctionName="versioned")["Version"]
    lambdas.create_alias(FunctionName="versioned", Name="live", FunctionVersion=version)
    answering.answer = lambda *_: {"well": True}
    for name in (version, "live"):
        answer = lambdas.invoke(FunctionName="versioned", Qualifier=name, Payload=b"{}")
        assert json.loads(answer["Payload"].read()) == {"well": True}


def test_package_of_more_than_250_mb_is_refused(client: Callable[[str], Any]) -> None:
    """It counts what the list of the zip says."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as packed:
        packed.writestr("lance.so", b"")
        packed.infolist()[0].file_size = (250 << 20) + 1
    with pytest.raises(ClientError, match="Unzipped size must be smaller than 262144000 bytes"):
        client("lambda").create_function(
            FunctionName="large",
            Runtime="provided.al2023",
            Handler="large",
            Role="arn:aws:iam::000000000000:role/functions",
            Code={"ZipFile": body.getvalue()},
        )


@pytest.mark.long
def test_clock_fires_schedules_and_rules_and_removes_items_whose_time_is_over(
    client: Callable[[str], Any], function: str, answering: Answering
) -> None:
    """The emulator looks at schedules every 10 s, and at the times of items every minute."""
    answering.answer = lambda _, event: event
    url, arn = queue(client("sqs"), "emulator-clock")
    role = "arn:aws:iam::000000000000:role/schedules"
    client("scheduler").create_schedule(
        Name="emulator-once",
        ScheduleExpression="at(2026-01-01T00:00:00)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": function, "RoleArn": role, "Input": '{"scheduled": true}'},
    )
    events, dynamodb = client("events"), client("dynamodb")
    events.put_rule(Name="emulator-rate", ScheduleExpression="rate(1 minute)")
    events.put_targets(Rule="emulator-rate", Targets=[{"Id": "queue", "Arn": arn}])
    dynamodb.create_table(
        TableName="emulator-ttl",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "PK", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "PK", "KeyType": "HASH"}],
    )
    dynamodb.update_time_to_live(
        TableName="emulator-ttl", TimeToLiveSpecification={"Enabled": True, "AttributeName": "ttl"}
    )
    for name, ttl in (("over", 1), ("later", 4_102_444_800)):
        dynamodb.put_item(TableName="emulator-ttl", Item={"PK": {"S": name}, "ttl": {"N": str(ttl)}})

    def names() -> list[str]:
        return [each["PK"]["S"] for each in dynamodb.scan(TableName="emulator-ttl")["Items"]]

    until(lambda: ("told", {"scheduled": True}) in answering.calls, within=4 * WAIT)
    until(lambda: bool(client("sqs").receive_message(QueueUrl=url).get("Messages")), within=4 * WAIT)
    until(lambda: names() == ["later"], within=4 * WAIT)
    events.remove_targets(Rule="emulator-rate", Ids=["queue"])
    events.delete_rule(Name="emulator-rate")


def test_template_is_deployed_with_its_outputs_and_deleted_whole(client: Callable[[str], Any]) -> None:
    template = {
        "Resources": {
            "Rows": {
                "Type": "AWS::DynamoDB::Table",
                "Properties": {
                    "BillingMode": "PAY_PER_REQUEST",
                    "AttributeDefinitions": [{"AttributeName": "PK", "AttributeType": "S"}],
                    "KeySchema": [{"AttributeName": "PK", "KeyType": "HASH"}],
                    "StreamSpecification": {"StreamViewType": "NEW_AND_OLD_IMAGES"},
                },
            },
            "Queue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "emulator-stacked"}},
        },
        "Outputs": {
            "Stream": {"Value": {"Fn::GetAtt": ["Rows", "StreamArn"]}},
            "Named": {"Value": {"Fn::Sub": "${AWS::Region} ${Queue.Arn}"}},
        },
    }
    stacks = client("cloudformation")
    stacks.create_stack(StackName="emulator", TemplateBody=json.dumps(template))
    until(
        lambda: stacks.describe_stacks(StackName="emulator")["Stacks"][0]["StackStatus"].endswith("COMPLETE")
    )
    (stack,) = stacks.describe_stacks(StackName="emulator")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
    assert "/stream/" in outputs["Stream"]
    assert outputs["Named"].endswith(":emulator-stacked")
    stacks.delete_stack(StackName="emulator")
    until(lambda: not [url for url in client("sqs").list_queues().get("QueueUrls", ()) if "stacked" in url])
    assert not [name for name in client("dynamodb").list_tables()["TableNames"] if "Rows" in name]


def test_template_of_more_than_51_200_bytes_has_to_come_from_a_bucket(client: Callable[[str], Any]) -> None:
    """As that of the deployment does."""
    resources = {"Queue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "emulator-long"}}}
    body = json.dumps({"Resources": resources, "Metadata": {"long": "x" * 51_200}})
    stacks, s3 = client("cloudformation"), client("s3")
    with pytest.raises(ClientError, match="51200"):
        stacks.create_stack(StackName="emulator-long", TemplateBody=body)
    s3.create_bucket(Bucket="emulator-templates")
    s3.put_object(Bucket="emulator-templates", Key="long.json", Body=body.encode())
    address = f"{s3.meta.endpoint_url}/emulator-templates/long.json"
    stacks.create_stack(StackName="emulator-long", TemplateURL=address)
    until(lambda: bool(client("sqs").list_queues(QueueNamePrefix="emulator-long").get("QueueUrls")))


class TestDifferences:
    """Where the emulator is not as AWS: when one of these fails it has learned it, and what bridges it can go."""

    def test_payload_of_more_than_6_mb_passes(
        self, client: Callable[[str], Any], function: str, answering: Answering
    ) -> None:
        """`test_definitions.py` counts the bytes of what machines pass on."""
        answering.answer = lambda *_: {"well": True}
        payload = json.dumps({"long": "x" * (6 << 20)}).encode()
        told = client("lambda").invoke(FunctionName=function, Payload=payload)
        assert json.loads(told["Payload"].read()) == {"well": True}

    def test_index_of_a_table_does_not_lag(self, client: Callable[[str], Any]) -> None:
        """`tests/support/aws/dynamodb.py` lets it lag."""
        dynamodb = client("dynamodb")
        dynamodb.create_table(
            TableName="emulator-lag",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each in ("PK", "G")],
            KeySchema=[{"AttributeName": "PK", "KeyType": "HASH"}],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": "open",
                    "KeySchema": [{"AttributeName": "G", "KeyType": "HASH"}],
                    "Projection": {"ProjectionType": "ALL"},
                }
            ],
        )
        for place in range(5):
            item = {"PK": {"S": str(place)}, "G": {"S": "g"}}
            dynamodb.put_item(TableName="emulator-lag", Item=item)
            found = dynamodb.query(
                TableName="emulator-lag",
                IndexName="open",
                KeyConditionExpression="G = :g",
                ExpressionAttributeValues={":g": {"S": "g"}},
            )
            assert found["Count"] == place + 1


def test_roles_are_asked_for_where_the_emulator_is_started_so(emulator: Emulator) -> None:
    """What a role was not granted is refused, and so are keys that nobody has."""
    account = emulator.client()
    iam, s3 = boto3.client("iam", **account), boto3.client("s3", **account)
    s3.create_bucket(Bucket="roles")
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    arn = iam.create_role(RoleName="reader", AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))[
        "Role"
    ]["Arn"]
    granted = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::roles"}
    iam.put_role_policy(
        RoleName="reader", PolicyName="may", PolicyDocument=json.dumps({"Statement": [granted]})
    )
    given = boto3.client("sts", **account).assume_role(RoleArn=arn, RoleSessionName="session")["Credentials"]
    reader = boto3.client(
        "s3",
        endpoint_url=account["endpoint_url"],
        region_name=account["region_name"],
        aws_access_key_id=given["AccessKeyId"],
        aws_secret_access_key=given["SecretAccessKey"],
        aws_session_token=given["SessionToken"],
    )
    assert reader.list_objects_v2(Bucket="roles")["KeyCount"] == 0
    with pytest.raises(ClientError, match="AccessDenied"):
        reader.put_object(Bucket="roles", Key="a", Body=b"")
    wrong = boto3.client("s3", **{**account, "aws_access_key_id": "nobody"})
    with pytest.raises(ClientError):
        wrong.list_buckets()


def test_role_of_a_machine_is_not_asked_for(emulator: Emulator) -> None:
    """AWS would refuse: `test_template.py` looks at the policies of machines."""
    account = emulator.client()
    sqs, iam = boto3.client("sqs", **account), boto3.client("iam", **account)
    trust = {"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Statement": [trust]})
    role = iam.create_role(RoleName="without-rights", AssumeRolePolicyDocument=document)["Role"]["Arn"]
    url, _ = queue(sqs, "emulator-unasked")
    sending = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage",
        "Parameters": {"QueueUrl": url, "MessageBody": "sent"},
        "End": True,
    }
    machine = {"StartAt": "Send", "States": {"Send": sending}}
    ended = executed(boto3.client("stepfunctions", **account), "unasked", machine, role=role)
    assert ended["status"] == "SUCCEEDED", ended
