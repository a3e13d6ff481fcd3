"""Alarms and a dashboard: what is stuck, what fails, what is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions

from flowbed.aws.stack.compute import camel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from constructs import Construct

    from flowbed.aws.stack.compute import Compute
    from flowbed.aws.stack.data import Data
    from flowbed.aws.stack.options import StackOptions

# Seconds that a message may wait before somebody should look: longer than a busy queue takes.
OLDEST_MESSAGE = 3_600
# Milliseconds that the stream's function may be behind.
BEHIND = 600_000
PERIOD = 5  # minutes


class _Watched(NamedTuple):
    """A figure that should not be above a threshold, and what it means if it is."""

    name: str
    metric: cloudwatch.IMetric
    above: float
    meaning: str


def watch(scope: Construct, given: Data, compute: Compute, options: StackOptions) -> None:
    """Define an alarm for each way to be stuck, and a dashboard of the same figures."""
    topic = None
    if options.alarm_email:
        topic = sns.Topic(scope, "Alarms", topic_name=f"{options.name}-alarms", enforce_ssl=True)
        topic.add_subscription(subscriptions.EmailSubscription(options.alarm_email))
    alarms = []
    for each in _watched(given, compute):
        alarm = cloudwatch.Alarm(
            scope,
            f"{camel(each.name)}Alarm",
            alarm_name=f"{options.name}-{each.name}",
            alarm_description=each.meaning,
            metric=each.metric,
            threshold=each.above,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        if topic is not None:
            alarm.add_alarm_action(actions.SnsAction(topic))
        alarms.append(alarm)
    _dashboard(scope, given, compute, options, alarms)


def _watched(given: Data, compute: Compute) -> Iterator[_Watched]:
    period = Duration.minutes(PERIOD)
    for name, queue in given.dead.items():
        letters = queue.metric_approximate_number_of_messages_visible(period=period)
        yield _Watched(
            f"{name}-dead-letters",
            letters,
            0,
            "Messages failed five times. Read them: flowbed aws status; flowbed dead-letters list",
        )
    for name, queue in given.queues.items():
        oldest = queue.metric_approximate_age_of_oldest_message(period=period)
        meaning = "The queue is not worked off: look at the log of its function"
        yield _Watched(f"{name}-oldest-message", oldest, OLDEST_MESSAGE, meaning)
    for name, function in compute.functions.items():
        failed, throttled = function.metric_errors(period=period), function.metric_throttles(period=period)
        yield _Watched(f"{name}-errors", failed, 0, f"The function failed: flowbed aws logs {name}")
        yield _Watched(f"{name}-throttles", throttled, 0, "The account's concurrency is used up")
    for name, machine in compute.machines.items():
        ended = machine.metric_failed(period=period)
        yield _Watched(f"{name}-failed", ended, 0, "An execution failed: flowbed aws status")
    age = compute.functions["stream_processor"].metric("IteratorAge", statistic="max", period=period)
    yield _Watched("stream-behind", age, BEHIND, "The stream of the ledger is read too slowly")


def _dashboard(
    scope: Construct, given: Data, compute: Compute, options: StackOptions, alarms: list[cloudwatch.Alarm]
) -> None:
    board = cloudwatch.Dashboard(scope, "Dashboard", dashboard_name=options.name)

    def graph(title: str, metrics: list[cloudwatch.IMetric]) -> cloudwatch.GraphWidget:
        return cloudwatch.GraphWidget(title=title, left=metrics, width=8)

    functions, machines = compute.functions.values(), compute.machines.values()
    board.add_widgets(cloudwatch.AlarmStatusWidget(alarms=alarms, width=24, title="Alarms"))
    board.add_widgets(
        graph("Calls", [each.metric_invocations() for each in functions]),
        graph("Errors", [each.metric_errors() for each in functions]),
        graph("Duration, 95 %", [each.metric_duration(statistic="p95") for each in functions]),
    )
    board.add_widgets(
        graph(
            "Messages that wait",
            [each.metric_approximate_number_of_messages_visible() for each in given.queues.values()],
        ),
        graph(
            "Dead letters",
            [each.metric_approximate_number_of_messages_visible() for each in given.dead.values()],
        ),
        graph("Executions", [each.metric_started() for each in machines]),
    )
    board.add_widgets(
        graph("Writes of the ledger", [given.table.metric_consumed_write_capacity_units()]),
        graph("Reads of the ledger", [given.table.metric_consumed_read_capacity_units()]),
        graph("Executions that failed", [each.metric_failed() for each in machines]),
    )
