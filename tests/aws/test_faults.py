"""What functions do when services of AWS refuse, throttle or are slow, and where each failure is found."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.aws.events import run_record, s3_event, sqs_event
from tests.support.aws.interpreters import relayed

from flowbed.aws.deployment.clients import environment_client
from flowbed.aws.stack.functions import LONGEST
from flowbed.cli.app import run
from flowbed.errors import NotFound, Transient
from flowbed.testing.s3proxy import CUT, THROTTLED, Answer, S3Fault, S3Proxy
from flowbed.testing.simulators import Fault

if TYPE_CHECKING:
    from tests.aws.conftest import Deployment
    from tests.support.aws.interpreters import Answering

    from flowbed.testing.simulators import SimulatorProcess


def poll_until_ended(deployment: Deployment, batch: dict[str, Any]) -> None:
    """Poll a submission, and tell the queue of its deltas, until its job has ended."""
    for _ in range(100):
        if deployment.call("line_polling", batch)["action"] != "wait":
            return
    raise AssertionError(batch)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What SQS says of a batch of messages, and whether it did what it says."""

    applied: bool


@pytest.mark.parametrize("sent", [Sent(applied=False), Sent(applied=True)], ids=["not sent", "sent"])
def test_messages_that_sqs_refuses_inside_a_good_answer_are_sent_again(
    deployment: Deployment, proxy: S3Proxy, queue: str, sent: Sent
) -> None:
    """SendMessageBatch answers 200 with `Failed`: the record comes again, and a doubled message does no harm."""
    refusal = {"Id": "1", "Code": "InternalError", "SenderFault": False, "Message": "try again"}
    told = json.dumps(
        {"Successful": [{"Id": "0", "MessageId": "m", "MD5OfMessageBody": ""}], "Failed": [refusal]}
    )
    answer = Answer(status=200, body=told)
    records = [run_record(str(each) * 64, "lines", sequence=each) for each in (1, 2)]
    before, after = (None, answer) if sent.applied else (answer, None)
    proxy.order(S3Fault(key="AmazonSQS.SendMessageBatch", calls=[1], before=before, after=after))
    assert deployment.call("stream_processor", {"Records": records}) == {
        "batchItemFailures": [{"itemIdentifier": "2"}]
    }
    assert deployment.call("stream_processor", {"Records": records[1:]}) == {"batchItemFailures": []}
    runs = [json.loads(each["Body"])["entity_data"]["run_id"] for each in deployment.received(queue)]
    assert sorted(set(runs)) == (["1" * 64, "2" * 64] if sent.applied else ["2" * 64])
    assert deployment.metrics("flowbed")["MessagesFailed"] == 1


def test_messages_about_deltas_that_sqs_refuses_are_said_by_polling(
    deployment: Deployment, proxy: S3Proxy, queue: str
) -> None:
    """The machine polls again, and the schedule of compaction commits the deltas in any case."""
    deployment.call("data_fetcher")
    (batch,) = deployment.call("find_unembedded")["batches"]
    submitted = deployment.call("submit_openai", batch)
    refusals = [{"Id": each, "Code": "InternalError", "SenderFault": False} for each in "01"]
    told = Answer(status=200, body=json.dumps({"Successful": [], "Failed": refusals}))
    proxy.order(S3Fault(key="AmazonSQS.SendMessageBatch", before=told))
    with pytest.raises(Transient, match="2 of 2 messages about deltas were not sent: InternalError"):
        poll_until_ended(deployment, submitted)
    assert deployment.received(queue) == []
    deployment.call("compaction")
    assert deployment.contents().total == 10


def test_queue_that_is_throttled_or_forbidden_is_named(
    deployment: Deployment, proxy: S3Proxy, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    event = {"Records": [run_record("1" * 64, "lines")]}
    proxy.order(S3Fault(key="AmazonSQS*", before=THROTTLED))
    with pytest.raises(Transient, match=r"queue .*compaction takes no messages now: ThrottlingException"):
        deployment.call("stream_processor", event)
    proxy.order(S3Fault(key="AmazonSQS*", before=CUT))
    with pytest.raises(Transient, match=r"queue .*compaction cannot be reached"):
        deployment.call("stream_processor", event)
    proxy.order(S3Fault(key="AmazonSQS*", before=Answer(status=400, code="AccessDeniedException")))
    with pytest.raises(Exception, match=r"refuses messages: AccessDenied.*set COMPACTION_QUEUE_URL"):
        deployment.call("stream_processor", event)


def test_messages_are_invisible_for_as_long_as_compaction_works(
    deployment: Deployment, proxy: S3Proxy, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their visibility is extended with each heartbeat."""
    monkeypatch.setenv("HEARTBEAT_INTERVAL_SECONDS", "0.2")
    deployment.call("data_fetcher")
    deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})
    records = [run_record(run.id, run.collection, key=run.key) for run in pending_runs(deployment)]
    deployment.call("stream_processor", {"Records": records})
    sqs = deployment.client("sqs")
    messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=600)["Messages"]
    # A commit takes several heartbeats.
    proxy.order(S3Fault(method="PUT", key="*.lance/*", calls=[1], delay=1.0))
    event = sqs_event(messages)
    told = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    for record in event["Records"]:
        record["eventSourceARN"] = told["Attributes"]["QueueArn"]
    assert deployment.call("compaction", event) == {"batchItemFailures": []}
    extended = [each for each in proxy.exchanges if each.key == "AmazonSQS.ChangeMessageVisibilityBatch"]
    assert [each.status for each in extended] == [200] * len(extended)
    assert len(extended) > 1
    assert deployment.contents().total == 10


def test_every_failure_is_found_by_why(
    deployment: Deployment, provider: SimulatorProcess, queue: str, quick_polls: None
) -> None:
    """A text that the provider refuses, a batch file that cannot be read, a damaged delta, and what waits."""

    def why(subject: str) -> str:
        try:
            return " ".join(each.verdict for each in deployment.use(lambda bed: bed.why(subject)))
        except NotFound as error:
            return str(error)

    refused, fine = "IMAGE#image-1#RECEIPT#00001#LINE#00002", "IMAGE#image-1#RECEIPT#00001#LINE#00001"
    provider.order(Fault(kind="error", status=400, text="CASH"))
    deployment.call("data_fetcher")
    assert "waits for" in why(fine)
    with pytest.raises(Exception, match="were refused"):
        deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})
    assert "dead-letters retry" in why(refused)
    assert "in a delta" in why(fine)
    client, bucket = deployment.client("s3"), deployment.bucket
    file = "partner/chunked/year=2026/month=01/day=06/bad.json"
    client.put_object(Bucket=bucket, Key=f"index/{file}", Body=b'{"chunks": 7}')
    message = {"Body": json.dumps(s3_event(bucket, f"index/{file}"))}
    assert deployment.call("embedder", sqs_event([message]))["batchItemFailures"]
    assert f"{file} of" in why(file)
    (run,) = [each for each in pending_runs(deployment) if each.collection == "words"]
    client.put_object(Bucket=bucket, Key=f"index/{run.key}", Body=b"damaged")
    deployment.call("compaction")
    assert f"{run.id} of" in why(run.id)
    assert "since version" in why(fine)
    word = f"{fine}#WORD#00001"
    assert "retry" in why(word), why(word)


@pytest.fixture
def stack(deployment: Deployment, answering: Answering) -> None:
    """Deploy a stack with one machine, and a function that is answered by the test."""
    machine = {"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}}
    properties = {
        "StateMachineName": "flowbed-create-batches",
        "DefinitionString": json.dumps(machine),
        "RoleArn": "arn:aws:iam::000000000000:role/machines",
    }
    made = {"Resources": {"Machine": {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}}}
    stacks = deployment.client("cloudformation")
    stacks.create_stack(StackName="flowbed", TemplateBody=json.dumps(made))
    stacks.get_waiter("stack_create_complete").wait(StackName="flowbed", WaiterConfig={"Delay": 1})
    answering.forget()
    relayed(deployment.client("lambda"), "flowbed-list_pending", answering)
    answering.answer = lambda *_: []


INVOCATION, LISTING = "2015-03-31/functions/*/invocations", "AWSStepFunctions.ListExecutions"


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (
            Answer(status=429, body='{"__type": "TooManyRequestsException", "message": "slowly"}'),
            1,
            "AWS cannot do that now",
        ),
        (
            Answer(status=500, body='{"__type": "ServiceException", "message": "down"}'),
            1,
            "AWS cannot do that now",
        ),
        (CUT, 1, "AWS cannot be asked now"),
        (
            Answer(status=403, body='{"__type": "AccessDeniedException", "message": "no"}'),
            2,
            "AWS refuses: .*AccessDenied",
        ),
    ],
    ids=["throttled", "failed", "cut", "denied"],
)
@pytest.mark.usefixtures("stack")
def test_commands_that_step_functions_or_lambda_do_not_answer_say_what_to_do(
    deployment: Deployment,
    proxy: S3Proxy,
    answering: Answering,
    answer: Answer,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Here nothing is repeated; the client of AWS does so up to four times."""

    def flowbed(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        ended = run(["aws", *arguments, "--config", str(deployment.package)])
        printed = capsys.readouterr()
        return ended, printed.out + printed.err

    for key, arguments in ((LISTING, ["status"]), (INVOCATION, ["invoke", "list_pending"])):
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        proxy.order(S3Fault(key=key, after=answer))
        ended, printed = flowbed(*arguments)
        assert ended == status, printed
        assert re.search(said, printed)
    assert answering.number("flowbed-list_pending") == 1
    proxy.order()
    assert flowbed("invoke", "list_pending") == (0, "[]\n")
    assert "machine  create-batches: never started" in flowbed("status")[1]


@pytest.mark.usefixtures("deployment")
def test_client_of_lambda_waits_as_long_as_a_function_may_work() -> None:
    """With the minute that is usual it would call a function again that is still at work."""
    client = environment_client()
    assert client("lambda").meta.config.read_timeout > LONGEST
    assert client("sqs").meta.config.read_timeout == 60


def pending_runs(deployment: Deployment) -> list[Any]:
    """Return the runs that no commit holds yet."""

    async def pending(bed: Any) -> list[Any]:
        runs = []
        for collection in await bed.ledger.runs.collections():
            runs += await bed.ledger.runs.pending(collection, limit=100)
        return runs

    return list(deployment.use(pending))
