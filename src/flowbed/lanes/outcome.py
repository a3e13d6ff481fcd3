"""What became of texts that were to be embedded, whichever lane they went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from flowbed.lanes.failures import RunStats

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowbed.ledger import SubmissionRow


# Where the ledger keeps what was sent and brought nothing, in the place of a lane.
UNANSWERED = "unanswered"


class Paid(NamedTuple):
    """The tokens of one text that was sent: as they were counted before, and as they were billed."""

    planned: int
    billed: int


@dataclass
class Outcome:
    """What became of the texts of one run: a vector or a reason for each, by text_hash.

    `paid` are the texts that a provider was sent and answered; `perhaps_billed` has the tokens of each text that it was
    sent for nothing, as often as that happened. `held` are the texts that were not sent (again), since that
    would have passed the budget, or the provider is not to be asked for longer than a run waits, which `put_off` says.
    """

    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    truncated: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    put_off: str = ""
    paid: dict[str, Paid] = field(default_factory=dict)
    perhaps_billed: list[int] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """Count the distinct texts that a provider answered."""
        return len(self.paid)

    @property
    def planned(self) -> int:
        """Add up the tokens that they were counted to have."""
        return sum(each.planned for each in self.paid.values())

    @property
    def tokens(self) -> int:
        """Add up what they were billed with."""
        return sum(each.billed for each in self.paid.values())


@dataclass
class Polled:
    """What polling came to: what was laid down, the submissions that are still live, and those that have ended.

    What is `blocked` is live until a setting changes, and ends with no amount of waiting.
    """

    tally: RunStats = field(default_factory=RunStats)
    pending: list[SubmissionRow] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    ended: list[SubmissionRow] = field(default_factory=list)
