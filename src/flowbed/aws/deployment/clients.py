"""Clients of AWS with the credentials and the region of the environment, whose errors are those of Flowbed's tree."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flowbed.aws.stack.functions import LONGEST
from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.settings import deployment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Seconds that an answer may take beside the time of the function itself.
ANSWERING = 30
# Answers of AWS that say to come again.
SERVER_ERROR, THROTTLING = 500, ("Throttl", "TooManyRequests")


@contextmanager
def translated() -> Iterator[None]:
    """Raise what AWS refuses, and what its client cannot do, as an error of Flowbed's tree."""
    from botocore import exceptions
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code, answer = error.response["Error"]["Code"], error.response["ResponseMetadata"]
        if answer["HTTPStatusCode"] >= SERVER_ERROR or any(each in code for each in THROTTLING):
            raise Transient(f"AWS cannot do that now; try again: {error}") from error
        raise Rejected(f"AWS refuses: {error}") from error
    except exceptions.NoRegionError as error:
        raise Misconfigured(
            "the region of AWS is not known: set AWS_REGION, or `region` in the profile of AWS_PROFILE"
        ) from error
    except (exceptions.PartialCredentialsError, exceptions.ProfileNotFound) as error:
        raise Misconfigured(
            f"the credentials of AWS cannot be used: {error}; correct AWS_PROFILE or the keys"
        ) from error
    except (exceptions.InvalidRegionError, exceptions.ParamValidationError) as error:
        raise Rejected(f"AWS takes no such request: {error}") from error
    except BotoCoreError as error:
        raise Transient(f"AWS cannot be asked now: {error}") from error


def environment_client(endpoint: str | None = None) -> Callable[[str], Any]:
    """Return what makes clients with the credentials and the region of the environment.

    Raises:
        Misconfigured: boto3 is not installed, or the environment names no region, or credentials that are none.
        Transient: there are no credentials now.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise Misconfigured("boto3 is not installed: pip install 'flowbed[aws]'") from error
    # Of the two variables for a region, boto3 reads AWS_DEFAULT_REGION alone.
    with translated():
        session = boto3.Session()
        if not session.region_name and (region := deployment().region):
            session = boto3.Session(region_name=region)
        found = session.get_credentials()
    if found is None:
        raise Transient("no credentials of AWS were found: log in, or set AWS_PROFILE")
    # The client's own patience is a minute, after which it would call a function again that still works.
    patient = {"lambda": Config(read_timeout=LONGEST + ANSWERING)}

    @translated()
    def client(service: str) -> Any:
        return session.client(service, endpoint_url=endpoint, config=patient.get(service))

    return client
