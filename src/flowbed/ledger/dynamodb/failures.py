"""What the errors of boto3 mean to the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured
from flowbed.ledger.items.table import ConditionFailed, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_THROTTLED = {
    "ProvisionedThroughputExceededException",
    "ProvisionedThroughputExceeded",  # of a statement, or of a part of a transaction
    "ThrottlingException",
    "ThrottlingError",
    "ThrottledException",
    "RequestLimitExceeded",
    "TransactionConflictException",
    "TransactionConflict",
    "TransactionInProgressException",
    "ReplicatedWriteConflictException",
}
_UNKNOWN = {"InternalServerError", "InternalFailure", "ServiceUnavailable", "ServiceUnavailableException"}
_DENIED = {
    "AccessDeniedException",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "IncompleteSignature",
    "ExpiredTokenException",
    "ExpiredToken",
}
_FAULT = 500  # HTTP: from here on the server is to blame


class Waits(Exception):  # noqa: N818 - the class says what to do
    """The request was certainly not carried out: repeat it later."""


class Missing(Misconfigured):
    """There is no such table."""


class Unfit(Misconfigured):
    """The table has other keys, or the request is one that DynamoDB never accepts."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which table: its name, and what boto3 would otherwise take from its own settings; `called` is for messages."""

    table: str
    region: str = ""
    endpoint: str = ""
    profile: str = ""
    called: str = "ledger"

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the {self.called} {self.url}"

    @property
    def url(self) -> str:
        """Its address, as in the setting `ledger`."""
        options = "&".join(f"{name}={value}" for name, value in (("region", self.region),) if value)
        return f"dynamodb://{self.table}" + (f"?{options}" if options else "")


def meaning(error: Exception, place: Place) -> Exception:
    """Return what an error means to the caller; one that is no error of botocore's means itself."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        return refusal(error.response, place)
    meanings: Sequence[tuple[Any, Callable[[], Exception]]] = [
        (
            (exceptions.NoCredentialsError, exceptions.PartialCredentialsError),
            lambda: Misconfigured(
                f"no credentials for {place.name} were found; set AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where a role provides them"
            ),
        ),
        (
            exceptions.NoRegionError,
            lambda: Misconfigured(
                f"the region of {place.name} is not known: write dynamodb://{place.table}?region=eu-west-1,"
                " or set AWS_REGION"
            ),
        ),
        (
            (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError),
            lambda: Waits(
                f"{place.name} cannot be reached: check the network, the region and the endpoint; nothing is"
                " lost, run again"
            ),
        ),
        (
            (exceptions.HTTPClientError, exceptions.ConnectionError),
            lambda: Unanswered(f"{place.name} did not answer"),
        ),
        (
            (exceptions.BotoCoreError, ValueError),
            lambda: Misconfigured(f"{place.name} cannot be used: {error}"),
        ),
    ]
    return next((made() for kind, made in meanings if isinstance(error, kind)), error)


def refusal(response: Mapping[str, Any], place: Place) -> Exception:
    """Return what an answer of DynamoDB that is an error means."""
    code, message = response["Error"]["Code"], response["Error"].get("Message", "")
    if code == "TransactionCanceledException":
        reasons = {reason.get("Code") for reason in response.get("CancellationReasons", [])}
        code = next(iter(reasons & _THROTTLED), "") if "ConditionalCheckFailed" not in reasons else ""
        code = code or "ConditionalCheckFailedException"
    if code in _UNKNOWN or response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= _FAULT:
        return Unanswered(f"{place.name} answered {code}")
    return refused(code, message, place)


def refused(code: str, message: str, place: Place) -> Exception:
    """Return what the code of a request, or of one statement of many, means."""
    where = place.name
    if code in _THROTTLED:
        return Waits(
            f"{where} is throttled ({code}): its table gets more requests than its capacity; run again, or raise its"
            " capacity"
        )
    if code in _DENIED:
        return Misconfigured(
            f"no permission for {where}: {message} ({code}); the credentials must be valid, and allow reading and"
            " writing the table"
        )
    known = {
        "ConditionalCheckFailedException": ConditionFailed(message),
        "ResourceNotFoundException": Missing(f"{where} does not exist: {message}"),
        "ValidationException": Unfit(f"{where} refused a request: {message}"),
    }
    return known.get(code, Misconfigured(f"{where} refused a request: {message} ({code})"))
