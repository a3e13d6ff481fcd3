"""What lasts, and what waits: the bucket, the ledger's table, queues with their dead letters, secrets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from aws_cdk import Duration, RemovalPolicy, SecretValue
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sqs as sqs

from flowbed.aws.stack.functions import LONGEST
from flowbed.ledger.dynamodb.table import INDEX, INDEX_PARTITION, INDEX_SORT, PARTITION, SORT, TTL

if TYPE_CHECKING:
    from constructs import Construct

    from flowbed.aws.stack.options import StackOptions

# A message stays invisible for six times as long as a function may take, as AWS advises, and is tried five times.
VISIBLE_AFTER, TRIES = 6 * LONGEST, 5
# A batch file is written before the ledger knows its chunks: the embedder need not look at once.
EMBED_AFTER = 15


@dataclass(frozen=True, kw_only=True)
class Data:
    """What functions read and write."""

    bucket: s3.Bucket
    store: s3.CfnBucket
    table: dynamodb.Table
    queues: dict[str, sqs.Queue]
    dead: dict[str, sqs.Queue]
    secrets: dict[str, secretsmanager.Secret]


def data(scope: Construct, options: StackOptions) -> Data:
    """Define them. In production the bucket, the table and the secrets outlive the stack."""
    # What a first deployment has made goes if it fails: the names of its secrets would keep the next one from working.
    kept = RemovalPolicy.DESTROY if options.local else RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE
    bucket, store = _bucket(scope, kept, options)
    queues, dead = {}, {}
    for name in ("batches", "compaction", "stream"):
        dead[name] = _queue(scope, f"{name}-dead", options, fifo=options.fifo and name == "compaction")
        if name != "stream":  # which only keeps what the stream's function gave up
            queues[name] = _queue(
                scope, name, options, fifo=options.fifo and name == "compaction", dead=dead[name]
            )
    return Data(
        bucket=bucket,
        store=store,
        table=_table(scope, kept),
        queues=queues,
        dead=dead,
        secrets={
            name: secretsmanager.Secret(
                scope,
                name.title().replace("_", ""),
                secret_name=f"{options.name}/{name}",
                description=f"{name} of {options.name}",
                # Nothing that a provider accepts: the key is put in after the first deployment.
                secret_string_value=SecretValue.unsafe_plain_text("not set yet"),
                removal_policy=kept,
            )
            for name in options.secrets
        },
    )


def _bucket(scope: Construct, kept: RemovalPolicy, options: StackOptions) -> tuple[s3.Bucket, s3.CfnBucket]:
    bucket = s3.Bucket(
        scope,
        "Store",
        encryption=s3.BucketEncryption.S3_MANAGED,
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        enforce_ssl=not options.local,  # the emulator speaks plain HTTP
        removal_policy=kept,
        lifecycle_rules=[s3.LifecycleRule(abort_incomplete_multipart_upload_after=Duration.days(1))],
    )
    # The construct for this would add a function and a role that set it.
    resource = cast("s3.CfnBucket", bucket.node.default_child)
    resource.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
        event_bridge_configuration=s3.CfnBucket.EventBridgeConfigurationProperty(event_bridge_enabled=True)
    )
    return bucket, resource


def _table(scope: Construct, kept: RemovalPolicy) -> dynamodb.Table:
    def text(name: str) -> dynamodb.Attribute:
        return dynamodb.Attribute(name=name, type=dynamodb.AttributeType.STRING)

    table = dynamodb.Table(
        scope,
        "Ledger",
        partition_key=text(PARTITION),
        sort_key=text(SORT),
        billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
        stream=dynamodb.StreamViewType.NEW_AND_OLD_IMAGES,
        time_to_live_attribute=TTL,
        point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
            point_in_time_recovery_enabled=True
        ),
        removal_policy=kept,
    )
    table.add_global_secondary_index(
        index_name=INDEX,
        partition_key=text(INDEX_PARTITION),
        sort_key=text(INDEX_SORT),
        projection_type=dynamodb.ProjectionType.KEYS_ONLY,
    )
    return table


def _queue(
    scope: Construct, name: str, options: StackOptions, *, fifo: bool, dead: sqs.Queue | None = None
) -> sqs.Queue:
    return sqs.Queue(
        scope,
        "".join(part.title() for part in name.split("-")) + "Queue",
        queue_name=f"{options.name}-{name}{'.fifo' if fifo else ''}",
        fifo=True if fifo else None,
        content_based_deduplication=True if fifo else None,
        enforce_ssl=not options.local,
        visibility_timeout=Duration.seconds(VISIBLE_AFTER),
        delivery_delay=Duration.seconds(EMBED_AFTER if name == "batches" and not options.local else 0),
        retention_period=Duration.days(14 if dead is None else 4),
        dead_letter_queue=None if dead is None else sqs.DeadLetterQueue(queue=dead, max_receive_count=TRIES),
    )
