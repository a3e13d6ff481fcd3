"""Every error Flowbed raises, on one page.

    Error
    ├── Transient        the same call may succeed later: it is retried with backoff
    │   └── OutOfSpace   the disk is full: nothing written is lost, free space and run again
    ├── Conflict         someone else wrote first: read again and decide again
    ├── Rejected         this input will never be accepted: it is recorded with its reason and passed over
    │   └── NotFound     the thing named does not exist
    └── Misconfigured    stop and change a setting; the message names it

The class says what the caller may do; facts are attributes. Errors of vendor packages are translated where they arise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Error(Exception):
    """Anything that Flowbed raises on purpose."""


class Transient(Error):
    """The same call may succeed later; `retry_after` seconds is the other side's own advice, where it gave one."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        """Keep the advice beside the message."""
        super().__init__(message)
        self.retry_after = retry_after


class OutOfSpace(Transient):
    """The disk, or the quota on it, is full."""


class Conflict(Error):
    """Someone else wrote first: read the present state and decide again."""


class Rejected(Error):
    """This input will never be accepted; `inputs` are its positions in the call, empty where they are not known."""

    def __init__(self, message: str, *, inputs: Sequence[int] = ()) -> None:
        """Keep the positions of the rejected inputs beside the message."""
        super().__init__(message)
        self.inputs = tuple(inputs)


class NotFound(Rejected):
    """The thing named does not exist."""


class Misconfigured(Error):
    """A setting has to change before this can work; the message names it and says what to do."""
