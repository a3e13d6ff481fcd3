"""Every error Flowbed raises, on one page.

    Error
    ├── Transient        the same call may succeed later: it is retried with backoff
    │   ├── OutOfSpace   the disk is full: nothing written is lost, free space and run again
    │   ├── TooMany      a caller asks more often than it may: wait as long as the answer says
    │   │   └── QueueFull  too much of an account waits already: what is ahead has to end first
    │   └── Unavailable  a provider is known to be down: it is asked again when the answer says
    ├── Conflict         someone else wrote first: read again and decide again
    ├── Rejected         this input will never be accepted: it is recorded with its reason and passed over
    │   ├── NotFound     the thing named does not exist
    │   ├── Unauthorized no key, or none that is known: send one that is valid
    │   ├── Forbidden    the key may not do this: ask with one that may
    │   └── Exhausted    the key has used up its quota: ask again when a new one begins
    └── Misconfigured    stop and change a setting; the message names it

The class says what the caller may do; facts are attributes. Errors of vendor packages are translated where they arise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Error(Exception):
    """Anything that Flowbed raises on purpose.

    `perhaps_billed` says that a provider was sent what the call was about, and may bill it, though it brought nothing.
    """

    perhaps_billed = False


class Transient(Error):
    """The same call may succeed later; `retry_after` seconds is the other side's own advice, where it gave one."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        """Keep the advice beside the message."""
        super().__init__(message)
        self.retry_after = retry_after


class OutOfSpace(Transient):
    """The disk, or the quota on it, is full."""


class TooMany(Transient):
    """A caller asks more often than its rate limit lets it; `retry_after` says when there is room again."""


class QueueFull(TooMany):
    """The provider takes no more of an account's jobs until others of it have ended."""


class Unavailable(Transient):
    """The provider is known to be down, so that it was not asked; `retry_after` says when it is asked again."""


class Conflict(Error):
    """Someone else wrote first: read the present state and decide again."""


class Rejected(Error):
    """This input will never be accepted; `inputs` are its positions in the call, empty where they are not known.

    `param` is the field of a request that it is about, and `code` what programs know the error by, where they have one.
    """

    def __init__(
        self, message: str, *, inputs: Sequence[int] = (), param: str | None = None, code: str | None = None
    ) -> None:
        """Keep the facts beside the message."""
        super().__init__(message)
        self.inputs = tuple(inputs)
        self.param = param
        self.code = code


class NotFound(Rejected):
    """The thing named does not exist."""


class Unauthorized(Rejected):
    """No key was sent where one is needed, or one that is not known or was revoked."""


class Forbidden(Rejected):
    """The key is known, and may not do this."""


class Exhausted(Rejected):
    """The key has used up the quota of its tier; it gets a new one at midnight UTC."""


class Misconfigured(Error):
    """A setting has to change before this can work; the message names it and says what to do."""
