"""The protocol of providers' Batch APIs: requests submitted as a file, answered within hours, at a reduced price.

A job is the provider's word for what the pipeline calls a submission.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray


JobState = Literal["running", "completed", "failed", "expired", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class JobTerms:
    """The terms of a Batch API.

    A job may have `texts` texts and `bytes` bytes of input, is answered within `seconds`, and takes `tokens` of a queue
    that all jobs of an account share (None if no limit is known). `price` is US dollars per million tokens. `account`
    identifies the account and its address without revealing the key, and `table` is that of the settings, below
    `providers`. `cancels` says whether a job can be cancelled.
    """

    texts: int
    bytes: int
    tokens: int | None
    seconds: int
    price: float
    account: str
    table: str
    cancels: bool = True


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job as its provider reports it.

    `total`, `done` and `failed` count lines; `tokens` are those billed in all, None if not reported. `output` and
    `errors` are files for `download`, empty if there is none. `reason` says why the job failed as a whole, `lines`
    which input lines failed (from 1) and why. `queue_full` says that it was turned away because too much of the account
    is queued: the same input may be accepted later.
    """

    id: str
    state: JobState
    total: int = 0
    done: int = 0
    failed: int = 0
    tokens: int | None = None
    output: str = ""
    errors: str = ""
    reason: str = ""
    lines: Mapping[int, str] = field(default_factory=dict)
    queue_full: bool = False


@dataclass(frozen=True, kw_only=True)
class ResultLine:
    """One line of a job's result: the vector, of length 1, for the text called `name`, or why there is none.

    `tokens` are those billed, None if the line does not say. `failure` is `transient`, `rejected` or `expired` (never
    processed, and not billed); empty if there is a vector.
    """

    name: str
    vector: NDArray[np.float32] | None = None
    tokens: int | None = None
    failure: str = ""
    reason: str = ""


class BatchApi(Protocol):
    """The Batch API of one account, for one model in one space, for documents."""

    terms: JobTerms

    def line(self, name: str, text: str) -> bytes:
        """Return the input line, with its newline, that requests the vector of `text`; `name` is 64 hex digits."""
        ...

    def parse_input(self, line: bytes) -> tuple[str, str]:
        """Return the name and the text that an input line was written for.

        Raises:
            Rejected: it is not an input line.
        """
        ...

    async def submit(self, submission: str, read: Callable[[], AsyncIterator[bytes]], *, size: int) -> Job:
        """Submit the input that each call of `read` reads, of `size` bytes, marked with `submission`.

        A file that an earlier attempt has uploaded is used again.

        Raises:
            Transient: the job may exist nevertheless: `find` tells.
            Rejected: the input as a whole is refused.
            Misconfigured: no job can be created until a setting changes.
        """
        ...

    async def find(self, submission: str) -> Job | None:
        """Find the job of `submission`, even if its creation was never confirmed; None without one.

        A job that a full queue turned away does not count.

        Raises:
            Transient, Misconfigured: as `submit`.
        """
        ...

    async def retrieve(self, job: str) -> Job:
        """Return the current state of a job.

        Raises:
            NotFound: the provider does not know it (any more).
            Transient, Misconfigured: as `submit`.
        """
        ...

    async def cancel(self, job: str) -> None:
        """Request the cancellation of a job, which changes nothing once it has ended; `retrieve` shows the end."""
        ...

    def download(self, file: str) -> AsyncIterator[bytes]:
        """Read a result file, piece by piece.

        Raises:
            NotFound: the provider has lost it.
            Transient: the download broke off, or is unavailable now.
        """
        ...

    def parse_result(self, line: bytes) -> ResultLine:
        """Parse one line of a result file.

        Raises:
            Rejected: it is not a result line.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections to the provider."""
        ...
