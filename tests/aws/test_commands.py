"""`flowbed aws` in an environment that lacks something, and with names and values that are wrong."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import WaiterError

from flowbed.cli.app import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowbed.testing.aws import Emulator

REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
# Two functions, and an alarm.
TEMPLATE: dict[str, Any] = {
    "Resources": {
        **{
            name.title(): {
                "Type": "AWS::Lambda::Function",
                "Properties": {
                    "FunctionName": f"flowbed-{name}",
                    "Runtime": "python3.13",
                    "Handler": "index.handler",
                    "Role": "arn:aws:iam::000000000000:role/any",
                    "Code": {"ZipFile": "def handler(event, context): return event"},
                },
            }
            for name in ("compaction", "embedder")
        },
        "Alarm": {
            "Type": "AWS::CloudWatch::Alarm",
            "Properties": {
                "AlarmName": "flowbed-embedder-errors",
                "Namespace": "AWS/Lambda",
                "MetricName": "Errors",
                "Statistic": "Sum",
                "Period": 300,
                "EvaluationPeriods": 1,
                "Threshold": 0,
                "ComparisonOperator": "GreaterThanThreshold",
            },
        },
    }
}


@pytest.fixture
def account(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let the environment be that of an operator with an empty account; return what its clients are made with."""
    number = f"{uuid.uuid4().int % 10**12:012}"
    for name, value in aws.variables(account=number).items():
        monkeypatch.setenv(name, value)
    return aws.client(account=number)


@pytest.fixture
def flowbed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Call a command; return its status and what it printed."""

    def call(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        status = run(("aws", *arguments))
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return call


@pytest.mark.usefixtures("account")
def test_status_without_a_region_says_what_to_set(
    flowbed: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either variable of a region is enough: AWS's own programs differ in which they read."""
    for name in REGIONS:
        monkeypatch.delenv(name)
    status, said = flowbed("status")
    assert (status, "the region of AWS is not known: set AWS_REGION" in said) == (2, True), said
    for name in REGIONS:
        monkeypatch.setenv(name, "eu-west-3")
        assert "no stack is called 'flowbed' in this account and region (eu-west-3)" in flowbed("status")[1]
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("AWS_PROFILE", "absent", "the credentials of AWS cannot be used: The config profile (absent)"),
        (
            "AWS_SECRET_ACCESS_KEY",
            "",
            "cannot be used: Partial credentials found in env, missing: AWS_SECRET",
        ),
        ("AWS_DEFAULT_REGION", "eu west", "AWS takes no such request: Provided region_name 'eu west'"),
    ],
)
def test_status_with_an_unusable_variable_names_it(
    flowbed: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    says: str,
) -> None:
    monkeypatch.setenv(name, value)
    status, said = flowbed("status")
    assert (status, says in said) == (2, True), said


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("name", ["Flow", "flöw", "1flow", "-flow", "my flow", "f" * 40])
def test_deploy_invalid_stack_name_is_refused_before_packing(
    flowbed: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / "flowbed.toml").touch()
    monkeypatch.chdir(tmp_path)
    for command in (["status"], ["deploy", "--local"]):
        status, said = flowbed(*command, f"--name={name}")
        assert (status, "is no name for a stack" in said, "packing" in said) == (2, True, False), said


def test_wrong_function_is_not_found_and_the_functions_are_named(
    flowbed: Callable[..., tuple[int, str]], account: dict[str, str]
) -> None:
    """An alarm is only of the stack that made it, also where another stack's name begins alike."""
    assert "no stack is called 'flowbed' in this account" in flowbed("logs", "compaction")[1]
    stacks: Any = boto3.client("cloudformation", **account)
    stacks.create_stack(StackName="flowbed", TemplateBody=json.dumps(TEMPLATE))
    stacks.get_waiter("stack_create_complete").wait(StackName="flowbed", WaiterConfig={"Delay": 1})
    known = "its functions are: compaction, embedder"
    for command in ("invoke", "logs"):
        status, said = flowbed(command, "flowbed-compaction")
        assert (status, known in said) == (2, True), said
    status, said = flowbed("logs", "absent", "--minutes", str(10**12))
    assert (status, known in said) == (2, True), said
    watch: Any = boto3.client("cloudwatch", **account)
    alarm = TEMPLATE["Resources"]["Alarm"]["Properties"]
    watch.put_metric_alarm(**{**alarm, "AlarmName": "flowbed-two-embedder-errors"})
    for name in ("flowbed-embedder-errors", "flowbed-two-embedder-errors"):
        watch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="said so")
    status, said = flowbed("status", "--json")
    assert (status, json.loads(said)["alarms"]) == (0, ["embedder-errors"])


def test_deploy_after_a_first_one_that_failed_says_to_remove_it(
    flowbed: Callable[..., tuple[int, str]],
    account: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "flowbed.toml").touch()
    monkeypatch.chdir(tmp_path)
    stacks: Any = boto3.client("cloudformation", **account)
    nested = {"Type": "AWS::CloudFormation::Stack", "Properties": {"TemplateURL": "http://127.0.0.1:1/none"}}
    stacks.create_stack(StackName="flowbed", TemplateBody=json.dumps({"Resources": {"Nested": nested}}))
    with pytest.raises(WaiterError, match="ROLLBACK_COMPLETE"):
        stacks.get_waiter("stack_create_complete").wait(StackName="flowbed", WaiterConfig={"Delay": 1})
    for command in ("deploy", "diff"):
        status, said = flowbed(command, "--local")
        assert (status, "the first deployment of the stack flowbed failed: Nested: " in said) == (2, True), (
            said
        )
        assert "flowbed aws destroy --name flowbed, then deploy again" in said
    assert flowbed("destroy", "--yes")[0] == 0
    assert "the first deployment" not in flowbed("status")[1]


def test_event_nested_too_deeply_is_refused(flowbed: Callable[..., tuple[int, str]]) -> None:
    assert flowbed("invoke", "compaction", "[" * 100_000) == (
        2,
        "flowbed: the event is not JSON: nested too deeply\n",
    )


@pytest.mark.parametrize(
    "wrong",
    [("--lines", "1" + "0" * 400), ("--lines=1", "--tokens", "inf"), ("--lines=1", "--price", "1e308")],
)
def test_cost_of_numbers_beyond_any_volume_is_refused(
    flowbed: Callable[..., tuple[int, str]], wrong: tuple[str, ...]
) -> None:
    status, said = flowbed("cost", *wrong)
    assert (status, "less than or equal" in said) == (2, True), said
