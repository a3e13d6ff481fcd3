"""A deployment in CloudFormation: made from the CDK stack, compared, updated, looked at and removed."""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbed.aws.deployment.assets import upload, upload_assets
from flowbed.aws.deployment.clients import translated
from flowbed.aws.deployment.synthesis import synthesise
from flowbed.errors import NotFound, Rejected
from flowbed.records.values import listing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flowbed.aws.stack.options import StackOptions

# Resources of a stack take minutes, its deletion too; CloudFormation is asked every two seconds, for half an hour.
STEP, STEPS = 2, 900
READY = "CREATE_COMPLETE"
# How a stack ends whose first deployment failed.
FAILED_FIRST = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED")
EXECUTIONS = 5  # of each machine that `status` shows


@dataclass(frozen=True, kw_only=True)
class Change:
    """What CloudFormation would do to one resource: `Add`, `Modify` or `Remove`."""

    action: str
    resource: str
    kind: str
    replaces: bool


@dataclass(frozen=True, kw_only=True)
class StackState:
    """A stack as it is: what it made, what waits in its queues, and how its machines ended."""

    status: str
    outputs: Mapping[str, str]
    queues: Mapping[str, int]
    executions: Mapping[str, tuple[str, ...]]
    alarms: tuple[str, ...]


class Deployment:
    """One stack. `client` makes a client of a service, with the credentials and the region of the environment."""

    def __init__(self, name: str, *, client: Callable[[str], Any]) -> None:
        """Name the stack; nothing is asked yet."""
        self.name = name
        self._client = client
        self._stack = client("cloudformation")

    @translated()
    def require_deployable(self) -> None:
        """Require that CloudFormation can create or update the stack.

        Raises:
            Rejected: its first deployment failed; such a stack has to be removed.
        """
        found = self._described()
        if found is not None and found["StackStatus"] in FAILED_FIRST:
            raise Rejected(
                f"the first deployment of the stack {self.name} failed: {self._why()}. CloudFormation updates no such"
                f" stack: flowbed aws destroy --name {self.name}, then deploy again"
            )

    @translated()
    def changes(self, options: StackOptions) -> list[Change]:
        """Return what `deploy` would change, and change nothing.

        Raises:
            Misconfigured: CDK is not installed, or refuses the stack.
        """
        with tempfile.TemporaryDirectory(prefix="flowbed-aws-") as folder:
            change_set = self._prepare(Path(folder), options)
            found = self._changes(change_set)
            self._stack.delete_change_set(StackName=self.name, ChangeSetName=change_set)
            if not self._exists():
                self._stack.delete_stack(StackName=self.name)
            return found

    @translated()
    def deploy(self, options: StackOptions) -> list[Change]:
        """Create the stack, or update it, and return what was changed.

        Raises:
            Misconfigured: CDK is not installed, or refuses the stack.
            Rejected: CloudFormation could not carry it out, and has put everything back; the message says why.
        """
        with tempfile.TemporaryDirectory(prefix="flowbed-aws-") as folder:
            creating = not self._exists()
            change_set = self._prepare(Path(folder), options)
            found = self._changes(change_set)
            if not found:
                self._stack.delete_change_set(StackName=self.name, ChangeSetName=change_set)
                return []
            self._stack.execute_change_set(StackName=self.name, ChangeSetName=change_set)
            self._wait("stack_create_complete" if creating else "stack_update_complete")
            return found

    @translated()
    def destroy(self) -> None:
        """Remove the stack. The bucket, the table and the secrets of a production stack stay.

        Raises:
            NotFound: there is no such stack.
            Rejected: CloudFormation could not remove it.
        """
        self._require()
        self._stack.delete_stack(StackName=self.name)
        self._wait("stack_delete_complete")

    @translated()
    def state(self) -> StackState:
        """Look at the stack, its queues, machines and alarms.

        Raises:
            NotFound: there is no such stack.
        """
        found = self._require()
        return StackState(
            status=found["StackStatus"],
            outputs={each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", [])},
            queues=dict(self._queues()),
            executions=dict(self._executions()),
            alarms=tuple(self._alarms()),
        )

    @translated()
    def invoke(self, function: str, event: Mapping[str, Any]) -> Any:
        """Call a function of the stack, and return its answer.

        Raises:
            NotFound: there is no such stack, or it has no such function.
            Rejected: the function failed; the message has its error.
        """
        self._require()
        client = self._client("lambda")
        try:
            answer = client.invoke(FunctionName=f"{self.name}-{function}", Payload=json.dumps(event).encode())
        except client.exceptions.ResourceNotFoundException as error:
            raise NotFound(f"{self.name} has no function {function!r}; {self._known_functions()}") from error
        said = json.loads(answer["Payload"].read() or b"null")
        if answer.get("FunctionError"):
            kind, message = said.get("errorType", "Error"), said.get("errorMessage", "")
            raise Rejected(f"{function} failed: {kind}: {message}")
        return said

    @translated()
    def logs(self, function: str, *, since_ms: int) -> list[str]:
        """Return the lines of a function's log since a time in Unix milliseconds, oldest first.

        Raises:
            NotFound: the stack has no such function, or it has never run.
        """
        client = self._client("logs")
        pages = client.get_paginator("filter_log_events").paginate(
            logGroupName=f"/aws/lambda/{self.name}-{function}", startTime=since_ms
        )
        try:
            return [event["message"].rstrip("\n") for page in pages for event in page["events"]]
        except client.exceptions.ResourceNotFoundException as error:
            raise NotFound(
                f"{self.name} has no function {function!r}, or it has never run; {self._known_functions()}"
            ) from error

    def _known_functions(self) -> str:
        """Name the functions of the stack, for a message."""
        if self._described() is None:
            return f"no stack is called {self.name!r} in {self._region()}"
        found = sorted(
            each.removeprefix(f"{self.name}-") for each in self._resources("AWS::Lambda::Function")
        )
        return f"its functions are: {listing(found, none='none')}"

    def _region(self) -> str:
        return f"this account and region ({self._stack.meta.region_name})"

    def _prepare(self, folder: Path, options: StackOptions) -> str:
        """Write the template, upload what it needs, and return the name of a change set that is ready."""
        template = synthesise(folder, options)
        bucket = upload_assets(folder, self.name, client=self._client)
        address = upload(bucket, f"template-{_digest(template)}.json", template, client=self._client)
        name = f"flowbed-{_digest(template)}"
        # One of that name is left where an earlier call was interrupted, or where it was carried out.
        with suppress(self._stack.exceptions.ClientError):
            self._stack.delete_change_set(StackName=self.name, ChangeSetName=name)
        self._stack.create_change_set(
            StackName=self.name,
            ChangeSetName=name,
            ChangeSetType="UPDATE" if self._exists() else "CREATE",
            TemplateURL=address,
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"],
        )
        self._ready(name)
        return name

    def _ready(self, change_set: str) -> None:
        from botocore.exceptions import WaiterError

        waiter = self._stack.get_waiter("change_set_create_complete")
        try:
            waiter.wait(
                StackName=self.name,
                ChangeSetName=change_set,
                WaiterConfig={"Delay": STEP, "MaxAttempts": STEPS},
            )
        except WaiterError as error:
            found = self._stack.describe_change_set(StackName=self.name, ChangeSetName=change_set)
            reason = found.get("StatusReason", "")
            # CloudFormation calls a change set without changes failed.
            if "didn't contain changes" in reason or "No updates" in reason:
                return
            raise Rejected(f"CloudFormation refuses the stack {self.name}: {reason or error}") from error

    def _changes(self, change_set: str) -> list[Change]:
        pages = self._stack.get_paginator("describe_change_set").paginate(
            StackName=self.name, ChangeSetName=change_set
        )
        return [
            Change(
                action=each["ResourceChange"]["Action"],
                resource=each["ResourceChange"]["LogicalResourceId"],
                kind=each["ResourceChange"]["ResourceType"],
                replaces=each["ResourceChange"].get("Replacement") == "True",
            )
            for page in pages
            for each in page.get("Changes", [])
        ]

    def _exists(self) -> bool:
        found = self._described()
        return found is not None and found["StackStatus"] != "REVIEW_IN_PROGRESS"

    def _described(self) -> Mapping[str, Any] | None:
        client = self._stack
        try:
            found = client.describe_stacks(StackName=self.name)["Stacks"]
        except client.exceptions.ClientError as error:
            if "does not exist" in str(error):
                return None
            raise
        return found[0] if found and found[0]["StackStatus"] != "DELETE_COMPLETE" else None

    def _require(self) -> Mapping[str, Any]:
        found = self._described()
        if found is None:
            raise NotFound(
                f"no stack is called {self.name!r} in {self._region()}: set AWS_REGION or --name, or flowbed aws deploy"
            )
        return found

    def _wait(self, event: str) -> None:
        from botocore.exceptions import WaiterError

        try:
            self._stack.get_waiter(event).wait(
                StackName=self.name, WaiterConfig={"Delay": STEP, "MaxAttempts": STEPS}
            )
        except WaiterError as error:
            raise Rejected(f"CloudFormation could not finish the stack {self.name}: {self._why()}") from error

    def _why(self) -> str:
        """Return the first reason that the events of the stack give for a failure."""
        events = self._stack.describe_stack_events(StackName=self.name)["StackEvents"]
        failed = [each for each in events if each["ResourceStatus"].endswith("FAILED")]
        if not failed:
            return "its events give no reason"
        first = failed[-1]
        return f"{first['LogicalResourceId']}: {first.get('ResourceStatusReason', first['ResourceStatus'])}"

    def _resources(self, kind: str) -> Iterator[str]:
        pages = self._stack.get_paginator("list_stack_resources").paginate(StackName=self.name)
        for page in pages:
            for each in page["StackResourceSummaries"]:
                if each["ResourceType"] == kind:
                    yield each["PhysicalResourceId"]

    def _queues(self) -> Iterator[tuple[str, int]]:
        client, wanted = self._client("sqs"), "ApproximateNumberOfMessages"
        for url in self._resources("AWS::SQS::Queue"):
            said = client.get_queue_attributes(QueueUrl=url, AttributeNames=[wanted])["Attributes"]
            yield url.rsplit("/", 1)[-1].removeprefix(f"{self.name}-"), int(said[wanted])

    def _executions(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        client = self._client("stepfunctions")
        for arn in self._resources("AWS::StepFunctions::StateMachine"):
            found = client.list_executions(stateMachineArn=arn, maxResults=EXECUTIONS)["executions"]
            name = arn.rsplit(":", 1)[-1].removeprefix(f"{self.name}-")
            yield name, tuple(each["status"] for each in found)

    def _alarms(self) -> Iterator[str]:
        # By name: those of the stack NAME-two begin with NAME- too.
        own = set(self._resources("AWS::CloudWatch::Alarm"))
        pages = (
            self._client("cloudwatch")
            .get_paginator("describe_alarms")
            .paginate(AlarmNamePrefix=f"{self.name}-", StateValue="ALARM")
        )
        for page in pages:
            for each in page["MetricAlarms"]:
                if each["AlarmName"] in own:
                    yield each["AlarmName"].removeprefix(f"{self.name}-")


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]
