"""Functions with a role each, and state machines."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aws_cdk import ArnFormat, Duration, RemovalPolicy, Size, Stack
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambdas
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as stepfunctions

from flowbed.aws.machines import FUNCTION, NAMES, definition
from flowbed.aws.stack.functions import (
    FUNCTIONS,
    LEDGER,
    LETTERS,
    RECEIPTS,
    RECEIPTS_INDEXES,
    RECEIPTS_WRITTEN,
    STORE,
)
from flowbed.aws.stack.options import require_image
from flowbed.ledger.dynamodb.table import INDEX

if TYPE_CHECKING:
    from constructs import Construct

    from flowbed.aws.stack.data import Data
    from flowbed.aws.stack.functions import FunctionSpec
    from flowbed.aws.stack.options import StackOptions

ARCHITECTURES = {"arm64": lambdas.Architecture.ARM_64, "x86_64": lambdas.Architecture.X86_64}


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What works."""

    functions: dict[str, lambdas.Function]
    machines: dict[str, stepfunctions.StateMachine]


def compute(scope: Construct, given: Data, options: StackOptions) -> Compute:
    """Define every function and every machine."""
    functions = {name: _function(scope, name, spec, given, options) for name, spec in FUNCTIONS.items()}
    return Compute(
        functions=functions, machines={name: _machine(scope, name, functions, options) for name in NAMES}
    )


def camel(name: str) -> str:
    """Return a name as CloudFormation writes those of resources."""
    return "".join(part.title() for part in re.split("[_-]", name))


def _function(
    scope: Construct, name: str, spec: FunctionSpec, given: Data, options: StackOptions
) -> lambdas.Function:
    group = logs.LogGroup(
        scope,
        f"{camel(name)}Log",
        log_group_name=f"/aws/lambda/{options.name}-{name}",
        retention=_retention(options.log_days),
        removal_policy=RemovalPolicy.DESTROY,
    )
    variables = {"S3_BUCKET": given.bucket.bucket_name, "DYNAMODB_TABLE_NAME": given.table.table_name}
    if spec.sends:
        variables["COMPACTION_QUEUE_URL"] = given.queues["compaction"].queue_url
    if spec.secrets:
        # The ARN, not the key: the function reads the key when it starts.
        variables |= {each: secret.secret_arn for each, secret in given.secrets.items()}
    code, runtime, handler = _code(scope, name, spec, options)
    return lambdas.Function(
        scope,
        f"{camel(name)}Function",
        function_name=f"{options.name}-{name}",
        code=code,
        runtime=runtime,
        handler=handler,
        architecture=None if options.local else ARCHITECTURES[options.architecture],
        memory_size=spec.memory,
        timeout=Duration.seconds(spec.seconds),
        ephemeral_storage_size=Size.mebibytes(spec.disk),
        environment=variables,
        role=_role(scope, name, spec, given, group, options),
        log_group=group,
        tracing=lambdas.Tracing.DISABLED if options.local else lambdas.Tracing.ACTIVE,
    )


def _code(
    scope: Construct, name: str, spec: FunctionSpec, options: StackOptions
) -> tuple[lambdas.Code, lambdas.Runtime, str]:
    handler = f"flowbed.aws.handlers.{name}.handler"
    if options.local:
        return lambdas.Code.from_asset(options.package), lambdas.Runtime.PROVIDED_AL2023, handler
    if spec.light:
        return lambdas.Code.from_asset(options.package), lambdas.Runtime.PYTHON_3_13, handler
    parts = require_image(options.image)
    found = scope.node.try_find_child("Images")
    repository = found or ecr.Repository.from_repository_attributes(
        scope,
        "Images",
        repository_name=parts["repository"],
        repository_arn=(
            f"arn:{Stack.of(scope).partition}:ecr:{parts['region']}:{parts['account']}:repository/{parts['repository']}"
        ),
    )
    code = lambdas.Code.from_ecr_image(repository, tag_or_digest=parts["tag"], cmd=[handler])
    return code, lambdas.Runtime.FROM_IMAGE, lambdas.Handler.FROM_IMAGE


def _role(
    scope: Construct, name: str, spec: FunctionSpec, given: Data, group: logs.LogGroup, options: StackOptions
) -> iam.Role:
    """Define a role that may do what its function does, and nothing else."""
    role = iam.Role(scope, f"{camel(name)}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))

    def may(*actions: str, on: list[str]) -> None:
        role.add_to_policy(iam.PolicyStatement(actions=list(actions), resources=on))

    may("logs:CreateLogStream", "logs:PutLogEvents", on=[group.log_group_arn])
    if spec.ledger == "letters":
        may(*(f"dynamodb:{each}" for each in LETTERS), on=[given.table.table_arn])
    else:
        may(*(f"s3:{each}" for each in STORE), on=[given.bucket.arn_for_objects("*")])
        may("s3:ListBucket", on=[given.bucket.bucket_arn])
        may(
            *(f"dynamodb:{each}" for each in LEDGER),
            on=[given.table.table_arn, f"{given.table.table_arn}/index/{INDEX}"],
        )
    for table, written in options.tables.items() if spec.receipts else ():
        arn = _table_arn(scope, table)
        indexes = [f"{arn}/index/{each}" for each in RECEIPTS_INDEXES]
        may(*(f"dynamodb:{each}" for each in RECEIPTS), on=[arn, *indexes])
        if written and spec.receipts == "write":
            may(*(f"dynamodb:{each}" for each in RECEIPTS_WRITTEN), on=[arn])
    if spec.ledger == "all" and options.local:
        # AWS asks for the four of PartiQL; the emulator asks for the name of the call, which names no table.
        may("dynamodb:BatchExecuteStatement", on=["*"])
    if spec.sends:
        # Of the second name the emulator asks; on AWS the first allows both.
        also = ("sqs:SendMessageBatch",) if options.local else ()
        may("sqs:SendMessage", *also, on=[given.queues["compaction"].queue_arn])
    if spec.secrets and given.secrets:
        may("secretsmanager:GetSecretValue", on=[secret.secret_arn for secret in given.secrets.values()])
    return role


def _table_arn(scope: Construct, table: str) -> str:
    """Return the ARN of an existing table of this account, given as NAME or REGION/NAME."""
    region, _, name = table.rpartition("/")
    arn: str = Stack.of(scope).format_arn(
        service="dynamodb", region=region or None, resource="table", resource_name=name
    )
    return arn


def _machine(
    scope: Construct, name: str, functions: dict[str, lambdas.Function], options: StackOptions
) -> stepfunctions.StateMachine:
    said = definition(name)
    needed = sorted(set(FUNCTION.findall(json.dumps(said))))
    group = logs.LogGroup(
        scope,
        f"{camel(name)}MachineLog",
        log_group_name=f"/aws/vendedlogs/states/{options.name}-{name}",
        retention=_retention(options.log_days),
        removal_policy=RemovalPolicy.DESTROY,
    )
    machine = stepfunctions.StateMachine(
        scope,
        f"{camel(name)}Machine",
        state_machine_name=f"{options.name}-{name}",
        definition_body=stepfunctions.DefinitionBody.from_string(json.dumps(said)),
        definition_substitutions={each: functions[each].function_arn for each in needed},
        tracing_enabled=not options.local,
        logs=None
        if options.local
        else stepfunctions.LogOptions(destination=group, level=stepfunctions.LogLevel.ALL),
    )
    machine.add_to_role_policy(
        iam.PolicyStatement(
            actions=["lambda:InvokeFunction"], resources=[functions[each].function_arn for each in needed]
        )
    )
    if "states:startExecution" in json.dumps(said):
        # Itself: by name, since a role cannot refer to a machine that waits for the role.
        own = Stack.of(scope).format_arn(
            service="states",
            resource="stateMachine",
            resource_name=f"{options.name}-{name}",
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        machine.add_to_role_policy(iam.PolicyStatement(actions=["states:StartExecution"], resources=[own]))
    return machine


def _retention(days: int) -> logs.RetentionDays:
    """Return the shortest time that CloudWatch knows and that is not shorter than `days`."""
    known = {
        1: logs.RetentionDays.ONE_DAY,
        7: logs.RetentionDays.ONE_WEEK,
        14: logs.RetentionDays.TWO_WEEKS,
        30: logs.RetentionDays.ONE_MONTH,
        90: logs.RetentionDays.THREE_MONTHS,
        365: logs.RetentionDays.ONE_YEAR,
    }
    return known[min((each for each in known if each >= days), default=365)]
