"""What tests of the emulator ask of it: queues, calls and executions."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT = 60.0  # s: mappings are polled each second
ACCOUNT = "400000000001"  # that no other tests have
ROLE = "arn:aws:iam::000000000000:role/machines"


def invoke(client: Callable[[str], Any], name: str) -> Any:
    """Call a function, and return its answer or its error."""
    return json.loads(client("lambda").invoke(FunctionName=name, Payload=b"{}")["Payload"].read())


def until(done: Callable[[], bool], *, within: float = WAIT) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + within
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def queue(sqs: Any, name: str, **attributes: str) -> tuple[str, str]:
    """Create a queue, and return its URL and its ARN."""
    url = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    told = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return url, told["Attributes"]["QueueArn"]


def executed(
    states: Any, machine: str, definition: dict[str, Any], *, role: str = ROLE, **start: Any
) -> dict[str, Any]:
    """Run a new machine to its end."""
    made = states.create_state_machine(name=machine, definition=json.dumps(definition), roleArn=role)
    arn = states.start_execution(stateMachineArn=made["stateMachineArn"], **start)["executionArn"]
    until(lambda: states.describe_execution(executionArn=arn)["status"] != "RUNNING")
    return dict(states.describe_execution(executionArn=arn))
