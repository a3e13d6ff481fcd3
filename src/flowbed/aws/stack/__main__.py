"""Write templates and what they need into folders.

python -m flowbed.aws.stack FOLDER OPTIONS [FOLDER OPTIONS]..., with the options of `StackOptions` as JSON
"""

from __future__ import annotations

import json
import sys

from aws_cdk import Acknowledgment, App, CfnOutput, CliCredentialsStackSynthesizer, Stack, Tags, Validations
from cdk_nag import AwsSolutionsChecks

from flowbed.aws.stack.compute import compute
from flowbed.aws.stack.data import data
from flowbed.aws.stack.flow import connect
from flowbed.aws.stack.options import StackOptions
from flowbed.aws.stack.watching import watch

# Findings of cdk-nag that are meant, and why; `{store}` is the bucket's name in the template.
ACCEPTED = {
    "AwsSolutions-S1": "Access logs of the bucket would cost as much as the bucket; CloudTrail's data events do that.",
    "AwsSolutions-SMG4": "Keys of providers are changed where they are made, by hand.",
    "AwsSolutions-IAM5[Resource::<{store}.Arn>/*]": "Every object of the store, whose bucket holds nothing else.",
    "AwsSolutions-IAM5[Resource::*]": "X-Ray's calls and the delivery of logs have no names of resources.",
    "AwsSolutions-SQS3": "These are the queues of dead letters.",
    "AwsSolutions-L1": "Images name their own runtime.",
}


def synthesise(folder: str, options: StackOptions) -> None:
    """Write the template of a deployment, its assets and the report of its checks."""
    app = App(outdir=folder, analytics_reporting=False)
    stack = Stack(
        app,
        options.name,
        description="Flowbed: keeps an embedding index in step with its sources",
        synthesizer=CliCredentialsStackSynthesizer(
            file_assets_bucket_name=f"{options.name}-assets-${{AWS::AccountId}}"
        ),
    )
    given = data(stack, options)
    made = compute(stack, given, options)
    connect(stack, given, made, options)
    watch(stack, given, made, options)
    Tags.of(stack).add("application", options.name)
    for name, value in {
        "Bucket": given.bucket.bucket_name,
        "Table": given.table.table_name,
        **{
            f"{each.title().replace('_', '')}Arn": secret.secret_arn for each, secret in given.secrets.items()
        },
    }.items():
        CfnOutput(stack, f"{name}Output", value=value)
    if not options.local:
        Validations.of(app).add_plugins(AwsSolutionsChecks(app))
        store = stack.get_logical_id(given.store)
        accepted = [
            Acknowledgment(id=f"AwsSolutions::{rule.format(store=store)}", reason=reason)
            for rule, reason in ACCEPTED.items()
        ]
        Validations.of(stack).acknowledge(*accepted)
    app.synth()


if __name__ == "__main__":
    for folder, options in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        said = json.loads(options)
        secrets = tuple(said.get("secrets", ("OPENAI_API_KEY",)))
        synthesise(folder, StackOptions(**{**said, "secrets": secrets}))
