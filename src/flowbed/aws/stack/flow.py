"""What calls what: events of the bucket, queues, the ledger's stream, and schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Duration
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambdas
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_scheduler as scheduler

from flowbed.aws.stack.compute import camel

if TYPE_CHECKING:
    from constructs import Construct

    from flowbed.aws.stack.compute import Compute
    from flowbed.aws.stack.data import Data
    from flowbed.aws.stack.options import StackOptions

# Functions that one queue keeps busy at once, two at least. With reserved concurrency in its place, a message that
# waits for a function would count as a try.
COMPACTIONS, EMBEDDERS = 2, 10
# Records of a run in the ledger's stream, as its rows are written.
RUNS = {"dynamodb": {"NewImage": {"record": {"S": ["RunRow"]}}}}
# CloudFormation knows these as the largest numbers of tries and seconds of an event that a rule could not deliver.
DELIVERY_HOURS, DELIVERY_TRIES = 24, 185


def connect(scope: Construct, given: Data, compute: Compute, options: StackOptions) -> None:
    """Let batch files reach the embedder, runs the compaction, and the clock the rest."""
    functions = compute.functions
    functions["embedder"].add_event_source(
        sources.SqsEventSource(
            given.queues["batches"],
            batch_size=10,
            report_batch_item_failures=True,
            max_concurrency=EMBEDDERS,
        )
    )
    functions["compaction"].add_event_source(
        sources.SqsEventSource(
            given.queues["compaction"],
            # One commit for many runs. A queue that keeps order gives ten messages at most, and none of them waits.
            batch_size=10 if options.fifo else 100,
            max_batching_window=None if options.fifo else Duration.seconds(5),
            report_batch_item_failures=True,
            max_concurrency=COMPACTIONS,
        )
    )
    functions["stream_processor"].add_event_source(
        sources.DynamoEventSource(
            given.table,
            starting_position=lambdas.StartingPosition.TRIM_HORIZON,
            batch_size=100,
            filters=[lambdas.FilterCriteria.filter(RUNS)],
            retry_attempts=3,
            bisect_batch_on_error=True,
            report_batch_item_failures=True,
            on_failure=sources.SqsDlq(given.dead["stream"]),
        )
    )
    rule = events.Rule(
        scope,
        "BatchFiles",
        rule_name=f"{options.name}-batch-files",
        event_pattern=events.EventPattern(
            source=["aws.s3"],
            detail_type=["Object Created"],
            detail={
                "bucket": {"name": [given.bucket.bucket_name]},
                "object": {"key": [{"wildcard": "*/chunked/*.json"}, {"wildcard": "*/chunked/*.json.zst"}]},
            },
        ),
    )
    rule.add_target(
        targets.SqsQueue(
            given.queues["batches"],
            dead_letter_queue=given.dead["batches"],
            max_event_age=Duration.hours(DELIVERY_HOURS),
            retry_attempts=DELIVERY_TRIES,
        )
    )
    _schedule(scope, compute, options)


def _schedule(scope: Construct, compute: Compute, options: StackOptions) -> None:
    """Fetch and gather every some hours, and look at the provider every some minutes."""
    fetcher = compute.functions["data_fetcher"]
    machines = compute.machines
    role = iam.Role(scope, "ScheduleRole", assumed_by=iam.ServicePrincipal("scheduler.amazonaws.com"))
    role.add_to_policy(
        iam.PolicyStatement(actions=["lambda:InvokeFunction"], resources=[fetcher.function_arn])
    )
    role.add_to_policy(
        iam.PolicyStatement(
            actions=["states:StartExecution"],
            resources=[machines[name].state_machine_arn for name in ("create-batches", "poll-store")],
        )
    )
    for name, target, rate in (
        ("data_fetcher", fetcher.function_arn, f"rate({options.fetch_hours} hours)"),
        (
            "create-batches",
            machines["create-batches"].state_machine_arn,
            f"rate({options.fetch_hours} hours)",
        ),
        ("poll-store", machines["poll-store"].state_machine_arn, f"rate({options.poll_minutes} minutes)"),
    ):
        scheduler.CfnSchedule(
            scope,
            f"{camel(name)}Schedule",
            name=f"{options.name}-{name.replace('_', '-')}",
            schedule_expression=rate.replace("(1 hours)", "(1 hour)").replace("(1 minutes)", "(1 minute)"),
            flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(
                mode="FLEXIBLE", maximum_window_in_minutes=5
            ),
            target=scheduler.CfnSchedule.TargetProperty(arn=target, role_arn=role.role_arn, input="{}"),
        )
