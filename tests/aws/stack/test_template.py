"""The template of a production deployment: what its checkers say, and what it must and must not have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbed.aws.machines import NAMES
from flowbed.aws.stack.functions import FUNCTIONS, LETTERS

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]
Resources = dict[str, list[dict[str, Any]]]
# CDK itself writes these dependencies, which do no harm.
OF_CDK = "W3005"


def test_template_passes_the_security_rules_of_cdk_nag(written: Path) -> None:
    (report,) = json.loads((written / "validation-report.json").read_text())["pluginReports"]
    assert (report["pluginName"], report["conclusion"]) == ("AwsSolutions", "success")


def test_template_with_other_choices_passes_the_same_rules(both: tuple[Path, Path]) -> None:
    (report,) = json.loads((both[1] / "validation-report.json").read_text())["pluginReports"]
    assert report["conclusion"] == "success"


def test_template_with_fifo_keeps_the_order_of_compaction_alone(others: Resources) -> None:
    """Such a queue allows no window and batches of ten, and its dead letters are in a queue of the same kind."""
    queues = {each["Properties"]["QueueName"]: each["Properties"] for each in others["AWS::SQS::Queue"]}
    assert {name for name, each in queues.items() if each.get("FifoQueue")} == {
        "flowbed-compaction.fifo",
        "flowbed-compaction-dead.fifo",
    }
    assert all(name.endswith(".fifo") == bool(each.get("FifoQueue")) for name, each in queues.items())
    (mapping,) = (
        each["Properties"]
        for each in others["AWS::Lambda::EventSourceMapping"]
        if each["Properties"].get("ScalingConfig") == {"MaximumConcurrency": 2}
    )
    assert mapping["BatchSize"] == 10
    assert "MaximumBatchingWindowInSeconds" not in mapping


def test_template_functions_run_on_the_processors_that_were_chosen(
    resources: Resources, others: Resources
) -> None:
    for made, architecture in ((resources, "arm64"), (others, "x86_64")):
        found = {tuple(each["Properties"]["Architectures"]) for each in made["AWS::Lambda::Function"]}
        assert found == {(architecture,)}


def test_template_roles_may_use_existing_tables_as_the_settings_say(others: Resources) -> None:
    """One table is read and written, the other read; functions without a part in receipts may do neither."""
    allowed: dict[str, set[tuple[str, bool]]] = {}
    for policy in others["AWS::IAM::Policy"]:
        role = policy["Properties"]["Roles"][0]["Ref"]
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            text = json.dumps(statement["Resource"])
            for table in ("receipts", "old"):
                if f":table/{table}" in text:
                    writes = "dynamodb:PutItem" in statement["Action"]
                    allowed.setdefault(role.partition("Role")[0], set()).add((table, writes))
    read = {("receipts", False), ("old", False)}
    assert allowed.pop("DataFetcher") == read
    assert set(allowed) == {
        "Compaction", "Embedder", "LinePolling", "ProcessReceiptRealtime", "SubmitOpenai", "WordPolling",
    }  # fmt: skip
    assert all(each == {*read, ("receipts", True)} for each in allowed.values())


def test_template_passes_the_linter_of_cloudformation(written: Path, in_cdk: Callable[..., Any]) -> None:
    done = in_cdk("cfn-lint", "--ignore-checks", OF_CDK, "-t", str(written / "flowbed.template.json"))
    assert (done.returncode, done.stdout) == (0, "")


def test_template_functions_have_the_memory_time_and_kind_of_the_table(resources: Resources) -> None:
    made = {
        each["Properties"]["FunctionName"]: each["Properties"] for each in resources["AWS::Lambda::Function"]
    }
    assert set(made) == {f"flowbed-{name}" for name in FUNCTIONS}
    for name, spec in FUNCTIONS.items():
        own = made[f"flowbed-{name}"]
        assert (own["MemorySize"], own["Timeout"], own["EphemeralStorage"]["Size"]) == (
            spec.memory,
            spec.seconds,
            spec.disk,
        )
        assert own.get("PackageType", "Zip") == ("Zip" if spec.light else "Image")
        assert own["TracingConfig"] == {"Mode": "Active"}


def test_template_keys_are_in_secrets_and_never_in_variables(resources: Resources) -> None:
    for each in resources["AWS::Lambda::Function"]:
        for name, value in each["Properties"]["Environment"]["Variables"].items():
            assert isinstance(value, dict) or not name.endswith("KEY"), (name, value)
    assert len(resources["AWS::SecretsManager::Secret"]) == 1


def test_template_roles_name_their_resources(resources: Resources) -> None:
    """Only X-Ray and the delivery of logs know no names; no role may remove a table, a bucket or a stack."""
    for policy in resources["AWS::IAM::Policy"]:
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert not any(action.endswith(":*") for action in actions)
            assert not {"dynamodb:DeleteTable", "s3:DeleteBucket"} & set(actions)
            if statement["Resource"] == "*":
                assert all(
                    action.startswith(("xray:", "logs:")) or action == "dynamodb:ListStreams"
                    for action in actions
                )


def test_template_stream_processor_may_record_dead_letters_and_nothing_else(resources: Resources) -> None:
    """It reads the stream, and writes neither the store nor the rest of the ledger's requests."""
    (policy,) = (
        each["Properties"]["PolicyDocument"]["Statement"]
        for each in resources["AWS::IAM::Policy"]
        if each["Properties"]["Roles"][0]["Ref"].startswith("StreamProcessorRole")
    )
    allowed = {action for each in policy for action in each["Action"] if isinstance(each["Action"], list)}
    assert not [action for action in allowed if action.startswith("s3:")]
    assert {action for action in allowed if action.startswith("dynamodb:")} == {
        *(f"dynamodb:{each}" for each in LETTERS),
        *(f"dynamodb:{each}" for each in ("DescribeStream", "GetRecords", "GetShardIterator")),
    }


def test_template_bucket_table_and_secrets_outlive_the_stack(resources: Resources) -> None:
    for kind in ("AWS::S3::Bucket", "AWS::DynamoDB::Table", "AWS::SecretsManager::Secret"):
        assert {each["DeletionPolicy"] for each in resources[kind]} == {"RetainExceptOnCreate"}, kind
        assert {each["UpdateReplacePolicy"] for each in resources[kind]} == {"Retain"}, kind
    (bucket,) = resources["AWS::S3::Bucket"]
    assert bucket["Properties"]["PublicAccessBlockConfiguration"]["BlockPublicAcls"] is True
    assert any(
        statement["Effect"] == "Deny" and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        for policy in resources["AWS::S3::BucketPolicy"]
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
    )


def test_template_queues_have_dead_letters_and_messages_outlast_a_function(resources: Resources) -> None:
    queues = {each["Properties"]["QueueName"]: each["Properties"] for each in resources["AWS::SQS::Queue"]}
    assert set(queues) == {
        f"flowbed-{name}"
        for name in ("batches", "batches-dead", "compaction", "compaction-dead", "stream-dead")
    }
    for name, queue in queues.items():
        assert ("RedrivePolicy" in queue) == (not name.endswith("-dead"))
        assert queue["VisibilityTimeout"] >= 6 * max(spec.seconds for spec in FUNCTIONS.values())


def test_template_queues_limit_functions_without_reserving_concurrency(resources: Resources) -> None:
    """With reserved concurrency a message that waits counts as tried, and ends among the dead letters."""
    assert all(
        "ReservedConcurrentExecutions" not in each["Properties"]
        for each in resources["AWS::Lambda::Function"]
    )
    limited = [
        each["Properties"]["ScalingConfig"]["MaximumConcurrency"]
        for each in resources["AWS::Lambda::EventSourceMapping"]
        if "ScalingConfig" in each["Properties"]
    ]
    assert sorted(limited) == [2, 10]


def test_template_schedules_fetch_and_poll(resources: Resources) -> None:
    said = {
        each["Properties"]["Name"]: each["Properties"]["ScheduleExpression"]
        for each in resources["AWS::Scheduler::Schedule"]
    }
    assert said == {
        "flowbed-data-fetcher": "rate(6 hours)",
        "flowbed-create-batches": "rate(6 hours)",
        "flowbed-poll-store": "rate(15 minutes)",
    }


def test_template_has_every_machine_and_an_alarm_for_each_way_to_be_stuck(resources: Resources) -> None:
    assert len(resources["AWS::StepFunctions::StateMachine"]) == len(NAMES)
    alarms = {
        each["Properties"]["AlarmName"].removeprefix("flowbed-")
        for each in resources["AWS::CloudWatch::Alarm"]
    }
    assert alarms >= {f"{name}-errors" for name in FUNCTIONS}
    assert alarms >= {f"{name}-failed" for name in NAMES}
    assert alarms >= {"batches-dead-letters", "compaction-oldest-message", "stream-behind"}
    assert all(each["Properties"]["AlarmActions"] for each in resources["AWS::CloudWatch::Alarm"])
    assert {each["Properties"]["RetentionInDays"] for each in resources["AWS::Logs::LogGroup"]} == {30}


def test_page_says_what_to_look_at_for_every_alarm(resources: Resources) -> None:
    """With a command, in its table of what is seen."""
    page = (
        (ROOT / "docs" / "aws.md")
        .read_text()
        .partition("## When something is wrong")[2]
        .partition("\n## ")[0]
    )
    rows = [row.split("|")[1:] for row in page.splitlines() if row.startswith("| ")][2:]
    assert [seen for seen, look, *_ in rows if not re.search("`(flowbed|aws) ", look)] == []
    named = re.findall(r"`(?:\.\.\.-)?([a-z-]+)`", "".join(seen for seen, *_ in rows if "alarm" in seen))
    for each in resources["AWS::CloudWatch::Alarm"]:
        name = each["Properties"]["AlarmName"]
        assert [end for end in named if name.endswith(end)], name


def test_template_dashboard_shows_functions_machines_queues_ledger_and_alarms(resources: Resources) -> None:
    (board,) = resources["AWS::CloudWatch::Dashboard"]
    assert board["Properties"]["DashboardName"] == "flowbed"
    body = json.dumps(board["Properties"]["DashboardBody"])
    shown = ("AWS/Lambda", "AWS/States", "AWS/SQS", "AWS/DynamoDB", "Alarms", "Dead letters")
    assert [each for each in shown if each not in body] == []


def test_template_machines_are_traced_and_log_what_they_do(resources: Resources) -> None:
    """An execution is found in X-Ray together with the functions that it called."""
    for each in resources["AWS::StepFunctions::StateMachine"]:
        assert each["Properties"]["TracingConfiguration"] == {"Enabled": True}
        assert each["Properties"]["LoggingConfiguration"]["Level"] == "ALL"
