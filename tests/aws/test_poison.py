"""Poison in real queues: it is named, the rest goes on, and the commands of an operator find it."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.aws.events import run_record, s3_event, sqs_event
from tests.support.aws.interpreters import relayed

from flowbed.cli.app import run
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.aws.conftest import Deployment
    from tests.support.aws.interpreters import Answering

WAIT = 240.0  # s: queues are polled each second, and a loaded machine is slow
TRIES = 2
DAY = "partner/chunked/year=2026/month=01/day=06"
# A queue with one for its dead letters, called as those of the stack.
TEMPLATE = {
    "Resources": {
        "Dead": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "flowbed-batches-dead"}},
        "Batches": {
            "Type": "AWS::SQS::Queue",
            "Properties": {
                "QueueName": "flowbed-batches",
                "VisibilityTimeout": 900,
                "RedrivePolicy": {
                    "deadLetterTargetArn": {"Fn::GetAtt": ["Dead", "Arn"]},
                    "maxReceiveCount": TRIES,
                },
            },
        },
    }
}


@pytest.fixture
def flowbed(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Call a command in the project of the deployment; return its status and what it printed."""

    def call(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        status = run((*arguments, "--config", str(deployment.package)))
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return call


@pytest.fixture
def batches(deployment: Deployment, answering: Answering) -> str:
    """Let the real embedder be called with what a queue of a stack has, and return its URL."""
    stacks = deployment.client("cloudformation")
    stacks.create_stack(StackName="flowbed", TemplateBody=json.dumps(TEMPLATE))
    stacks.get_waiter("stack_create_complete").wait(StackName="flowbed", WaiterConfig={"Delay": 1})
    sqs = deployment.client("sqs")
    url = str(sqs.get_queue_url(QueueName="flowbed-batches")["QueueUrl"])

    def answer(_: str, event: Any) -> Any:
        """Work, and let what failed come again at once in place of a quarter of an hour later."""
        told = deployment.call("embedder", event)
        failed = {each["itemIdentifier"] for each in told["batchItemFailures"]}
        for record in event["Records"]:
            if record["messageId"] in failed:
                handle = record["receiptHandle"]
                sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)
        return told

    answering.answer = answer
    return url


def connect(deployment: Deployment, answering: Answering) -> str:
    """Begin to poll the queue."""
    lambdas = deployment.client("lambda")
    mapping = lambdas.create_event_source_mapping(
        FunctionName=relayed(lambdas, "embedder", answering, timeout=round(WAIT)),
        EventSourceArn=f"arn:aws:sqs:us-east-1:{deployment.account['aws_access_key_id']}:flowbed-batches",
        BatchSize=10,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )
    return str(mapping["UUID"])


def number(deployment: Deployment, queue: str) -> int:
    """Return how many messages wait in a queue."""
    client, name = deployment.client("sqs"), "ApproximateNumberOfMessages"
    url = client.get_queue_url(QueueName=queue)["QueueUrl"]
    return int(client.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name])


def test_poison_in_a_queue_ends_in_its_dead_letters_and_every_command_finds_it(
    deployment: Deployment,
    batches: str,
    answering: Answering,
    flowbed: Callable[..., tuple[int, str]],
    quick_polls: None,
) -> None:
    """A message that is no event, one that is no JSON, a damaged file, and one of no source, beside a good one."""
    sqs, s3, bucket = deployment.client("sqs"), deployment.client("s3"), deployment.bucket
    unnamed = DAY.replace("partner", "Parts & more")
    files = {
        f"{DAY}/good.json": b'{"chunks": [{"text": "from a partner"}]}',
        f"{DAY}/bad.json": b'{"chunks": 7}',
        f"{unnamed}/one.json": b'{"chunks": [{"text": "of nobody"}]}',
    }
    for key, body in files.items():
        s3.put_object(Bucket=bucket, Key=f"index/{key}", Body=body)
    bodies = [json.dumps(s3_event(bucket, f"index/{key}")) for key in files] + ['{"hello": 1}', "not JSON"]
    entries = [{"Id": str(place), "MessageBody": body} for place, body in enumerate(bodies)]
    sent = sqs.send_message_batch(QueueUrl=batches, Entries=entries)["Successful"]
    ids = {int(each["Id"]): each["MessageId"] for each in sent}
    mapping = connect(deployment, answering)

    deadline = time.monotonic() + WAIT
    while (dead := number(deployment, "flowbed-batches-dead")) < len(bodies) - 1:
        assert time.monotonic() < deadline, dead
        time.sleep(0.1)
    deployment.client("lambda").delete_event_source_mapping(UUID=mapping)
    _, said = flowbed("aws", "status", "--json")
    assert json.loads(said.splitlines()[-1])["queues"] == {"batches": 0, "batches-dead": 4}
    deployment.call("compaction")
    assert [row.document for row in deployment.contents().rows["partner"].values()] == ["from a partner"]
    named = {
        f"{DAY}/bad.json": "chunks",
        f"{unnamed}/one.json": "cannot be the name of a source",
        ids[3]: "ID of flowbed-batches failed: its shape is unknown (its fields: hello)",
        ids[4]: "it is 'not JSON'",
    }
    _, listed = flowbed("dead-letters", "list", "--json")
    subjects = {each["subject"] for each in json.loads(listed.splitlines()[-1])["dead_letters"]}
    assert subjects == set(named)
    for subject, reason in named.items():
        _, said = flowbed("why", subject)
        assert reason.replace("ID", subject) in said
    assert flowbed("dead-letters", "retry", ids[3], ids[4])[0] == 0
    assert "nothing is known" in flowbed("why", ids[3])[1]


def test_message_of_the_queue_of_compaction_that_tells_of_no_run_is_found(
    deployment: Deployment, flowbed: Callable[..., tuple[int, str]]
) -> None:
    """One that is no JSON, and one of a run that nobody knows; once it is known, its dead letter is gone."""
    deployment.call("data_fetcher")
    told = deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})
    bodies: list[dict[str, Any]] = [
        {"MessageId": "odd", "Body": "not JSON"},
        {"MessageId": "early", "Body": json.dumps({"entity_data": {"run_id": "1" * 64}})},
        {"MessageId": "good", "Body": json.dumps({"entity_data": {"run_id": told["run_id"]}})},
    ]
    done = deployment.call("compaction", sqs_event(bodies))
    assert {each["itemIdentifier"] for each in done["batchItemFailures"]} == {"odd", "early"}
    assert "odd of compaction failed: the message is not JSON" in flowbed("why", "odd")[1]
    assert "early of compaction failed: the ledger has no run '1111" in flowbed("why", "early")[1]
    (finding,) = deployment.use(lambda bed: bed.doctor()).findings
    assert (finding.check, finding.subject) == ("dead-letters", "early, odd")
    again = {"MessageId": "early", "Receives": 2, "Body": bodies[2]["Body"]}
    assert deployment.call("compaction", sqs_event([again])) == {"batchItemFailures": []}
    assert "nothing is known" in flowbed("why", "early")[1]


def unreadable(sequence: int, **image: Any) -> dict[str, Any]:
    """Return a record of the stream with other attributes; None takes one away."""
    record = run_record(str(sequence), "lines", sequence=sequence)
    changed = record["dynamodb"]["NewImage"] | image
    record["dynamodb"]["NewImage"] = {name: each for name, each in changed.items() if each is not None}
    return record


def test_record_of_the_stream_that_cannot_be_read_is_found_and_stops_no_other(
    deployment: Deployment, queue: str, flowbed: Callable[..., tuple[int, str]]
) -> None:
    """It does not come again, which would block its shard: its dead letter is under its keys and its number."""
    run = {"TYPE": {"S": "COMPACTION_RUN"}, "record": None, "run_id": {"S": "4"}, "image_id": {"S": "i"}}
    odd = {"dynamodb": {"SequenceNumber": "6", "NewImage": "text"}, "eventName": "INSERT"}
    records: list[Any] = [
        run_record("1" * 64, "lines", sequence=1),
        unreadable(2, key=None),
        unreadable(3, id={"N": ""}),
        unreadable(4, **run, receipt_id={"S": "seven"}),
        unreadable(5, **run),
        odd,
        {"eventID": "7"},
        "text",
        run_record("2" * 64, "words", sequence=9),
    ]
    for each in records[2:5]:
        each["eventName"] = "INSERT"
    told = deployment.call("stream_processor", {"Records": records})
    assert told == {"batchItemFailures": []}
    sent = [json.loads(each["Body"])["entity_data"]["run_id"] for each in deployment.received(queue)]
    assert sorted(sent) == ["1" * 64, "2" * 64]
    named = {
        "R#2 ROW:2": "a run in the stream has no key",
        "R#3 ROW:3": "a run in the stream has no id",
        "R#4 ROW:4": "a receipt_id that is no number: 'seven'",
        "R#5 ROW:5": "a run in the stream has no receipt_id",
        "record without keys:6": "a NewImage that is no item: 'text'",
        "record without keys:7": "has no field dynamodb",
        "record without keys:without a number": "has no field dynamodb",
    }
    _, listed = flowbed("dead-letters", "list", "--json")
    letters = {each["subject"]: each for each in json.loads(listed.splitlines()[-1])["dead_letters"]}
    assert set(letters) == set(named)
    assert {(each["kind"], each["owner"]) for name, each in letters.items() if name.startswith("R#")} == {
        ("record", "flowbed")
    }
    for subject, reason in named.items():
        assert reason in flowbed("why", subject)[1]
    assert "R#2 ROW:2 of flowbed failed: a run in the stream has no key" in flowbed("why", "R#2 ROW")[1]
    assert deployment.metrics("flowbed")["Failures"] == len(named)
    (finding,) = deployment.use(lambda bed: bed.doctor()).findings
    assert (finding.check, finding.fix) == ("dead-letters", "flowbed dead-letters retry")
    assert flowbed("dead-letters", "retry")[0] == 0
    assert "no dead letters" in flowbed("dead-letters", "list")[1]


def test_record_that_cannot_be_read_nor_recorded_comes_again(deployment: Deployment, queue: str) -> None:
    """It would be forgotten otherwise; what was sent beside it is sent again, which does no harm."""
    records = [run_record("1" * 64, "lines"), unreadable(2, key=None)]
    settings = deployment.package / "flowbed.toml"
    said = settings.read_text()
    settings.write_text(re.sub("(?m)^ledger = .*$", f'ledger = "{deployment.package}"', said))  # a folder
    with pytest.raises(Misconfigured):
        deployment.call("stream_processor", {"Records": records})
    settings.write_text(said)
    assert deployment.call("stream_processor", {"Records": records}) == {"batchItemFailures": []}
    assert len(deployment.received(queue)) == 2
    assert [each.subject for each in deployment.use(lambda bed: bed.dead_letters())] == ["R#2 ROW:2"]
