"""Every error that Flowbed raises, on one page.

    Error
    ├── Transient        the same call may succeed later: it is retried with backoff
    │   ├── OutOfSpace   the disk is full: nothing written is lost; free space and run again
    │   ├── TooMany      a rate limit is exceeded: wait for `retry_after` seconds
    │   │   └── QueueFull  the provider's queue is full: other jobs have to end first
    │   └── Unavailable  a provider is known to be down: wait for `retry_after` seconds
    ├── Conflict         someone else wrote first: read again and decide again
    ├── Rejected         this input will never be accepted: it is recorded with its reason and skipped
    │   ├── Unreadable   a file without text to index: it is skipped, which is no failure
    │   ├── NotFound     the thing named does not exist
    │   ├── Unauthorized the key is missing, unknown or revoked: send a valid one
    │   ├── Forbidden    the key lacks the permission: use another one
    │   └── Exhausted    the quota of the key is used up: wait until it is renewed
    └── Misconfigured    a setting must change; the message names it
        ├── Damaged      what is stored cannot be read: restore it, or repair it as the message says
        └── Newer        a newer Flowbed wrote it: upgrade Flowbed

The class says what the caller can do; facts are attributes. Errors of vendor packages are translated where they occur.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Error(Exception):
    """Base class of all errors that Flowbed raises on purpose.

    `perhaps_billed` means that a request was sent to a provider, which may bill it although it gave no result.
    `perhaps_input` means that one text of the call may have caused it: the same call without that text may succeed.
    """

    perhaps_billed = False
    perhaps_input = False


class Transient(Error):
    """The same call may succeed later; `retry_after` is the number of seconds that the other side advised, if any."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        """Store the facts with the message."""
        super().__init__(message)
        self.retry_after = retry_after


class OutOfSpace(Transient):
    """The disk, or a quota on it, is full."""


class TooMany(Transient):
    """A caller exceeds its rate limit; `retry_after` says when there is room again."""


class QueueFull(TooMany):
    """The provider accepts no more jobs of an account until others have ended."""


class Unavailable(Transient):
    """The provider is known to be down, so no request was sent; `retry_after` says when it is tried again."""


class Conflict(Error):
    """Someone else wrote first: read the current state and decide again."""


class Rejected(Error):
    """This input will never be accepted; `inputs` are its positions in the call, empty if unknown.

    `param` is the field of the request concerned, and `code` a code for programs, if there is one.
    """

    def __init__(
        self, message: str, *, inputs: Sequence[int] = (), param: str | None = None, code: str | None = None
    ) -> None:
        """Store the facts with the message."""
        super().__init__(message)
        self.inputs = tuple(inputs)
        self.param = param
        self.code = code


class Unreadable(Rejected):
    """A file has no text that could be indexed, such as an encrypted one: it is skipped and reported."""


class NotFound(Rejected):
    """The thing named does not exist."""


class Unauthorized(Rejected):
    """The key is missing, unknown or revoked."""


class Forbidden(Rejected):
    """The key is valid, but lacks the permission."""


class Exhausted(Rejected):
    """The key has used up its tier's quota; it is renewed at midnight UTC."""


class Misconfigured(Error):
    """A setting has to change before this can work; the message names it and says how.

    `advice` is the end of the message that says how, where it is known apart from what happened.
    """

    def __init__(self, message: str, *, advice: str = "") -> None:
        """Join what happened and the advice."""
        super().__init__(f"{message}; {advice}" if advice else message)
        self.advice = advice


class Damaged(Misconfigured):
    """What is stored cannot be read: its bytes are not what was written; the message says how to repair it."""


class Newer(Misconfigured):
    """A newer Flowbed wrote it: it is healthy, and only an upgrade of Flowbed can read it."""
