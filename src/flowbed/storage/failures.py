"""What the answers of a store mean, and how long it is asked again."""

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

# S3 answers 409 and 503 for moments, not for minutes.
SETTLED = timedelta(seconds=60)
CODE = re.compile(r"<Code>(\w+)</Code>")
DENIED = ("403 Forbidden", "<Code>ExpiredToken</Code>")


def first_line(error: Exception) -> str:
    """Shorten what obstore says: below its first line are S3's own answer, as XML, and obstore's insides."""
    said = str(error) or type(error).__name__
    line = said.splitlines()[0].partition(": <?xml")[0]
    code = CODE.search(said)
    return f"{line} ({code[1]})" if code else line


def require_sense(error: Exception, key: str, url: str) -> None:
    """Raise `Misconfigured` for what no other attempt will mend: its kinds are told apart only by their text."""
    said = str(error)
    why = f": {first_line(error)}"
    if "NoSuchBucket" in said:
        fault, why = f"there is no bucket for store {url}; make it, or set another store", ""
    elif "169.254.169.254" in said:
        fault = (
            f"no keys to store {url} were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
            " AWS_PROFILE, or run where a role gives them"
        )
    elif "incorrectly configured region" in said or "AuthorizationHeaderMalformed" in said:
        fault = f"the bucket of store {url} is in another region; set AWS_REGION"
    elif "501 Not Implemented" in said:
        fault = f"store {url} has no conditional writes; use one that has, such as Amazon S3, or a folder"
    elif isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or any(
        sign in said for sign in DENIED
    ):
        fault = (
            f"no permission for {key!r} in {url}; the keys have to be right and allow s3:GetObject,"
            " s3:PutObject, s3:DeleteObject and s3:ListBucket (without it, S3 says so of what is not there too)"
        )
    else:
        return
    raise Misconfigured(fault + why) from error


def attempts(*, on: type[Transient]) -> AsyncIterator[stamina.Attempt]:
    """Try, and try again while `on` is raised."""

    def again(error: Exception) -> bool:
        if not isinstance(error, on):
            return False
        reached(RETRIED, reason=str(error))
        return True

    return stamina.retry_context(
        on=again, attempts=None, timeout=SETTLED, wait_initial=0.05, wait_max=2.0, wait_jitter=0.1
    )


async def repeated(call: Callable[..., Awaitable[Answer]], *args: object) -> Answer:
    """Make a call that may be repeated as often as one likes."""
    async for attempt in attempts(on=Transient):
        with attempt:
            return await call(*args)
    raise AssertionError("unreachable: the last attempt returns or raises")
