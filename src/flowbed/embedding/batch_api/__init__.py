"""What a provider's Batch API offers: work handed in as a file, done within hours, at a part of the price.

One protocol, spoken by a module for each vendor that has such an API. A job is the provider's word for what the
pipeline calls a submission.
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
    """On what terms jobs are taken.

    One job holds at most so many `texts` and `bytes` of input, and is answered within `seconds`; a job takes `tokens`
    of a queue that one account's jobs share, None where no limit is known. `price` is US dollars per million tokens.
    `account` names that account, at one address, without giving its key away. `cancels` says whether a job can be ended
    early.
    """

    texts: int
    bytes: int
    tokens: int | None
    seconds: int
    price: float
    account: str
    cancels: bool = True


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job as its provider tells of it.

    `total`, `done` and `failed` count lines, and `tokens` are what it was billed with in all, None where it does not
    say. `output` and `errors` name what `content` reads, empty where there is no such file. `reason` says why it failed
    as a whole, `lines` which lines of its input did (from 1) and why. `queue_full` says that it was turned away since
    too much of the account waits already: the same input may be taken later.
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
    """One line of what a job answered: the vector of the text of this `name`, of length 1, or why there is none.

    `tokens` is what it was billed with, None where the line does not say. `failure` is `transient`, `rejected` or
    `expired` (never worked on, and not billed); empty where there is a vector.
    """

    name: str
    vector: NDArray[np.float32] | None = None
    tokens: int | None = None
    failure: str = ""
    reason: str = ""


class BatchApi(Protocol):
    """One account's Batch API, for one model, in one space, for documents."""

    terms: JobTerms

    def line(self, name: str, text: str) -> bytes:
        """Write the line of input that asks for the vector of `text`, ended; `name` is 64 hex digits."""
        ...

    def parse_input(self, line: bytes) -> tuple[str, str]:
        """Read back the name and the text that a line of input was written for.

        Raises:
            Rejected: it is none.
        """
        ...

    async def submit(self, submission: str, read: Callable[[], AsyncIterator[bytes]], *, size: int) -> Job:
        """Hand in the input that `read` reads (anew each time), of `size` bytes, marked as that of `submission`.

        A file that an earlier try has uploaded is used again.

        Raises:
            Transient: it may have been taken all the same: `find` tells.
            Rejected: the input as a whole is refused.
            Misconfigured: no job can be made until a setting changes.
        """
        ...

    async def find(self, submission: str) -> Job | None:
        """Find the job that was made for `submission`, whether or not whoever made it has heard of it.

        One that a full queue turned away is none.

        Raises:
            Transient, Misconfigured: as `submit`.
        """
        ...

    async def retrieve(self, job: str) -> Job:
        """Ask how a job is.

        Raises:
            NotFound: the provider does not know it (any more).
            Transient, Misconfigured: as `submit`.
        """
        ...

    async def cancel(self, job: str) -> None:
        """Ask for the end of a job; that it has ended, `look` tells. One that has ended already is left as it is."""
        ...

    def download(self, file: str) -> AsyncIterator[bytes]:
        """Read a file of answers, piece by piece.

        Raises:
            NotFound: the provider has lost it.
            Transient: it broke off, or cannot be had now.
        """
        ...

    def parse_result(self, line: bytes) -> ResultLine:
        """Read one line of a file of answers.

        Raises:
            Rejected: it is none.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections to the provider."""
        ...
