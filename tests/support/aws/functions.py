"""Functions of a deployment on the emulator of AWS: real handlers in processes, under AWS's own runtime client.

with Functions(aws, account=account, package=folder, variables={}) as functions:
    functions.create("find_unembedded")
    functions.invoke("find_unembedded", {})
    functions.machine("create-batches")
    functions.execute("create-batches", {})
"""

from __future__ import annotations

import io
import json
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from tests.support.processes.preloaded import CLIENT

import flowbed
from flowbed.aws.machines import FUNCTION, definition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATIENCE = 900.0  # s: a loaded machine starts a dozen processes in a minute
SOURCES, ROOT = Path(flowbed.__file__).parent.parent, Path(__file__).parents[3]
# As AWS starts a custom runtime; a function with Python's own would raise every error under one name in the emulator.
BOOTSTRAP = """#!/bin/sh
export PYTHONPATH={paths}
cd "$LAMBDA_TASK_ROOT" && exec {start} ${{RUNTIME:-awslambdaric}} "$_HANDLER"
"""
ROLE = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
            for service in ("lambda.amazonaws.com", "states.amazonaws.com", "events.amazonaws.com")
        ],
    }
)


class Functions:
    """The functions and machines of one package; `variables` are in the environment of every function."""

    def __init__(
        self,
        *,
        account: Mapping[str, str],
        settings: str,
        variables: Mapping[str, str],
        own: Mapping[str, Mapping[str, str]],
        server: str = "",
    ) -> None:
        """Create nothing yet; `own` are variables of single functions, and `server` is that of `forked_functions`."""
        self._account, self._variables, self._own = account, dict(variables), own
        self._code = _zipped(settings, server)
        self.arns: dict[str, str] = {}
        self.machines: dict[str, str] = {}

    def client(self, service: str) -> Any:
        """Return a client of a service."""
        return boto3.client(service, **self._account)

    def role(self, name: str, *statements: Mapping[str, Any]) -> str:
        """Create a role that may do what the statements say, and return its ARN."""
        iam = self.client("iam")
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=ROLE)["Role"]["Arn"]
        if statements:
            document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
            iam.put_role_policy(RoleName=name, PolicyName="may", PolicyDocument=document)
        return str(arn)

    def create(self, name: str, *statements: Mapping[str, Any], timeout: int = 300, **variables: str) -> str:
        """Create a function with a role of its own, and return its ARN."""
        made = self.client("lambda").create_function(
            FunctionName=name,
            Runtime="provided.al2023",
            Handler=f"flowbed.aws.handlers.{name}.handler",
            Role=self.role(f"{name}-role", *statements),
            Code={"ZipFile": self._code},
            Timeout=timeout,
            MemorySize=1_024,
            Environment={"Variables": {**self._variables, **self._own.get(name, {}), **variables}},
        )
        self.arns[name] = made["FunctionArn"]
        return self.arns[name]

    def invoke(self, name: str, event: Any = None) -> Any:
        """Call a function and return its answer.

        Raises:
            RuntimeError: it failed; the message is the error as AWS tells it.
        """
        # The client's own patience is a minute, and then it would call the function a second time.
        patient = Config(read_timeout=PATIENCE, retries={"total_max_attempts": 1})
        client = boto3.client("lambda", config=patient, **self._account)
        answer = client.invoke(FunctionName=name, Payload=json.dumps(event or {}).encode())
        payload = json.loads(answer["Payload"].read() or b"null")
        if answer.get("FunctionError"):
            raise RuntimeError(json.dumps(payload))
        return payload

    def machine(self, name: str, *, change: Callable[[str], str] = str) -> str:
        """Create a state machine, and return its ARN; `change` is made to its definition."""
        said = change(json.dumps(definition(name, self.arns)))
        needed = set(FUNCTION.findall(json.dumps(definition(name))))
        resources = [self.arns[each] for each in sorted(needed)]
        role = self.role(
            f"{name}-role",
            {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": resources},
            {"Effect": "Allow", "Action": "states:StartExecution", "Resource": "*"},
        )
        made = self.client("stepfunctions").create_state_machine(name=name, definition=said, roleArn=role)
        self.machines[name] = made["stateMachineArn"]
        return self.machines[name]

    def queue(self, name: str, **attributes: str) -> tuple[str, str]:
        """Create a queue with one for its dead letters, after five tries; return its URL and its ARN."""
        client = self.client("sqs")

        def created(queue: str, **more: str) -> tuple[str, str]:
            url = client.create_queue(QueueName=queue, Attributes=more)["QueueUrl"]
            said = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
            return url, said["Attributes"]["QueueArn"]

        _, dead = created(f"{name}-dead")
        policy = json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": "5"})
        return created(name, RedrivePolicy=policy, **attributes)

    def poll(self, name: str, source: str, **how: Any) -> None:
        """Let a function be called with what a queue or a stream has."""
        self.client("lambda").create_event_source_mapping(
            FunctionName=name,
            EventSourceArn=source,
            FunctionResponseTypes=["ReportBatchItemFailures"],
            **how,
        )

    def route(self, bucket: str, queue: str, arn: str) -> None:
        """Send an event for each new batch file of a bucket to a queue."""
        self.client("s3").put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}}
        )
        keys = [{"wildcard": "*/chunked/*.json"}, {"wildcard": "*/chunked/*.json.zst"}]
        pattern = {
            "source": ["aws.s3"],
            "detail-type": ["Object Created"],
            "detail": {"bucket": {"name": [bucket]}, "object": {"key": keys}},
        }
        events = self.client("events")
        rule = events.put_rule(Name=f"{bucket}-batches", EventPattern=json.dumps(pattern))["RuleArn"]
        events.put_targets(Rule=f"{bucket}-batches", Targets=[{"Id": "queue", "Arn": arn}])
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
            "Condition": {"ArnEquals": {"aws:SourceArn": rule}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.client("sqs").set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})

    def start(self, name: str, event: Any = None) -> str:
        """Start an execution, and return its ARN."""
        client = self.client("stepfunctions")
        started = client.start_execution(stateMachineArn=self.machines[name], input=json.dumps(event or {}))
        return str(started["executionArn"])

    def ended(self, execution: str) -> dict[str, Any]:
        """Wait for an execution, and return how it ended."""
        client, deadline = self.client("stepfunctions"), time.monotonic() + PATIENCE
        while (found := client.describe_execution(executionArn=execution))["status"] == "RUNNING":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{execution} takes more than {PATIENCE:.0f} s")
            time.sleep(0.1)
        return {name: found.get(name) for name in ("status", "output", "error", "cause")}

    def execute(self, name: str, event: Any = None) -> dict[str, Any]:
        """Run a machine to its end."""
        return self.ended(self.start(name, event))

    def executions(self, name: str, *, patience: float = PATIENCE) -> list[str]:
        """Wait until all executions of a machine have ended, also those that others began, and return how."""
        client, deadline = self.client("stepfunctions"), time.monotonic() + patience
        while True:
            listed = client.list_executions(stateMachineArn=self.machines[name])["executions"]
            if all(each["status"] != "RUNNING" for each in listed):
                return [each["status"] for each in listed]
            if time.monotonic() > deadline:
                raise TimeoutError(f"executions of {name} take more than {patience:.0f} s")
            time.sleep(0.1)


def _zipped(settings: str, server: str) -> bytes:
    start = [sys.executable, "-m"] if not server else [sys.executable, "-S", "-E", str(CLIENT), server]
    bootstrap = BOOTSTRAP.format(paths=f"{SOURCES}:{ROOT}", start=" ".join(start))
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as packed:
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        packed.writestr(entry, bootstrap)
        packed.writestr("flowbed.toml", settings)
    return body.getvalue()
