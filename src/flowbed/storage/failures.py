"""What the errors of a remote store mean, and how long they are retried."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import stamina
from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from flowbed.errors import Misconfigured, Transient
from flowbed.telemetry import RETRIED, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Answer = TypeVar("Answer")

# How long to retry: S3 answers 409 and 503 for moments, not for minutes.
RETRY_TIMEOUT = timedelta(seconds=60)
CODE = re.compile(r"<Code>(\w+)</Code>")
DENIED = ("403 Forbidden", "<Code>ExpiredToken</Code>")
# How long a request took: messages that differ only in this are one.
ELAPSED = re.compile(r" in [\d.]+(?:ns|µs|ms|s)\b")
# What obstore's error for a connection that was never made contains, and its causes in words.
NO_CONNECTION = "kind: Connect"
CAUSES = {
    "dns error": "its name is unknown",
    "ConnectionRefused": "nothing listens there",
    "Unreachable": "the network does not lead there",
    "certificate": "its certificate is not trusted",
    "InvalidContentType": "it does not speak TLS: is it http://?",
    "Timeout": "it does not answer",
    "TimedOut": "it does not answer",
}


def first_line(error: Exception) -> str:
    """Return the first line of obstore's message; below it are S3's answer, as XML, and obstore's internals."""
    text = str(error) or type(error).__name__
    line = ELAPSED.sub("", text.splitlines()[0].partition(": <?xml")[0])
    code = CODE.search(text)
    return f"{line} ({code[1]})" if code else line


def raise_if_permanent(error: Exception, key: str, url: str) -> None:
    """Raise `Misconfigured` for errors that no retry will fix; only their text tells them apart."""
    text = str(error)
    why = f": {first_line(error)}"
    if "NoSuchBucket" in text:
        fault, why = f"the bucket of store {url} does not exist; create it, or set another store", ""
    elif "169.254.169.254" in text:
        fault = (
            f"no credentials for store {url} were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
            " AWS_PROFILE, or run where a role provides them"
        )
    elif "incorrectly configured region" in text or "AuthorizationHeaderMalformed" in text:
        fault = f"the bucket of store {url} is in another region; set AWS_REGION"
    elif "501 Not Implemented" in text:
        fault = f"store {url} has no conditional writes; use one that has, such as Amazon S3, or a folder"
    elif isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or any(
        sign in text for sign in DENIED
    ):
        fault = (
            f"no permission for {key!r} in {url}; the credentials must be valid and allow s3:GetObject,"
            " s3:PutObject, s3:DeleteObject and s3:ListBucket (without it, S3 also denies access to objects that do"
            " not exist)"
        )
    else:
        return
    raise Misconfigured(fault + why) from error


def why_not_connected(error: BaseException | None) -> str | None:
    """Return why no connection was made, in words; None for an error of another kind."""
    text = str(error)
    if NO_CONNECTION not in text:
        return None
    return next((words for sign, words in CAUSES.items() if sign in text), "no connection was made")


def attempts(*, on: type[Transient]) -> AsyncIterator[stamina.Attempt]:
    """Retry a block while it raises `on`."""

    def should_retry(error: Exception) -> bool:
        if not isinstance(error, on):
            return False
        reached(RETRIED, reason=str(error))
        return True

    return stamina.retry_context(
        on=should_retry,
        attempts=None,
        timeout=RETRY_TIMEOUT,
        wait_initial=0.05,
        wait_max=2.0,
        wait_jitter=0.1,
    )


async def with_retries(call: Callable[..., Awaitable[Answer]], *args: object) -> Answer:
    """Make a call that is safe to repeat, with retries."""
    async for attempt in attempts(on=Transient):
        with attempt:
            return await call(*args)
    raise AssertionError("unreachable: the last attempt returns or raises")
