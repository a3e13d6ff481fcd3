"""Keys in AWS Secrets Manager."""

from __future__ import annotations

import json

from boto3.session import Session
from botocore.exceptions import BotoCoreError, ClientError

from flowbed.errors import Misconfigured, Transient

# Errors of AWS that a later call may not meet.
PASSING = {"InternalServiceError", "ThrottlingException"}


def read_secret(arn: str) -> str:
    """Return the key in a secret: its text, or the only value of a JSON object.

    Raises:
        Misconfigured: the secret cannot be read, or holds several values.
        Transient: it cannot be read now.
    """
    region = arn.split(":")[3]
    try:
        answer = Session().client("secretsmanager", region_name=region).get_secret_value(SecretId=arn)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in PASSING:
            raise Transient(f"secret {arn} cannot be read now: {code}") from error
        raise Misconfigured(
            f"secret {arn} cannot be read: {code}; give the function's role secretsmanager:GetSecretValue on it, or"
            " name another secret"
        ) from error
    except BotoCoreError as error:
        raise Transient(f"secret {arn} cannot be read now: {error}") from error
    text: str = answer.get("SecretString", "")
    try:
        said = json.loads(text)
    except ValueError:
        return text.strip()
    if not isinstance(said, dict):
        return text.strip()
    values = list(said.values())
    if len(values) != 1 or not isinstance(values[0], str):
        raise Misconfigured(f"secret {arn} holds {len(values)} values; it has to hold one key")
    return values[0].strip()
